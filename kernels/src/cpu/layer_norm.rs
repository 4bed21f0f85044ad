//! `LayerNormalization` of ONNX (opset 17).

use rayon::prelude::*;

use super::KernelError;
use super::error::expect_len;
use super::sum::{sum, sum_of};

/// Writes `y = (x − mean) / √(variance + ε) · scale + bias` of every row, and its mean and `1 / √(variance + ε)`.
///
/// `x`, `y` (rows, W) float32; `scale` and `bias`, if any, W elements; `mean` and `inverse_deviation` one a row. The
/// variance is the population's. A row of no element has mean NaN.
///
/// # Errors
/// When a slice does not have its shape's length.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm(
    x: &[f32],
    scale: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    y: &mut [f32],
    mean: &mut [f32],
    inverse_deviation: &mut [f32],
) -> Result<(), KernelError> {
    let (rows, width) = (mean.len(), scale.len());
    expect_len("the normalisation's input", x, rows.saturating_mul(width))?;
    expect_len("the normalisation's output", y, x.len())?;
    expect_len("the normalisation's inverse deviation", inverse_deviation, rows)?;
    if let Some(bias) = bias {
        expect_len("the normalisation's bias", bias, width)?;
    }
    if width == 0 {
        mean.fill(f32::NAN);
        inverse_deviation.fill(f32::NAN);
        return Ok(());
    }
    let grain = (1 << 14) / width + 1;
    let outputs = y.par_chunks_mut(width).zip(mean).zip(inverse_deviation);
    outputs.zip(x.par_chunks(width)).with_min_len(grain).for_each(|(((y, mean), inverse), x)| {
        let centre = (sum(x) / width as f64) as f32;
        let rest = sum_of(x, |x| x - centre) / width as f64;
        let variance = sum_of(x, |x| (x - centre) * (x - centre)) / width as f64 - rest * rest;
        *mean = (f64::from(centre) + rest) as f32;
        *inverse = (1.0 / (variance.max(0.0) + f64::from(epsilon)).sqrt()) as f32;
        match bias {
            Some(bias) => {
                for (((y, x), scale), bias) in y.iter_mut().zip(x).zip(scale).zip(bias) {
                    *y = (x - *mean) * *inverse * scale + bias;
                }
            }
            None => y.iter_mut().zip(x).zip(scale).for_each(|((y, x), scale)| *y = (x - *mean) * *inverse * scale),
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::testing::{assert_close, noise, with_threads};

    proptest! {
        #[test]
        fn follows_the_definition(rows in 0usize..5, width in 1usize..70, biased: bool, shift in -20i32..20) {
            let x: Vec<f32> = noise(rows * width, 1).iter().map(|x| x * 4.0 + shift as f32).collect();
            let (scale, bias) = (noise(width, 2), noise(width, 3));
            let epsilon = 1e-2f32;
            let (mut means, mut inverses, mut expected) = (vec![], vec![], vec![]);
            for row in x.chunks(width) {
                let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
                let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
                let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
                for (i, x) in row.iter().enumerate() {
                    let shifted = if biased { f64::from(bias[i]) } else { 0.0 };
                    expected.push((f64::from(*x) - mean) * inverse * f64::from(scale[i]) + shifted);
                }
                means.push(mean);
                inverses.push(inverse);
            }
            let (mut y, mut mean, mut inverse) = (vec![9.0; x.len()], vec![9.0; rows], vec![9.0; rows]);
            let bias = biased.then_some(&*bias);
            layer_norm(&x, &scale, bias, epsilon, &mut y, &mut mean, &mut inverse).unwrap();
            assert_close("y", &y, &expected, 1e-5);
            assert_close("mean", &mean, &means, 1e-6);
            assert_close("inverse deviation", &inverse, &inverses, 1e-5);
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let (x, scale) = (noise(300 * 200, 1), noise(200, 2));
        let run = || {
            let (mut y, mut mean, mut inverse) = (vec![0.0; x.len()], vec![0.0; 300], vec![0.0; 300]);
            layer_norm(&x, &scale, None, 1e-5, &mut y, &mut mean, &mut inverse).unwrap();
            (y, mean, inverse)
        };
        assert_eq!(with_threads(1, run), with_threads(3, run));
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let (mut y, mut rows) = ([0.0; 6], [0.0; 2]);
        let mut run =
            |x: &[f32], scale: &[f32], bias| layer_norm(x, scale, bias, 0.0, &mut y, &mut rows.clone(), &mut rows);
        assert!(run(&[0.0; 6], &[1.0; 3], None).is_ok());
        assert!(run(&[0.0; 5], &[1.0; 3], None).is_err());
        assert!(run(&[0.0; 6], &[1.0; 3], Some(&[1.0; 2])).is_err());
    }
}
