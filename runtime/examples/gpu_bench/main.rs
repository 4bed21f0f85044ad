//! Times the fused step and whole training steps on the first GPU, beside its measured copy bandwidth.
//!
//!     gpu_bench [--json FILE] [lists] [MODEL.onnx[@PRECISION[@CLASSES]] ...]
//!
//! `lists`: the fused step on parameter lists. A model's step is timed with factors rounded to PRECISION (f32), random
//! parameters, and random batches whose integers are below CLASSES (10). FILE gets a JSON object for every figure, which
//! `benchmarks/gpu_report.py` reads.

mod fused;
mod step;

use npc_kernels::cuda::DevicePointer;
use npc_runtime::cuda::Gpu;
use npc_runtime::plan::Precision;
use npc_runtime::plan::command::{Command, Commands};
use npc_runtime::plan::device::{Device, DeviceError};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A round of steps takes about this many seconds.
const ROUND: f64 = 0.5;
const ROUNDS: usize = 5;

/// Where figures go besides standard output.
struct Results {
    file: Option<std::fs::File>,
}

impl Results {
    fn add(&mut self, figure: &Value) -> Outcome<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{figure}")?;
        }
        Ok(())
    }
}

/// Milliseconds a step, the least of several rounds. `step` starts one, `wait` waits for all.
fn time<T>(
    on: &mut T,
    step: impl Fn(&mut T) -> Result<(), DeviceError>,
    wait: impl Fn(&mut T) -> Result<(), DeviceError>,
) -> Result<f64, DeviceError> {
    let mut round = |count: u32| -> Result<f64, DeviceError> {
        wait(on)?;
        let start = Instant::now();
        (0..count).try_for_each(|_| step(on))?;
        wait(on)?;
        Ok(start.elapsed().as_secs_f64() / f64::from(count))
    };
    round(2)?;
    let count = (ROUND / round(3)?.max(1e-9)).clamp(3.0, 1000.0) as u32;
    let rounds = (0..ROUNDS).map(|_| round(count)).collect::<Result<Vec<f64>, _>>()?;
    Ok(rounds.into_iter().fold(f64::INFINITY, f64::min) * 1e3)
}

/// The same of a GPU's prepared commands.
fn time_commands(gpu: &mut Gpu, probe: DevicePointer) -> Result<f64, DeviceError> {
    time(gpu, Gpu::step, |gpu| gpu.read(probe, &mut [0]))
}

/// Bytes per second that a copy reads and writes.
fn bandwidth() -> Outcome<f64> {
    let mut gpu = Gpu::new(0)?;
    let bytes = 1u64 << 30;
    let (from, to) = (gpu.allocate(bytes, "a copy")?, gpu.allocate(bytes, "a copy")?);
    gpu.prepare(Commands { list: vec![("copy".into(), Command::Copy { from, to, bytes })], module: String::new() })?;
    Ok(2.0 * bytes as f64 / (time_commands(&mut gpu, from)? / 1e3))
}

/// The fused step on parameter lists, beside the copy bandwidth of the same minute.
fn lists(results: &mut Results) -> Outcome<()> {
    let copy = bandwidth()?;
    println!("copy: {:.0} GB/s read and written", copy / 1e9);
    results.add(&json!({"kind": "copy", "bytes_per_second": copy}))?;
    fused::lists(copy, results)
}

/// `MODEL.onnx@bf16@50257`.
fn asked(argument: &str) -> Outcome<(PathBuf, Precision, i64)> {
    let mut parts = argument.split('@');
    let path = PathBuf::from(parts.next().unwrap_or_default());
    let precision = match parts.next() {
        None | Some("f32") => Precision::F32,
        Some("tf32") => Precision::Tf32,
        Some("bf16") => Precision::Bf16,
        Some("f16") => Precision::F16,
        Some(other) => return Err(format!("'{other}' is no precision: f32, tf32, bf16 or f16").into()),
    };
    Ok((path, precision, parts.next().map_or(Ok(10), str::parse)?))
}

fn main() -> Outcome<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut results = Results { file: None };
    if arguments.first().is_some_and(|a| a == "--json") {
        let path = arguments.get(1).ok_or("--json needs a file")?;
        results.file = Some(std::fs::OpenOptions::new().create(true).append(true).open(Path::new(path))?);
        arguments.drain(..2);
    }
    let mut failed = 0;
    for argument in &arguments {
        let outcome = match argument.as_str() {
            "lists" => lists(&mut results),
            model => {
                asked(model).and_then(|(path, precision, classes)| step::whole(&path, precision, classes, &mut results))
            }
        };
        // One that fails, for want of memory perhaps, must not cost the others' figures.
        if let Err(error) = outcome {
            eprintln!("{argument}: {error}");
            failed += 1;
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {} measurements failed", arguments.len()).into()) }
}
