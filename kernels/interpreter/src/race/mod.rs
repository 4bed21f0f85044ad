//! Data races, found by what is ordered and not by what happens to go wrong.

mod shadow;

pub(crate) use shadow::Shadow;
