//! Directed rounding from results rounded to nearest: the sign of what was lost says which neighbour to take.

use super::float::{double, from_double, from_single, single};

/// A rounding direction. To nearest, ties to even, is what Rust's own operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Direction {
    pub fn named(name: &str) -> Option<Direction> {
        Some(match name {
            "rn" | "rni" => Direction::Nearest,
            "rz" | "rzi" => Direction::Zero,
            "rm" | "rmi" => Direction::Down,
            "rp" | "rpi" => Direction::Up,
            _ => return None,
        })
    }
}

macro_rules! directed {
    ($name:ident, $float:ty) => {
        /// Moves `nearest` by one place where the exact value, which differs from it by something of the sign of
        /// `residual`, lies on the other side.
        pub(crate) fn $name(nearest: $float, residual: f64, direction: Direction) -> $float {
            let below = residual < 0.0;
            let above = residual > 0.0;
            match direction {
                _ if nearest.is_nan() => nearest,
                Direction::Down if below => nearest.next_down(),
                Direction::Up if above => nearest.next_up(),
                Direction::Zero if below && nearest > 0.0 => nearest.next_down(),
                Direction::Zero if above && nearest < 0.0 => nearest.next_up(),
                _ => nearest,
            }
        }
    };
}

directed!(direct_single, f32);
directed!(direct_double, f64);

/// `a + b` in double precision and the exact rest.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// The sign of `a * b + c - result`, in single precision, where the product is exact in double precision.
fn residual_single(a: f64, b: f64, c: f64, result: f32) -> f64 {
    let (sum, rest) = two_sum(a * b, c);
    let difference = sum - f64::from(result);
    if difference == 0.0 { rest } else { difference }
}

fn exact_zero_sign(direction: Direction, positive: f32, exact_cancel: bool) -> f32 {
    if exact_cancel && direction == Direction::Down { -0.0 } else { positive }
}

/// `a * b + c`, rounded once.
pub(crate) fn fused_single(a: u64, b: u64, c: u64, direction: Direction) -> u64 {
    let (a, b, c) = (single(a), single(b), single(c));
    let nearest = a.mul_add(b, c);
    if direction == Direction::Nearest || (nearest.is_infinite() && !(a.is_finite() && b.is_finite() && c.is_finite())) {
        return from_single(nearest);
    }
    let residual = residual_single(f64::from(a), f64::from(b), f64::from(c), nearest);
    let cancelled = nearest == 0.0 && residual == 0.0 && c != 0.0;
    from_single(exact_zero_sign(direction, direct_single(nearest, residual, direction), cancelled))
}

/// `a * b + c`, rounded once, in double precision. The rest is exact unless it underflows.
pub(crate) fn fused_double(a: u64, b: u64, c: u64, direction: Direction) -> u64 {
    let (a, b, c) = (double(a), double(b), double(c));
    let nearest = a.mul_add(b, c);
    if direction == Direction::Nearest || (nearest.is_infinite() && !(a.is_finite() && b.is_finite() && c.is_finite())) {
        return from_double(nearest);
    }
    let product = a * b;
    let product_rest = a.mul_add(b, -product);
    let (sum, sum_rest) = two_sum(product, c);
    let residual = if nearest.is_infinite() { -nearest } else { (sum - nearest) + (sum_rest + product_rest) };
    from_double(direct_double(nearest, residual, direction))
}

/// `a / b` in single precision.
pub(crate) fn quotient_single(a: u64, b: u64, direction: Direction) -> u64 {
    let (a, b) = (single(a), single(b));
    let nearest = a / b;
    if direction == Direction::Nearest || b == 0.0 || !a.is_finite() || !b.is_finite() {
        return from_single(nearest);
    }
    let residual = if nearest.is_infinite() {
        f64::from(-nearest)
    } else {
        (-f64::from(nearest)).mul_add(f64::from(b), f64::from(a)) * f64::from(b.signum())
    };
    from_single(direct_single(nearest, residual, direction))
}

/// `a / b` in double precision.
pub(crate) fn quotient_double(a: u64, b: u64, direction: Direction) -> u64 {
    let (a, b) = (double(a), double(b));
    let nearest = a / b;
    if direction == Direction::Nearest || b == 0.0 || !a.is_finite() || !b.is_finite() {
        return from_double(nearest);
    }
    let residual = if nearest.is_infinite() { -nearest } else { (-nearest).mul_add(b, a) * b.signum() };
    from_double(direct_double(nearest, residual, direction))
}

/// The square root in single precision.
pub(crate) fn root_single(a: u64, direction: Direction) -> u64 {
    let value = single(a);
    let nearest = value.sqrt();
    let residual = (-f64::from(nearest)).mul_add(f64::from(nearest), f64::from(value));
    from_single(direct_single(nearest, residual, direction))
}

/// The square root in double precision.
pub(crate) fn root_double(a: u64, direction: Direction) -> u64 {
    let value = double(a);
    let nearest = value.sqrt();
    let residual = (-nearest).mul_add(nearest, value);
    from_double(direct_double(nearest, residual, direction))
}
