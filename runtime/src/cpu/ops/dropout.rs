//! `Dropout`, in training and inference.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use npc_kernels::cpu::dropout::{Draw, dropout};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::MultiBroadcastTo;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Fact, OnnxNode, Operator, build};
use super::tensors::{check_float, floats, optional, produce, required, value};

/// How often a node has run; copies of the node share it.
#[derive(Debug, Clone, Default)]
struct Steps(Arc<AtomicU64>);

impl PartialEq for Steps {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Steps {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropout {
    seed: u64,
    /// Until opset 11 `ratio` is an attribute (its bits) and nothing trains, but for opset 6's `is_test = 0`.
    ratio: Option<u32>,
    trains: Option<bool>,
    steps: Steps,
}

/// A node without the attribute `seed` takes one from its name, so that a model gives the same numbers in every process.
pub fn build_dropout(context: &super::Context, node: &NodeProto) -> Built {
    let seed = match node.get_attr_opt::<i64>("seed")? {
        Some(seed) => seed as u64,
        None => {
            let mut hasher = Fnv::default();
            node.name.hash(&mut hasher);
            node.output.first().hash(&mut hasher);
            hasher.finish()
        }
    };
    let opset = context.onnx_operator_set_version;
    let ratio = if opset < 12 { Some(node.get_attr_opt::<f32>("ratio")?.unwrap_or(0.5).to_bits()) } else { None };
    let trains = match opset {
        ..7 => Some(node.get_attr_opt::<i64>("is_test")?.unwrap_or(0) == 0),
        7..12 => Some(false),
        _ => None,
    };
    build(Dropout { seed, ratio, trains, steps: Steps::default() }, node)
}

/// FNV-1a (G. Fowler, L. C. Noll, K.-P. Vo): the same in every build, unlike the standard library's hasher.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Dropout {
    /// Whether elements are dropped, and how many of them. `input` reads a slot; `None` where it is not known yet.
    pub fn ratio(&self, connected: &[bool], input: impl Fn(usize) -> Option<Tensor>) -> TractResult<Option<f32>> {
        let connected = |slot: usize| connected.get(slot) == Some(&true);
        let trains = match self.trains {
            Some(trains) => trains,
            None if !connected(2) => false,
            None => match input(2) {
                Some(flag) => flag.cast_to_scalar::<bool>()?,
                None => return Ok(None),
            },
        };
        if !trains {
            return Ok(Some(0.0));
        }
        match self.ratio {
            Some(bits) => Ok(Some(f32::from_bits(bits))),
            None if !connected(1) => Ok(Some(0.5)),
            None => input(1).map(|ratio| ratio.cast_to_scalar::<f32>()).transpose(),
        }
    }
}

impl Dropout {
    /// The generator's key.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "Dropout"
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let x = required(inputs, 0, "input")?;
        check_float(x, "input")?;
        for (slot, what) in [(1, "ratio"), (2, "training mode")] {
            if let Some(fact) = optional(inputs, slot)
                && fact.shape.iter().any(|d| d.to_usize().is_ok_and(|d| d != 1))
            {
                bail!("the {what} has shape {:?}, expected one element", fact.shape);
            }
        }
        Ok(tvec!(x.clone(), Fact { dtype: DatumType::Bool, shape: x.shape.clone() }))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let connected: TVec<bool> = inputs.iter().map(Option::is_some).collect();
        let ratio = self.ratio(&connected, |slot| inputs.get(slot)?.as_ref().map(|t| t.clone().into_tensor()))?;
        let ratio = ratio.context("the ratio is missing")?;
        if ratio == 0.0 {
            let x = inputs[0].take().context("the input is missing")?.into_tensor();
            let mut mask = Tensor::zero_dt(bool::datum_type(), x.shape())?;
            mask.try_as_plain_ram_mut()?.as_slice_mut::<bool>()?.fill(true);
            return Ok(tvec!(Some(x), Some(mask)));
        }
        let x = value(inputs, 0)?;
        let draw = Draw { seed: self.seed, step: self.steps.0.fetch_add(1, Ordering::Relaxed) };
        let mut mask = Tensor::zero_dt(bool::datum_type(), x.shape())?;
        let y = produce(x.datum_type(), x.shape(), |y| {
            let mut mask = mask.try_as_plain_ram_mut()?;
            Ok(dropout(&floats(x)?, ratio, draw, y, mask.as_slice_mut::<bool>()?)?)
        })?;
        Ok(tvec!(Some(y), Some(mask)))
    }

    /// A node known not to train is its input.
    fn declutter(
        &self,
        node: &OnnxNode<Self>,
        model: &TypedModel,
        at: &TypedNode,
    ) -> TractResult<Option<TypedModelPatch>> {
        let known = |slot: usize| {
            let inlet = node.inputs[..slot].iter().filter(|present| **present).count();
            model.outlet_fact(at.inputs[inlet]).ok()?.konst.as_deref().cloned()
        };
        if self.ratio(&node.inputs, known)? != Some(0.0) {
            return Ok(None);
        }
        let mut patch = TypedModelPatch::default();
        let x = patch.tap_model(model, at.inputs[0])?;
        patch.shunt_outside(model, at.id.into(), x)?;
        if node.outputs.get(1) == Some(&true) {
            let shape = model.outlet_fact(at.inputs[0])?.shape.clone();
            let keep =
                patch.add_const(format!("{}.keep", at.name), tensor0(true).broadcast_into_rank(shape.rank())?)?;
            let mask = patch.wire_node(format!("{}.mask", at.name), MultiBroadcastTo::new(shape), &[keep])?;
            patch.shunt_outside(model, OutletId::new(at.id, 1), mask[0])?;
        }
        Ok(Some(patch))
    }
}
