//! The float32 functions against float64.

use crate::elementwise::Operation;
use crate::elementwise::functions::apply;
use crate::elementwise::scalar::Host;

fn one(operation: Operation, operands: &[f32]) -> f32 {
    apply(&mut Host, operation, operands).unwrap()
}

/// Distance in units of the last place of the exact result.
fn ulps(found: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if found.is_nan() && exact.is_nan() || found == rounded {
        return 0.0;
    }
    let place =
        f64::from(rounded.abs().max(f32::MIN_POSITIVE).next_up()) - f64::from(rounded.abs().max(f32::MIN_POSITIVE));
    (f64::from(found) - exact).abs() / place
}

/// Every 4096th bit pattern and some around the ends.
fn sweep() -> impl Iterator<Item = f32> {
    let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0, f32::MIN_POSITIVE, f32::MAX];
    (0..1 << 20).map(|i: u32| f32::from_bits((i << 12) + i % 4096)).chain(special)
}

fn worst(operation: Operation, exact: impl Fn(f64) -> f64) -> (f64, f32) {
    sweep().fold((0.0, 0.0), |worst, x| {
        let distance = ulps(one(operation, &[x]), exact(f64::from(x)));
        if distance > worst.0 || distance.is_nan() { (distance, x) } else { worst }
    })
}

/// Abramowitz and Stegun's series and continued fraction, in float64.
fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    let value = if magnitude < 3.0 {
        let (mut term, mut sum) = (magnitude, magnitude);
        for n in 1..100 {
            term *= -magnitude * magnitude / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let tail = (1..80).rev().fold(0.0, |tail, n| f64::from(n) / 2.0 / (magnitude + tail));
        1.0 - (-magnitude * magnitude).exp() / (magnitude + tail) / std::f64::consts::PI.sqrt()
    };
    if x.is_nan() { x } else { value.copysign(x) }
}

#[test]
fn functions_are_accurate_over_the_whole_range() {
    type Exact = fn(f64) -> f64;
    let bounds: [(Operation, Exact, f64); 8] = [
        (Operation::Exp, f64::exp, 1.1),
        (Operation::Log, f64::ln, 1.1),
        (Operation::Tanh, f64::tanh, 2.0),
        (Operation::Erf, erf, 2.0),
        (Operation::Sine, f64::sin, 2.5),
        (Operation::Cosine, f64::cos, 2.5),
        (Operation::ReciprocalSquareRoot, |x| 1.0 / x.sqrt(), 1.6),
        (Operation::SquareRoot, f64::sqrt, 0.51),
    ];
    for (operation, exact, bound) in bounds {
        let (distance, x) = worst(operation, exact);
        assert!(distance <= bound, "{operation:?} of {x:e} is {distance:.2} ulp off");
    }
    for x in sweep().filter(|x| *x > -87.0 || x.is_nan()) {
        let distance = ulps(one(Operation::Sigmoid, &[x]), 1.0 / (1.0 + (-f64::from(x)).exp()));
        assert!(distance <= 3.0, "Sigmoid of {x:e} is {distance:.2} ulp off");
    }
    assert_eq!(one(Operation::Sigmoid, &[f32::NEG_INFINITY]), 0.0);
}

#[test]
fn powers_are_accurate_and_their_special_cases_are_those_of_c() {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    for i in 0..400_000 {
        let x = if i % 2 == 0 { (random() * 200.0 - 100.0).exp2() } else { 1.0 + (random() - 0.5) * 0.01 } as f32;
        let y = ((random() * 300.0 - 150.0) / f64::from(x).log2().abs().max(1e-3)) as f32;
        let distance = ulps(one(Operation::Power, &[x, y]), f64::from(x).powf(f64::from(y)));
        assert!(distance <= 4.0, "{x:e} to the power {y:e} is {distance:.2} ulp off");
    }
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        3.0,
        -3.0,
        0.5,
        -0.5,
        1e-45,
        -1e-45,
        3e38,
        -3e38,
        16_777_217.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for x in special {
        for y in special {
            let (found, exact) = (one(Operation::Power, &[x, y]), f64::from(x).powf(f64::from(y)) as f32);
            let same = found.is_nan() && exact.is_nan()
                || ulps(found, f64::from(exact)) <= 2.0 && found.is_sign_negative() == exact.is_sign_negative();
            assert!(same, "{x:e} to the power {y:e} is {found:e}, expected {exact:e}");
        }
    }
}

/// Near multiples of π/2, where little is left of the argument, and the float nearest to one of them (Muller, "Elementary
/// functions", table 11.1).
#[test]
fn sines_are_accurate_near_their_zeros() {
    let multiples = (1..2_000_000u32).map(|k| (f64::from(k) * std::f64::consts::FRAC_PI_2) as f32);
    for x in multiples.flat_map(|x| [x, x.next_up(), -x]).chain([16_367_173.0 * 2f32.powi(72)]) {
        let wide = f64::from(x);
        for (operation, exact) in [(Operation::Sine, wide.sin()), (Operation::Cosine, wide.cos())] {
            let distance = ulps(one(operation, &[x]), exact);
            assert!(distance <= 2.5, "{operation:?} of {x:e} is {distance:.2} ulp off");
        }
    }
    assert!(one(Operation::Sine, &[-0.0]).is_sign_negative() && one(Operation::Cosine, &[0.0]) == 1.0);
    assert!([Operation::Sine, Operation::Cosine].iter().all(|f| one(*f, &[f32::INFINITY]).is_nan()));
}

#[test]
fn extremes_and_signs_keep_nan() {
    use Operation::*;
    let nan = f32::NAN;
    for operands in [[nan, 1.0], [1.0, nan], [nan, nan]] {
        assert!(one(Maximum, &operands).is_nan() && one(Minimum, &operands).is_nan());
    }
    assert!([Relu, Sign, Exp, Log, Tanh, Sigmoid, Erf, Sine, Cosine, Round].iter().all(|f| one(*f, &[nan]).is_nan()));
    assert_eq!([-2.0, 0.0, 3.0].map(|x| one(Sign, &[x])), [-1.0, 0.0, 1.0]);
    assert_eq!([-2.0, 0.0, 3.0].map(|x| one(Relu, &[x])), [0.0, 0.0, 3.0]);
    assert_eq!([0.5, 1.5, 2.5, -0.5].map(|x| one(Round, &[x])), [0.0, 2.0, 2.0, 0.0]);
}
