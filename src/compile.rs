//! `npc compile`: find, prove, rewrite.

use crate::problem::{Problem, load, print, say};
use clap::{Args, ValueEnum};
use npc_compiler::files::Target;
use npc_compiler::onnx::{SaveOptions, save};
use npc_compiler::{Base, CompileOptions, Compiled, Emit, Optimizer, Preset};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub struct Arguments {
    /// ONNX training step
    input: PathBuf,
    /// Where the compiled model goes
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    pub choices: Choices,
    /// Form of the result
    #[arg(long, value_enum, default_value_t = EmitChoice::Functions)]
    emit: EmitChoice,
    /// Put weights of 1 KiB and more into OUTPUT.data
    #[arg(long)]
    external_data: bool,
    /// Write what was found and done as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print what was found and done
    #[arg(long)]
    explain: bool,
    /// Write a text print of the graph after every pass
    #[arg(long, value_name = "DIR")]
    dump_passes: Option<PathBuf>,
}

/// Options of the compiler that `npc train` shares.
#[derive(Args, Clone, Default)]
pub struct Choices {
    /// What happens to the optimizers that are found
    #[arg(long, value_enum, default_value_t = OptimizerChoice::Neuroplastic)]
    pub optimizer: OptimizerChoice,
    /// Base of the NeuroPlastic update
    #[arg(long, value_enum, default_value_t = BaseChoice::Auto)]
    pub base: BaseChoice,
    /// Start from published settings instead of those found
    #[arg(long, value_enum)]
    pub preset: Option<PresetChoice>,
    /// Set one setting, e.g. plasticity_scale=2 (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// Epsilon where the exporter dropped it, or instead of the one found
    #[arg(long)]
    pub eps: Option<f64>,
    /// Pair an output with the input it is the next value of (repeatable)
    #[arg(long, value_name = "NEW=OLD", value_parser = pair)]
    pub bind: Vec<(String, String)>,
}

#[derive(Clone, Copy, Default, ValueEnum, PartialEq)]
pub enum OptimizerChoice {
    #[default]
    Neuroplastic,
    Keep,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub enum BaseChoice {
    #[default]
    Auto,
    Classic,
    #[value(name = "sgd_momentum")]
    SgdMomentum,
    Adamw,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum PresetChoice {
    Paper,
}

#[derive(Clone, Copy, ValueEnum)]
enum EmitChoice {
    Functions,
    Inline,
    TrainingInfo,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}

impl Choices {
    /// As the compiler takes them.
    pub fn options(&self) -> CompileOptions {
        CompileOptions {
            optimizer: match self.optimizer {
                OptimizerChoice::Neuroplastic => Optimizer::NeuroPlastic,
                OptimizerChoice::Keep => Optimizer::Keep,
            },
            base: match self.base {
                BaseChoice::Auto => Base::Auto,
                BaseChoice::Classic => Base::Classic,
                BaseChoice::SgdMomentum => Base::SgdMomentum,
                BaseChoice::Adamw => Base::AdamW,
            },
            preset: self.preset.map(|PresetChoice::Paper| Preset::Paper),
            set: self.set.clone(),
            eps: self.eps,
            bind: self.bind.clone(),
            ..CompileOptions::default()
        }
    }
}

pub fn run(a: Arguments) -> Result<ExitCode, Problem> {
    let emit = match a.emit {
        EmitChoice::Functions => Emit::Functions,
        EmitChoice::Inline => Emit::Inline,
        EmitChoice::TrainingInfo => Emit::TrainingInfo,
    };
    let options = CompileOptions { emit, dump_passes: a.dump_passes.clone(), ..a.choices.options() };
    let start = std::time::Instant::now();
    let compiled = compile(&a.input, &options)?;
    // The report is complete before the model takes its place, so that there are both or neither.
    let report = a.report.as_deref().map(|path| written(path, &(compiled.report.to_json() + "\n"))).transpose()?;
    save(&compiled.model, &a.output, &SaveOptions { external_data: a.external_data }).map_err(Problem::input)?;
    report.map(Target::finish).transpose().map_err(Problem::input)?;
    if a.explain {
        print(&compiled.report.explain())?;
    } else {
        for warning in &compiled.report.warnings {
            say(&format!("note: {warning}"));
        }
        for u in &compiled.report.unmatched {
            say(&format!("note: {} is left alone: {} (at {})", u.parameter, u.reason, u.node));
        }
    }
    print(&summary(&compiled, &a.output, start.elapsed().as_secs_f64() * 1e3))?;
    Ok(ExitCode::SUCCESS)
}

/// A file that holds `text` already but does not stand in its place yet.
fn written(path: &Path, text: &str) -> Result<Target, Problem> {
    let mut target = Target::new(path).map_err(Problem::input)?;
    target.fill(|out| out.write_all(text.as_bytes())).map_err(Problem::input)?;
    Ok(target)
}

/// Loads and compiles.
pub fn compile(path: &Path, options: &CompileOptions) -> Result<Compiled, Problem> {
    npc_compiler::compile(load(path)?, options).map_err(|e| Problem::file(path, e))
}

fn summary(compiled: &Compiled, output: &Path, ms: f64) -> String {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for p in &compiled.report.parameters {
        match kinds.iter_mut().find(|(k, _)| *k == p.found.kind) {
            Some((_, n)) => *n += 1,
            None => kinds.push((p.found.kind.clone(), 1)),
        }
    }
    let found: Vec<String> = kinds.iter().map(|(k, n)| format!("{n} × {k}")).collect();
    let (before, after) = match (compiled.report.passes.first(), compiled.report.passes.last()) {
        (Some(first), Some(last)) => (first.nodes_before, last.nodes_after),
        _ => (0, 0),
    };
    let became = if compiled.bindings.optimizer == "keep" {
        "kept".into()
    } else {
        format!("NeuroPlastic ({})", compiled.bindings.settings.hybrid_base.as_str())
    };
    format!("{} → {became}, {before} → {after} nodes, {ms:.0} ms: {}\n", found.join(" + "), output.display())
}
