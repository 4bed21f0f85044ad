/// Why a kernel refused its arguments. No kernel panics on any argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A slice does not hold as many elements as the shapes say.
    #[error("{tensor} holds {found} elements where its shape needs {expected}")]
    Length { tensor: &'static str, expected: usize, found: usize },
    /// Shapes or attributes contradict each other.
    #[error("{0}")]
    Shape(String),
    /// A class id that is neither a class nor `ignore_index`.
    #[error("label {label} at position {position} is outside 0..{classes}")]
    Label { label: i64, position: usize, classes: usize },
    /// An index that points outside its axis (after adding the size to negative ones).
    #[error("index {index} at position {position} is outside an axis of {size} elements")]
    Index { index: i64, position: usize, size: usize },
    /// A number outside the range the operator is defined for.
    #[error("{name} is {value}, which is outside {range}")]
    Range { name: &'static str, value: String, range: &'static str },
}

/// Checks the length of one tensor's slice.
pub(crate) fn expect_len<T>(tensor: &'static str, slice: &[T], expected: usize) -> Result<(), KernelError> {
    match slice.len() {
        found if found == expected => Ok(()),
        found => Err(KernelError::Length { tensor, expected, found }),
    }
}
