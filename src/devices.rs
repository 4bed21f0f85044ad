//! `npc devices`: what a model can be trained on here.

use crate::problem::{Problem, print};
use npc_runtime::cuda::probe;
use std::fmt::Write;
use std::process::ExitCode;

pub fn run() -> Result<ExitCode, Problem> {
    let found = probe();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!("cpu      {cores} threads\n");
    match &found.gpus {
        Ok(gpus) if gpus.is_empty() => text += "cuda     the driver knows no GPU\n",
        Ok(gpus) => {
            for gpu in gpus {
                let (free, all) = (gpu.memory.0 >> 20, gpu.memory.1 >> 20);
                let _ = writeln!(
                    text,
                    "cuda:{}   {}, compute capability {}.{}, {} multiprocessors, {free} of {all} MiB free, {} MiB of L2",
                    gpu.ordinal,
                    gpu.name,
                    gpu.capability.0,
                    gpu.capability.1,
                    gpu.multiprocessors,
                    gpu.cache >> 20,
                );
            }
        }
        Err(why) => {
            let _ = writeln!(text, "cuda     none: {why}");
        }
    }
    text += "\nlibraries\n";
    for library in &found.libraries {
        let state = if library.is_present { "found".to_string() } else { format!("missing: {}", library.advice) };
        let _ = writeln!(text, "  {:16} for {:26} {state}", library.name, library.purpose);
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
