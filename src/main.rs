//! The `npc` command: one subcommand a file, no logic that a library user would miss.

mod compile;
mod devices;
mod diff;
mod inspect;
mod problem;
mod progress;
mod train;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Compiles ONNX training steps into NeuroPlastic ones, and trains them.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find the optimizers of a training step, prove them, and rewrite them
    Compile(compile::Arguments),
    /// Print a model as text, for Graphviz, or as JSON
    Inspect(inspect::Arguments),
    /// Show what differs between two models (exit code 1 when anything does)
    Diff(diff::Arguments),
    /// Step two models side by side on random numbers and compare what must agree
    Verify(verify::Arguments),
    /// Say which GPUs and libraries are here, and what is missing
    Devices,
    /// Train a model; one that is not compiled yet is compiled first
    Train(Box<train::Arguments>),
}

fn main() -> ExitCode {
    problem::keep_panics();
    std::panic::catch_unwind(run).unwrap_or_else(|_| problem::report_panic())
}

fn run() -> ExitCode {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("NPC_LOG").unwrap_or_else(|_| "warn,tract_onnx=error".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.log_internal_errors(false).init();
    let result = match Arguments::parse().command {
        Command::Compile(a) => compile::run(a),
        Command::Inspect(a) => inspect::run(a),
        Command::Diff(a) => diff::run(a),
        Command::Verify(a) => verify::run(a),
        Command::Devices => devices::run(),
        Command::Train(a) => train::run(*a),
    };
    match result {
        Ok(code) => code,
        Err(problem) => problem.report(),
    }
}
