//! `npc verify`: two models side by side.

use crate::problem::{Problem, load, print};
use clap::Args;
use npc_compiler::CompileOptions;
use npc_runtime::verify::{TOLERANCE, verify};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Arguments {
    /// Original training step
    original: PathBuf,
    /// Compiled one
    compiled: PathBuf,
    /// Seed of the random inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
}

pub fn run(a: Arguments) -> Result<ExitCode, Problem> {
    let (original, compiled) = (load(&a.original)?, load(&a.compiled)?);
    let bindings = match npc_compiler::bindings::read(&compiled) {
        Ok(bindings) => bindings,
        // Neither is compiled: the tensors that must agree are those the compiler would name.
        Err(_) => crate::compile::compile(&a.compiled, &CompileOptions::default())?.bindings,
    };
    let deviations = verify(&original, &compiled, &bindings, a.seed, a.steps).map_err(Problem::input)?;
    let mut out = format!("{:<44} {:>14}\n", "tensor", "max deviation");
    let mut agree = true;
    for d in &deviations {
        let good = d.relative <= TOLERANCE;
        agree &= good;
        let _ = writeln!(out, "{:<44} {:>14.3e}{}", d.name, d.relative, if good { "" } else { "  differs" });
    }
    let verdict = if agree { "agree" } else { "DISAGREE" };
    let _ = writeln!(
        out,
        "{} tensors {verdict} over {} steps (tolerance {TOLERANCE:e}, relative to each tensor's largest element)",
        deviations.len(),
        a.steps
    );
    print(&out)?;
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
