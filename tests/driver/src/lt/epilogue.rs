//! What an epilogue is made of.

use cudarc::cublaslt::sys::cublasLtEpilogue_t as Epilogue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Relu,
    Gelu,
}

/// Whose sums along k are the bias's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    A,
    B,
}

/// The parts of an epilogue, in the order in which they happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// A bias of m elements is added.
    pub bias: bool,
    /// What the activation's gradient needs is written to the auxiliary buffer.
    pub keeps: bool,
    pub activation: Option<Activation>,
    /// The activation's derivative, read from the auxiliary buffer, is multiplied.
    pub derivative: Option<Activation>,
    /// The sums of D's rows are written to the bias, m elements.
    pub sums: bool,
    /// The sums of a factor along k are written to the bias, m or n elements.
    pub factor_sums: Option<Factor>,
}

impl Parts {
    /// The parts of a number of `cublasLtEpilogue_t`.
    pub fn of(epilogue: u32) -> Option<Self> {
        use Activation::{Gelu, Relu};
        use Epilogue as E;
        let none = Parts::default();
        let known = [
            (E::CUBLASLT_EPILOGUE_DEFAULT, none),
            (E::CUBLASLT_EPILOGUE_BIAS, Parts { bias: true, ..none }),
            (E::CUBLASLT_EPILOGUE_RELU, Parts { activation: Some(Relu), ..none }),
            (E::CUBLASLT_EPILOGUE_GELU, Parts { activation: Some(Gelu), ..none }),
            (E::CUBLASLT_EPILOGUE_RELU_BIAS, Parts { bias: true, activation: Some(Relu), ..none }),
            (E::CUBLASLT_EPILOGUE_GELU_BIAS, Parts { bias: true, activation: Some(Gelu), ..none }),
            (E::CUBLASLT_EPILOGUE_RELU_AUX, Parts { keeps: true, activation: Some(Relu), ..none }),
            (E::CUBLASLT_EPILOGUE_GELU_AUX, Parts { keeps: true, activation: Some(Gelu), ..none }),
            (E::CUBLASLT_EPILOGUE_RELU_AUX_BIAS, Parts { bias: true, keeps: true, activation: Some(Relu), ..none }),
            (E::CUBLASLT_EPILOGUE_GELU_AUX_BIAS, Parts { bias: true, keeps: true, activation: Some(Gelu), ..none }),
            (E::CUBLASLT_EPILOGUE_DRELU, Parts { derivative: Some(Relu), ..none }),
            (E::CUBLASLT_EPILOGUE_DGELU, Parts { derivative: Some(Gelu), ..none }),
            (E::CUBLASLT_EPILOGUE_DRELU_BGRAD, Parts { derivative: Some(Relu), sums: true, ..none }),
            (E::CUBLASLT_EPILOGUE_DGELU_BGRAD, Parts { derivative: Some(Gelu), sums: true, ..none }),
            (E::CUBLASLT_EPILOGUE_BGRADA, Parts { factor_sums: Some(Factor::A), ..none }),
            (E::CUBLASLT_EPILOGUE_BGRADB, Parts { factor_sums: Some(Factor::B), ..none }),
        ];
        known.into_iter().find(|(number, _)| *number as u32 == epilogue).map(|(_, parts)| parts)
    }

    pub fn has_bias_pointer(&self) -> bool {
        self.bias || self.sums || self.factor_sums.is_some()
    }

    /// The activation that the auxiliary buffer is for.
    pub fn aux(&self) -> Option<Activation> {
        self.derivative.or(self.activation.filter(|_| self.keeps))
    }
}

impl Activation {
    /// What the distance between the auxiliary buffer's columns has to be a multiple of: bits for ReLU, elements for GELU.
    pub fn aux_multiple(self) -> i64 {
        match self {
            Activation::Relu => 128,
            Activation::Gelu => 8,
        }
    }

    pub fn value(self, z: f32) -> f32 {
        match self {
            Activation::Relu => z.max(0.0),
            Activation::Gelu => (0.5 * f64::from(z) * (1.0 + inner(f64::from(z)).tanh())) as f32,
        }
    }
}

/// `√(2/π)·(z + 0.044715·z³)`.
fn inner(z: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z * z * z)
}

/// The derivative of GELU in its tanh form, by the product rule.
pub fn gelu_slope(z: f32) -> f64 {
    let z = f64::from(z);
    let t = inner(z).tanh();
    let inner_slope = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044_715 * z * z);
    0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * inner_slope
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_the_difference_quotient() {
        for i in -40..=40 {
            let z = i as f32 / 8.0;
            let gelu = |z: f64| 0.5 * z * (1.0 + inner(z).tanh());
            let quotient = (gelu(f64::from(z) + 1e-5) - gelu(f64::from(z) - 1e-5)) / 2e-5;
            assert!((gelu_slope(z) - quotient).abs() < 1e-8, "{z}");
        }
    }
}
