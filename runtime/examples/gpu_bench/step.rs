//! A model's whole step.

use super::{Outcome, Results, time};
use npc_compiler::bindings::Bindings;
use npc_compiler::graph::Model;
use npc_compiler::{CompileOptions, compile, onnx};
use npc_runtime::HostTensor;
use npc_runtime::cpu::{Program, ProgramOptions};
use npc_runtime::cuda::Gpu;
use npc_runtime::plan::device::{Scalars, Session};
use npc_runtime::plan::{Buffer, Plan, PlanOptions, Precision, Source, Task};
use npc_runtime::train::{State, Target, TrainOptions};
use serde_json::json;
use std::path::Path;

/// Parameters as `npc train` starts them.
fn initial(model: &Model, bindings: &Bindings) -> Outcome<State> {
    let options = TrainOptions { seed: 1, device: Target::Cuda(0), ..TrainOptions::default() };
    Ok(State::initial(model, bindings, &options)?)
}

/// Numbers that repeat after 2^64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// A random batch: integers below `classes`, floats in [−1, 1).
fn batch(name: &str, model: &Model, rows: usize, classes: i64) -> Outcome<HostTensor> {
    use npc_compiler::graph::{DType, Dim, ValueType};
    let value = model.graph.value_named(name).map(|v| model.graph.value(v)).ok_or("a batch input that is not there")?;
    let Some(ValueType::Tensor { shape: Some(shape), .. }) = &value.ty else {
        return Err(format!("the input '{name}' has no shape").into());
    };
    let dims: Vec<usize> = shape.iter().map(|d| if let Dim::Known(n) = d { *n } else { rows }).collect();
    let count = dims.iter().product();
    let mut seed = 7;
    Ok(match value.dtype() {
        Some(DType::I64) => {
            let ids: Vec<i64> = (0..count).map(|_| random(&mut seed) as i64 % classes).collect();
            HostTensor::i64(&dims, &ids)?
        }
        Some(DType::I32) => {
            let ids: Vec<i32> = (0..count).map(|_| (random(&mut seed) as i64 % classes) as i32).collect();
            HostTensor::i32(&dims, &ids)?
        }
        _ => {
            let at = |_| (random(&mut seed) as f64 / f64::from(1u32 << 30) - 1.0) as f32;
            HostTensor::f32(&dims, &(0..count).map(at).collect::<Vec<f32>>())?
        }
    })
}

/// Pieces of work that the vendor's libraries do: products with an epilogue, pieces of plain products and the products in them,
/// convolutions. The rest, convolutions without cuDNN among it, are our own kernels.
struct Library {
    with_epilogue: usize,
    plain: usize,
    plain_products: usize,
    convolutions: usize,
}

impl Library {
    fn of(plan: &Plan) -> Self {
        let count = |is: fn(&Task) -> bool| plan.work.iter().filter(|w| is(&w.task)).count();
        let products = |task: &Task| if let Task::Products(all) = task { all.len() } else { 0 };
        Self {
            with_epilogue: count(|t| matches!(t, Task::ProductWith { .. })),
            plain: count(|t| matches!(t, Task::Products(_))),
            plain_products: plan.work.iter().map(|w| products(&w.task)).sum(),
            convolutions: count(|t| matches!(t, Task::Convolution(_))),
        }
    }
}

/// Times the step of a model with a batch of 128 where it leaves that open.
pub fn whole(path: &Path, precision: Precision, classes: i64, results: &mut Results) -> Outcome<()> {
    let rows = 128;
    let compiled = compile(onnx::load(path)?, &CompileOptions::default())?;
    let (model, bindings) = (&compiled.model, &compiled.bindings);
    let program = Program::new(model, &ProgramOptions::default())?;
    let mut gpu = Gpu::new(0)?;
    let options = PlanOptions { precision, ..PlanOptions::default() };
    let plan = program.device_graph(model, rows)?.plan(bindings, &options, &mut gpu)?;
    let (arena, pieces) = (plan.arena_bytes, plan.work.len());
    let kept = plan.buffers.iter().filter(|b| b.source == Source::Kept).map(Buffer::bytes).sum::<u64>();
    let library = Library::of(&plan);
    let mut session = Session::new(plan, gpu, &Scalars::of(bindings))?;
    for (name, tensor) in initial(model, bindings)?.tensors() {
        session.set(name, tensor)?;
    }
    for input in &bindings.inputs {
        session.set(&input.name, &batch(&input.name, model, rows, classes)?)?;
    }
    if let Some(rate) = &bindings.learning_rate {
        session.set(&rate.name, &HostTensor::f32(&[], &[1e-4])?)?;
    }
    if let Some(gates) = &bindings.gates {
        session.set(gates, &HostTensor::f32(&[3], &[1.0; 3])?)?;
    }
    let ms = time(&mut session, Session::step, Session::check)?;
    let name = bindings.outputs.loss.as_ref().ok_or("the step has no loss")?;
    let loss = session.get(name, None)?.to_f64().first().copied().unwrap_or(f64::NAN);
    if !loss.is_finite() {
        return Err(format!("the loss became {loss}").into());
    }
    let stem = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let precision = format!("{precision:?}").to_lowercase();
    println!(
        "{stem:28} {precision:5} {ms:9.4} ms a step as one graph ({pieces} pieces of work, arena {:.1} MB, parameters and \
         states {:.1} MB, loss {loss:.4}; by libraries: {} products with an epilogue, {} plain ({} products), {} convolutions)",
        arena as f64 / 1e6,
        kept as f64 / 1e6,
        library.with_epilogue,
        library.plain,
        library.plain_products,
        library.convolutions,
    );
    results.add(&json!({
        "kind": "step", "model": stem, "precision": precision, "ms": ms, "pieces": pieces, "arena_bytes": arena,
        "kept_bytes": kept, "loss": loss, "products_with_epilogue": library.with_epilogue, "plain_products": library.plain,
        "products_in_plain": library.plain_products, "convolutions": library.convolutions,
    }))
}
