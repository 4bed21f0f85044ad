//! What a GPU would be told to do in a step, without one: pieces of work by kind, the arena, what stays from step to step.
//!
//!     plan_step MODEL.onnx [f32|tf32|bf16|f16] [wide] [cudnn] [list]
//!
//! Assumes that cuBLASLt has every epilogue and, but with `wide`, every product of 16-bit factors; with `cudnn`, that cuDNN has
//! every convolution; `list` prints every piece with its node's
//! name.

use npc_compiler::{CompileOptions, compile, onnx};
use npc_kernels::cpu::contraction::Product;
use npc_runtime::cpu::{Program, ProgramOptions};
use npc_runtime::plan::{Convolution, Epilogue, Libraries, Numbers, PlanOptions, Precision, Source, Task, traffic};
use std::collections::BTreeMap;
use std::path::Path;

/// Every epilogue, every product or those of float32 factors only, and every convolution or none.
struct Assumed {
    is_wide: bool,
    convolutions: bool,
}

impl Libraries for Assumed {
    fn has_epilogue(&mut self, _: &Product, _: Precision, _: Epilogue) -> bool {
        true
    }

    fn has_narrow(&mut self, _: &Product, numbers: Numbers, epilogue: Option<Epilogue>) -> bool {
        !(self.is_wide || numbers.narrow_result && epilogue.is_some())
    }

    fn has_convolution(&mut self, _: &Convolution, _: Precision) -> bool {
        self.convolutions
    }
}

/// The kind of a piece, and how many things the device does for it at least.
fn kind(task: &Task) -> (String, usize) {
    match task {
        Task::Products(all) => ("Products".into(), all.len()),
        other => {
            let text = format!("{other:?}");
            let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
            (text[..end].to_string(), 1)
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or("plan_step MODEL.onnx [f32|tf32|bf16|f16] [wide] [cudnn] [list]")?;
    let precision = match arguments.get(1).map(String::as_str) {
        Some("tf32") => Precision::Tf32,
        Some("bf16") => Precision::Bf16,
        Some("f16") => Precision::F16,
        _ => Precision::F32,
    };
    let compiled = compile(onnx::load(Path::new(path))?, &CompileOptions::default())?;
    let program = Program::new(&compiled.model, &ProgramOptions::default())?;
    let options = PlanOptions { precision, ..PlanOptions::default() };
    let has = |word: &str| arguments.iter().any(|a| a == word);
    let mut assumed = Assumed { is_wide: has("wide"), convolutions: has("cudnn") };
    let plan = program.device_graph(&compiled.model, 128)?.plan(&compiled.bindings, &options, &mut assumed)?;
    let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for work in &plan.work {
        let (name, parts) = kind(&work.task);
        if has("list") {
            let sizes = |ids: &[usize]| {
                let size = |id: &usize| format!("{}[{}]", plan.buffers[*id].name, plan.buffers[*id].elements);
                ids.iter().map(size).collect::<Vec<_>>().join(", ")
            };
            match &work.task {
                Task::NeuroPlastic { updates, .. } => println!("{name:16} {} parameters", updates.len()),
                _ => println!("{name:16} {} ({parts}): {} → {}", work.name, sizes(&work.reads), sizes(&work.writes)),
            }
        }
        let entry = kinds.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1 + parts);
    }
    for (kind, (pieces, parts)) in &kinds {
        println!("{pieces:6} {kind}{}", if pieces == parts { String::new() } else { format!(" ({parts} products)") });
    }
    let bytes = |wanted: fn(&Source) -> bool| {
        plan.buffers.iter().filter(|b| wanted(&b.source)).map(npc_runtime::plan::Buffer::bytes).sum::<u64>() as f64
            / 1e9
    };
    let (kept, rest) = (bytes(|s| *s == Source::Kept), bytes(|s| matches!(s, Source::Fed | Source::Constant(_))));
    let (arena, live) = (plan.arena_bytes as f64 / 1e9, plan.live_bytes as f64 / 1e9);
    let traffic = traffic::of_plan(&plan);
    println!(
        "commands read {:.3} GB and write {:.3} GB, as if no cache kept anything between two of them; factors of products are {:.3} GB of it",
        traffic.read as f64 / 1e9,
        traffic.written as f64 / 1e9,
        traffic.factors as f64 / 1e9
    );
    println!(
        "{} pieces of work; arena {arena:.3} GB (at least {live:.3}), parameters and states {kept:.3} GB, inputs and constants {rest:.3} GB",
        plan.work.len()
    );
    Ok(())
}
