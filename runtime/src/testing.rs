//! Where tests find the repository's files.

use std::path::{Path, PathBuf};

/// The folder `NPC_ROOT`, for tests that run away from the checkout they were built in; without it that checkout.
pub fn root() -> PathBuf {
    std::env::var_os("NPC_ROOT").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), PathBuf::from)
}
