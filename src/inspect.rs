//! `npc inspect`: look at a model.

use crate::problem::{Problem, load, print};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Arguments {
    /// ONNX model
    model: PathBuf,
    /// Form
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Dot,
    Json,
}

pub fn run(a: Arguments) -> Result<ExitCode, Problem> {
    use npc_compiler::graph::{dot, json, text};
    let model = load(&a.model)?;
    print(&match a.format {
        Format::Text => text::print(&model),
        Format::Dot => dot::print(&model),
        Format::Json => format!("{:#}\n", json::print(&model)),
    })?;
    Ok(ExitCode::SUCCESS)
}
