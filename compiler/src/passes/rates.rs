//! The learning rate of each update as a float32 scalar of the graph.

use super::translate::Translated;
use crate::graph::patch::Patch;
use crate::graph::{DType, Graph, Node, Tensor, ValueId, ValueType};
use crate::optimizers::Rate;
use rustc_hash::FxHashMap;

/// Learning-rate values, shared between updates.
#[derive(Default)]
pub struct Rates {
    /// The input made for rates that were folded into constants, and the rate it stands for.
    folded: Option<(ValueId, f64)>,
    /// Float32 scalars made of values of other types or shapes.
    scalars: FxHashMap<ValueId, ValueId>,
    scaled: FxHashMap<(ValueId, u64), ValueId>,
    /// Values of the original graph that rates come from, with the factor of the first update that reads each.
    sources: Vec<(ValueId, f64)>,
}

impl Rates {
    /// The value of a found learning rate. A rate that was folded into constants becomes the input `learning_rate`.
    /// What this takes is added to `patch`.
    pub fn value(&mut self, graph: &mut Graph, patch: &mut Patch, found: Rate, translated: &Translated) -> ValueId {
        let (value, scale) = match found.value {
            Some(value) => (self.scalar(graph, patch, value), found.scale * translated.rate_factor),
            None => {
                let (value, first) = *self.folded.get_or_insert_with(|| {
                    let value = patch.input(graph, "learning_rate", ValueType::tensor(DType::F32, &[]));
                    let rate = translated.settings.lr * translated.rate_factor;
                    graph.value_mut(value).initializer = Some(Tensor::f32([], &[rate as f32]));
                    (value, found.scale * translated.rate_factor)
                });
                (value, found.scale * translated.rate_factor / first)
            }
        };
        if let Some(source) = found.value
            && self.sources.iter().all(|(v, _)| *v != source)
        {
            self.sources.push((source, scale));
        }
        if scale == 1.0 {
            return value;
        }
        *self.scaled.entry((value, scale.to_bits())).or_insert_with(|| {
            let factor = graph.add_initializer("learning_rate.scale", Tensor::f32([], &[scale as f32]));
            let [product] = patch.compute(graph, Node::new("Mul", [value, factor]), ["learning_rate.scaled"]);
            graph.value_mut(product).ty = Some(ValueType::tensor(DType::F32, &[]));
            product
        })
    }

    /// A learning rate of another float type or of shape [1] as the operator takes it.
    fn scalar(&mut self, graph: &mut Graph, patch: &mut Patch, value: ValueId) -> ValueId {
        let wide = graph.value(value).dtype().is_some_and(|d| d != DType::F32);
        let ranked = graph.value(value).shape().is_some_and(|s| !s.is_empty());
        if !wide && !ranked {
            return value;
        }
        *self.scalars.entry(value).or_insert_with(|| {
            let mut at = value;
            if wide {
                let cast = Node::new("Cast", [at]).with("to", i64::from(DType::F32.0));
                [at] = patch.compute(graph, cast, ["learning_rate.f32"]);
            }
            if ranked {
                let shape = graph.add_initializer("learning_rate.shape", Tensor::i64([0], &[]));
                [at] = patch.compute(graph, Node::new("Reshape", [at, shape]), ["learning_rate.scalar"]);
            }
            graph.value_mut(at).ty = Some(ValueType::tensor(DType::F32, &[]));
            at
        })
    }

    /// Makes a run start with the rate `lr`: as the default of the learning-rate input where it has one, and otherwise
    /// as the value that is returned, for whoever feeds the input.
    pub fn start_with(&self, graph: &mut Graph, lr: f64) -> Option<f64> {
        let (value, scale) = self.folded.map(|(value, _)| (value, 1.0)).or(self.sources.first().copied())?;
        let start = lr / scale;
        let info = graph.value_mut(value);
        match &mut info.initializer {
            Some(default) if info.is_input && default.dtype == DType::F32 => {
                *default = Tensor::f32(default.dims.clone(), &[start as f32]);
                None
            }
            _ => Some(start),
        }
    }

    /// The names of the learning rates' sources, when there is more than one.
    pub fn several(&self, graph: &Graph) -> Option<String> {
        let names: Vec<&str> = self.sources.iter().map(|(v, _)| graph.name_of(*v)).collect();
        (names.len() > 1).then(|| names.join(", "))
    }
}
