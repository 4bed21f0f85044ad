//! Steps two models side by side on random numbers.

use crate::cpu::{Program, ProgramOptions};
use crate::{HostTensor, RuntimeError};
use npc_compiler::bindings::Bindings;
use npc_compiler::graph::{DType, Model};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Deviation, relative to a tensor's largest element, up to which two models agree.
pub const TOLERANCE: f64 = 1e-4;

/// A tensor's largest deviation over all steps.
#[derive(Clone, Debug)]
pub struct Deviation {
    /// Value.
    pub name: String,
    /// max |a − b| / max |a|.
    pub relative: f64,
}

/// Feeds both models the same random inputs and compares the loss and every gradient that `bindings` name.
///
/// # Errors
/// A model the engine cannot run; a tensor that one of them does not have.
pub fn verify(
    a: &Model,
    b: &Model,
    bindings: &Bindings,
    seed: u64,
    steps: u32,
) -> Result<Vec<Deviation>, RuntimeError> {
    let mut names: Vec<String> = bindings.outputs.loss.iter().cloned().collect();
    names.extend(bindings.parameters.iter().filter_map(|p| p.gradient.clone()));
    names.dedup();
    // A gradient that is itself an input (a model that is nothing but optimizer) has nothing to compare.
    names.retain(|n| a.graph.value_named(n).is_none_or(|v| !a.graph.value(v).is_input));
    for (which, model) in [("first", a), ("second", b)] {
        if let Some(value) = names.iter().find(|n| model.graph.value_named(n).is_none()) {
            return Err(RuntimeError::Incomparable { which, value: value.clone() });
        }
    }
    let options = ProgramOptions { outputs: Some(names.clone()), threads: 1 };
    let (mut left, mut right) = (Program::new(a, &options)?, Program::new(b, &options)?);
    let mut worst = vec![0.0f64; names.len()];
    let classes =
        bindings.outputs.logits.as_deref().and_then(|n| b.graph.value(b.graph.value_named(n)?).dims()?.last().copied());
    for step in 0..steps {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(u64::from(step));
        let feeds = feeds(a, b, classes.unwrap_or(2), &mut random)?;
        let pick = |program: &Program| -> Vec<(String, HostTensor)> {
            let wanted: Vec<&str> = program.inputs().collect();
            feeds.iter().filter(|(n, _)| wanted.contains(&n.as_str())).cloned().collect()
        };
        let (x, y) = (pick(&left), pick(&right));
        let (x, y) = (left.run(x)?, right.run(y)?);
        for (i, ((_, x), (_, y))) in x.iter().zip(&y).enumerate() {
            let (x, y) = (x.to_f64(), y.to_f64());
            let size = x.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
            let gap = x
                .iter()
                .zip(&y)
                .fold(0.0f64, |m, (p, q)| if (p - q).is_finite() { m.max((p - q).abs()) } else { f64::INFINITY });
            worst[i] = worst[i].max(if x.len() == y.len() { gap / size } else { f64::INFINITY });
        }
    }
    Ok(names.into_iter().zip(worst).map(|(name, relative)| Deviation { name, relative }).collect())
}

/// Random values for the inputs of either model, by name.
fn feeds(
    a: &Model,
    b: &Model,
    classes: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<(String, HostTensor)>, RuntimeError> {
    let mut feeds: Vec<(String, HostTensor)> = Vec::new();
    for model in [a, b] {
        for id in &model.graph.inputs {
            let value = model.graph.value(*id);
            if feeds.iter().any(|(n, _)| *n == value.name) {
                continue;
            }
            let dims = value.shape().unwrap_or_default();
            let dims: Vec<usize> =
                dims.iter().map(|d| if let npc_compiler::graph::Dim::Known(n) = d { *n } else { 4 }).collect();
            let count = crate::tensor::room(&value.name, &dims)?;
            let mut uniform = || (f64::from(random.next_u32()) + 0.5) / f64::from(u32::MAX);
            let tensor = match value.dtype().unwrap_or(DType::F32) {
                DType::I64 => HostTensor::i64(
                    &dims,
                    &(0..count).map(|_| (uniform() * classes as f64) as i64).collect::<Vec<_>>(),
                )?,
                DType::I32 => HostTensor::i32(
                    &dims,
                    &(0..count).map(|_| (uniform() * classes as f64) as i32).collect::<Vec<_>>(),
                )?,
                other => {
                    let normal = |u: &mut dyn FnMut() -> f64| {
                        0.1 * (-2.0 * u().ln()).sqrt() * (std::f64::consts::TAU * u()).cos()
                    };
                    HostTensor::f32(&dims, &(0..count).map(|_| normal(&mut uniform) as f32).collect::<Vec<_>>())?
                        .cast(other)?
                }
            };
            feeds.push((value.name.clone(), tensor));
        }
    }
    Ok(feeds)
}
