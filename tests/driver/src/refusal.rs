//! Why a call is not answered with success.

use cudarc::driver::sys::CUresult;

/// An error code of a library, and the reason.
#[derive(Clone, Debug)]
pub struct Refusal<C = CUresult> {
    pub code: C,
    pub why: String,
    /// Whether the caller is to blame.
    pub is_misuse: bool,
}

pub type Answer<T = (), C = CUresult> = Result<T, Refusal<C>>;

/// The caller did something wrong.
pub fn misuse<T, C>(code: C, why: impl Into<String>) -> Answer<T, C> {
    Err(Refusal { code, why: why.into(), is_misuse: true })
}

/// The device cannot.
pub fn refuse<T, C>(code: C, why: impl Into<String>) -> Answer<T, C> {
    Err(Refusal { code, why: why.into(), is_misuse: false })
}

impl<C> Refusal<C> {
    /// The same refusal as another library says it.
    pub fn with<D>(self, code: D) -> Refusal<D> {
        let Refusal { why, is_misuse, .. } = self;
        Refusal { code, why, is_misuse }
    }
}
