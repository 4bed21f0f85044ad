/// Why a step was refused. Nothing has been written when a step returns an error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StepError {
    #[error("{name} has {found} elements, {expected} are needed")]
    Length { name: &'static str, found: usize, expected: usize },
    #[error("setting {name} is {value}, it must be {valid}")]
    Setting { name: &'static str, value: f64, valid: &'static str },
    #[error("step {step} is negative: it counts the updates already applied")]
    NegativeStep { step: i64 },
    #[error("{name} is {value}, it must be a finite number")]
    NotFinite { name: &'static str, value: f32 },
}
