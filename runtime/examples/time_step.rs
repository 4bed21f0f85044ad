//! Times the training step of a model: `time_step MODEL [original|neuroplastic|keep] [THREADS]`.
//!
//! Prints `ready` when the step is prepared; then, for every number n read from a line of standard input, runs n steps
//! and prints the seconds each took on average. `tests/bench_step.py` drives it beside ONNX Runtime.

use npc_compiler::bindings::{self, Bindings};
use npc_compiler::graph::{DType, Model};
use npc_compiler::{CompileOptions, Optimizer, compile, onnx};
use npc_runtime::HostTensor;
use npc_runtime::cpu::{Program, ProgramOptions};
use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

/// The formula of `tests/bench_step.py`: labels cycle through ten classes, floats are small sines, second moments positive.
fn fill(name: &str, dtype: DType, dims: &[usize]) -> Result<HostTensor, Box<dyn Error>> {
    let count: usize = dims.iter().product();
    Ok(match dtype {
        DType::I64 if name == "step" => HostTensor::i64(dims, &vec![1; count])?,
        DType::I64 => HostTensor::i64(dims, &(0..count as i64).map(|i| i % 10).collect::<Vec<_>>())?,
        DType::I32 => HostTensor::i32(dims, &(0..count as i32).map(|i| i % 10).collect::<Vec<_>>())?,
        _ => {
            let second = name.contains("var") || name.starts_with("v.") || name.ends_with("activity_trace");
            let at = |i: usize| match name {
                "step" | "gates" => 1.0,
                "lr" | "learning_rate" => 1e-3,
                _ if second => (0.05 * (0.37 * i as f64).sin()).abs() + 0.001,
                _ => 0.05 * (0.37 * i as f64).sin(),
            };
            HostTensor::f32(dims, &(0..count).map(|i| at(i) as f32).collect::<Vec<_>>())?
        }
    })
}

/// Which output becomes which input of the next step.
fn pairs(bindings: &Bindings) -> HashMap<String, String> {
    let states = bindings.parameters.iter().flat_map(|p| p.states.iter().map(|s| (s.next.clone(), s.name.clone())));
    let parameters = bindings.parameters.iter().map(|p| (p.next.clone(), p.name.clone()));
    parameters.chain(states).collect()
}

fn prepare(path: &str, form: &str) -> Result<(Model, HashMap<String, String>), Box<dyn Error>> {
    let model = onnx::load(Path::new(path))?;
    let optimizer = match form {
        "original" => return Ok((model, HashMap::new())),
        "keep" => Optimizer::Keep,
        _ => Optimizer::NeuroPlastic,
    };
    if let Ok(known) = bindings::read(&model) {
        return Ok((model, pairs(&known)));
    }
    let compiled = compile(model, &CompileOptions { optimizer, ..CompileOptions::default() })?;
    Ok((compiled.model, pairs(&compiled.bindings)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or("time_step MODEL [original|neuroplastic|keep] [THREADS]")?;
    let (model, pairs) = prepare(path, arguments.get(1).map_or("neuroplastic", String::as_str))?;
    let threads = arguments.get(2).map_or(Ok(1), |n| n.parse())?;
    let mut program = Program::new(&model, &ProgramOptions { threads, outputs: None })?;
    let names: Vec<String> = program.inputs().map(str::to_string).collect();
    let mut feeds: HashMap<String, HostTensor> = HashMap::new();
    for name in &names {
        let value = model.graph.value_named(name).map(|v| model.graph.value(v)).ok_or("an input is gone")?;
        let dims = value.dims().ok_or("an input has no fixed shape")?;
        feeds.insert(name.clone(), fill(name, value.dtype().unwrap_or(DType::F32), &dims)?);
    }
    let mut step = |feeds: &mut HashMap<String, HostTensor>| -> Result<(), Box<dyn Error>> {
        let back: std::collections::HashSet<&String> = pairs.values().collect();
        let take = names.iter().map(|name| {
            let tensor = if back.contains(name) { feeds.remove(name) } else { feeds.get(name).cloned() };
            tensor.map(|t| (name.clone(), t)).ok_or_else(|| format!("'{name}' did not come back").into())
        });
        let results = program.run(take.collect::<Result<_, Box<dyn Error>>>()?)?;
        for (name, tensor) in results {
            if let Some(input) = pairs.get(&name) {
                feeds.insert(input.clone(), tensor);
            }
        }
        Ok(())
    };
    step(&mut feeds)?;
    println!("ready");
    std::io::stdout().flush()?;
    for line in std::io::stdin().lock().lines() {
        let count: u32 = line?.trim().parse()?;
        let start = Instant::now();
        for _ in 0..count {
            step(&mut feeds)?;
        }
        println!("{:.9}", start.elapsed().as_secs_f64() / f64::from(count));
        std::io::stdout().flush()?;
    }
    Ok(())
}
