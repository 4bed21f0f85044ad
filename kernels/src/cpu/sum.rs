//! Sums in one fixed order that the compiler can vectorise.

const LANES: usize = 16;

/// Elements whose float32 lane sums are added up before they are widened.
const CHUNK: usize = 1024;

/// `Σ f(x)` with 16 running float32 sums over chunks of 1024 elements and float64 from there on.
pub(crate) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.0;
    for chunk in x.chunks(CHUNK) {
        let mut lanes = [0.0f32; LANES];
        let rows = chunk.chunks_exact(LANES);
        let rest = rows.remainder();
        for row in rows {
            for (lane, x) in lanes.iter_mut().zip(row) {
                *lane += f(*x);
            }
        }
        lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += f(*x));
        total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    total
}

pub(crate) fn sum(x: &[f32]) -> f64 {
    sum_of(x, |x| x)
}
