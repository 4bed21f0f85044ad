//! The graph that computes what training starts from.

use crate::analysis::Init;
use crate::compile::CompileError;
use crate::graph::{Bytes, DType, Graph, Node, Tensor, ValueId};
use rustc_hash::FxHashMap;

/// What a variable holds before the first step.
#[derive(Clone, Copy, Debug)]
pub enum First {
    /// The same number everywhere.
    Same(f64),
    /// As a parameter of its kind starts.
    Drawn(Init),
}

/// An initialization graph under construction, with its bindings: (variable, output).
#[derive(Default)]
pub struct Initialization {
    pub graph: Graph,
    pub bindings: Vec<(String, String)>,
    zeros: FxHashMap<usize, Bytes>,
}

impl Initialization {
    /// Computes the first content of `variable`, unless the model holds it already, and gives it the initializer that the
    /// standard asks for (zeros, where the content is drawn).
    ///
    /// # Errors
    /// A variable whose shape or type is not known.
    pub fn add(&mut self, model: &mut Graph, variable: ValueId, first: First) -> Result<(), CompileError> {
        let info = model.value(variable);
        let unclear = |what: &str| CompileError::TrainingInfo(format!("the {what} of '{}' is not known", info.name));
        let dims = info.dims().ok_or_else(|| unclear("shape"))?;
        let dtype = info.dtype().ok_or_else(|| unclear("element type"))?;
        let count = dims.iter().try_fold(1usize, |count, d| count.checked_mul(*d)).ok_or_else(|| unclear("size"))?;
        let size = dtype.byte_len(count).ok_or_else(|| unclear("size"))?;
        let name = info.name.clone();
        if self.graph.name.is_empty() {
            self.graph.name = "initialization".into();
        }
        if info.initializer.is_some() {
            return Ok(());
        }
        if Vec::<u8>::new().try_reserve_exact(size).is_err() {
            let what = format!("the {size} bytes that '{name}' starts with do not fit into this machine's memory");
            return Err(CompileError::TrainingInfo(what));
        }
        let output = self.output(&name, &dims, dtype, first);
        self.bindings.push((name, output));
        let bytes = match first {
            First::Same(x) if x != 0.0 => {
                let one = Tensor::scalar(dtype, x).ok_or_else(|| unclear("first value"))?;
                one.bytes().unwrap_or_default().repeat(count).into()
            }
            _ => self.zeros.entry(size).or_insert_with(|| vec![0; size].into()).clone(),
        };
        model.value_mut(variable).initializer = Some(Tensor::raw(dtype, dims, bytes));
        Ok(())
    }

    fn output(&mut self, name: &str, dims: &[usize], dtype: DType, first: First) -> String {
        let extents: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
        // Nodes with equal seeds would draw equal numbers.
        let seed = self.bindings.len() as f32;
        let drawn = |op: &str| Node::new(op, []).with("shape", extents.clone()).with("seed", seed);
        let node = match first {
            First::Same(x) => self.filled(&extents, dtype, x),
            First::Drawn(Init::Ones) => self.filled(&extents, dtype, 1.0),
            First::Drawn(Init::Zeros | Init::Initializer) => self.filled(&extents, dtype, 0.0),
            First::Drawn(Init::Uniform { bound }) => {
                drawn("RandomUniform").with("low", -bound as f32).with("high", bound as f32)
            }
            First::Drawn(Init::Normal { std }) => drawn("RandomNormal").with("mean", 0.0f32).with("scale", std as f32),
        };
        let computed = if node.op_type == "ConstantOfShape" { fill_type(dtype) } else { DType::F32 };
        let target = format!("{name}.initial");
        let [mut value] = self.graph.add(node, [target.as_str()]);
        if computed != dtype {
            let cast = Node::new("Cast", [value]).with("to", i64::from(dtype.0));
            [value] = self.graph.add(cast, [target.as_str()]);
        }
        self.graph.value_mut(value).ty = Some(crate::graph::ValueType::tensor(dtype, dims));
        self.graph.outputs.push(value);
        self.graph.name_of(value).to_string()
    }

    fn filled(&mut self, extents: &[i64], dtype: DType, x: f64) -> Node {
        let shape = Tensor::i64([extents.len()], extents);
        let [shape] = self.graph.add(Node::new("Constant", []).with("value", shape), ["shape"]);
        let mut value = Tensor::scalar(fill_type(dtype), x).unwrap_or_else(|| Tensor::f32([], &[x as f32]));
        value.dims = vec![1];
        Node::new("ConstantOfShape", [shape]).with("value", value)
    }
}

/// The type in which `ConstantOfShape` fills a tensor that is to be of type `dtype`.
fn fill_type(dtype: DType) -> DType {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::I32 | DType::I64 => dtype,
        _ => DType::F32,
    }
}
