//! `npc diff`: what differs between two models.

use crate::problem::{Problem, load, print};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Arguments {
    /// First model
    a: PathBuf,
    /// Second model
    b: PathBuf,
}

pub fn run(a: Arguments) -> Result<ExitCode, Problem> {
    let diff = npc_compiler::graph::diff::diff(&load(&a.a)?, &load(&a.b)?);
    if diff.is_empty() {
        print("no differences\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&diff.to_string())?;
    Ok(ExitCode::from(1))
}
