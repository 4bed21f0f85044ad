//! The command as people use it: one binary, a module a topic.

mod bad_data;
mod bad_input;
mod bad_models;
mod bad_outputs;
mod commands;
mod devices;
mod driver;
mod interrupt;
mod opsets;
mod readme;
mod snapshots;
mod training;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository's root.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A shipped model.
fn model(name: &str) -> PathBuf {
    root().join("models").join(name)
}

/// Runs `npc` in the repository's root.
fn npc<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_npc")).args(arguments).current_dir(root()).output().unwrap()
}

/// Standard output of a successful run.
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
