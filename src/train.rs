//! `npc train`: compile where needed, then train.

use crate::compile::Choices;
use crate::problem::{Problem, load, print, say};
use crate::progress::Watcher;
use clap::Args;
use npc_runtime::plan::{LossScaling, Precision};
use npc_runtime::train::{Target, TrainOptions, train};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Args)]
pub struct Arguments {
    /// Training step, compiled or not
    model: PathBuf,
    /// fashion-mnist, fashion-mnist-10k, a folder of IDX files, or an .npz with arrays named like the model's inputs
    #[arg(long)]
    data: String,
    /// Passes over the training data
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Samples a batch (the model's own where it is fixed)
    #[arg(long, value_parser = positive)]
    batch_size: Option<usize>,
    /// Learning rate
    #[arg(long, value_parser = rate)]
    lr: Option<f64>,
    /// Seed of initial values and shuffling
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to train: cpu, cuda, or cuda:N (npc devices lists them)
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: Target,
    /// What matrix products on a GPU round their factors to: f32, tf32, bf16 or f16; sums and all else stay float32
    #[arg(long, default_value = "f32", value_parser = precision)]
    precision: Precision,
    /// What gradients are multiplied by on a GPU while they are computed: off, dynamic or a number [default: dynamic with
    /// --precision f16 or float16 parameters, otherwise off]
    #[arg(long, value_name = "off|dynamic|NUMBER")]
    loss_scale: Option<LossScaling>,
    /// With --device cuda: update parameters of 16 bits in place, without a float32 copy
    #[arg(long)]
    no_master_weights: bool,
    /// With --device cuda: train on the CPU when the GPU cannot, saying why
    #[arg(long)]
    allow_cpu_fallback: bool,
    /// With --device cuda: run every step node by node, slowly, so that a failure names its node
    #[arg(long)]
    check_nodes: bool,
    /// Threads
    #[arg(long, value_parser = positive)]
    threads: Option<usize>,
    /// Folder for metrics.jsonl, checkpoint.safetensors and the trained model.onnx
    #[arg(long, default_value = "runs/latest")]
    out: PathBuf,
    /// Go on from the checkpoint in --out
    #[arg(long)]
    resume: bool,
    /// Initial values by parameter name (safetensors)
    #[arg(long)]
    weights: Option<PathBuf>,
    #[command(flatten)]
    choices: Choices,
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "it is a whole number, 1 or more".into())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x > 0.0 && x.is_finite()).ok_or_else(|| "it is a number greater than 0".into())
}

fn device(text: &str) -> Result<Target, String> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(Target::Cpu),
        None if text == "cuda" => Ok(Target::Cuda(0)),
        Some(("cuda", number)) => {
            number.parse().map(Target::Cuda).map_err(|_| format!("'{number}' is no GPU's number"))
        }
        _ => Err("it is cpu, cuda or cuda:N".into()),
    }
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "f32" => Ok(Precision::F32),
        "tf32" => Ok(Precision::Tf32),
        "bf16" => Ok(Precision::Bf16),
        "f16" => Ok(Precision::F16),
        _ => Err("it is f32, tf32, bf16 or f16".into()),
    }
}

pub fn run(a: Arguments) -> Result<ExitCode, Problem> {
    let model = load(&a.model)?;
    let (model, bindings) = match npc_compiler::bindings::read(&model) {
        Ok(bindings) => (model, bindings),
        Err(npc_compiler::bindings::BindingsError::Missing) => {
            let compiled =
                npc_compiler::compile(model, &a.choices.options()).map_err(|e| Problem::file(&a.model, e))?;
            for warning in &compiled.report.warnings {
                say(&format!("note: {warning}"));
            }
            (compiled.model, compiled.bindings)
        }
        Err(e) => return Err(Problem::file(&a.model, e)),
    };
    if a.device == Target::Cpu && a.precision != Precision::F32 {
        return Err(Problem::usage("--precision is for --device cuda; the CPU computes in float32"));
    }
    if a.device == Target::Cpu && a.loss_scale.is_some_and(|scale| scale != LossScaling::Off) {
        return Err(Problem::usage("--loss-scale is for --device cuda; the CPU sums gradients in float32"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = TrainOptions {
        data: a.data.clone(),
        epochs: a.epochs,
        batch_size: a.batch_size,
        lr: a.lr,
        seed: a.seed,
        threads: a.threads.unwrap_or(cores),
        device: a.device,
        precision: a.precision,
        loss_scale: a.loss_scale,
        master_weights: !a.no_master_weights,
        allow_cpu_fallback: a.allow_cpu_fallback,
        check_nodes: a.check_nodes,
        out: a.out.clone(),
        resume: a.resume,
        weights: a.weights.clone(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        say("finishing this step and saving; press Ctrl-C again to quit at once");
    });
    if let Err(e) = handler {
        say(&format!("note: Ctrl-C will not save ({e})"));
    }
    let mut watcher = Watcher::new(a.epochs, stop);
    let summary = train(&model, &bindings, &options, &mut watcher).map_err(Problem::input)?;
    if summary.interrupted {
        print(&format!(
            "interrupted; everything is saved in {0}; go on with the same command and --resume\n",
            summary.out.display()
        ))?;
        return Ok(ExitCode::from(130));
    }
    if let Some(last) = summary.epochs.last() {
        let accuracy = last.test_accuracy.map_or_else(String::new, |x| format!("test accuracy {x:.4}, "));
        print(&format!(
            "{accuracy}test loss {:.4}; trained model: {}\n",
            last.test_loss,
            summary.out.join("model.onnx").display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
