//! `BatchNormalization` in training and inference, and `LayerNormalization`.

use npc_kernels::cpu::batch_norm::{Affine, BatchNorm, running};
use npc_kernels::cpu::layer_norm::layer_norm;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Fact, Operator, build};
use super::tensors::{check_dims, check_float, check_rank, floats, optional, produce, required, value};

/// An attribute's number. None is NaN: parsing sees to that.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Number(f32);

impl Eq for Number {}

fn number(node: &NodeProto, name: &str, default: f32) -> TractResult<Number> {
    let value = node.get_attr_opt::<f32>(name)?.unwrap_or(default);
    if value.is_nan() {
        bail!("the attribute {name} is not a number");
    }
    Ok(Number(value))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchNormalization {
    epsilon: Number,
    momentum: Number,
    training: bool,
    /// Output slots: 3 from opset 14 on; before it 5, the last two being the batch's own mean and variance.
    slots: usize,
}

/// Until opset 13 a node trains when it has more than one output, from opset 14 on when `training_mode` says so.
pub fn build_batch_normalization(context: &super::Context, node: &NodeProto) -> Built {
    if node.get_attr_opt::<i64>("spatial")?.unwrap_or(1) != 1 {
        bail!("statistics per activation (spatial = 0), which ONNX dropped in opset 9, are not supported");
    }
    let old = context.onnx_operator_set_version < 14;
    let several = node.output.iter().skip(1).any(|name| !name.is_empty());
    let training = if old { several } else { node.get_attr_opt::<i64>("training_mode")?.unwrap_or(0) != 0 };
    if several && !training {
        bail!("running statistics are outputs in training only, and training_mode is 0");
    }
    let operator = BatchNormalization {
        epsilon: number(node, "epsilon", 1e-5)?,
        momentum: number(node, "momentum", 0.9)?,
        training,
        slots: if old { 5 } else { 3 },
    };
    build(operator, node)
}

impl BatchNormalization {
    /// What is added to the variance.
    pub fn epsilon(&self) -> f32 {
        self.epsilon.0
    }

    /// The share of the old running statistics in the new ones, when the batch's own are used; `None` in inference.
    pub fn momentum(&self) -> Option<f32> {
        self.training.then_some(self.momentum.0)
    }
}

impl Operator for BatchNormalization {
    fn name(&self) -> &'static str {
        "BatchNormalization"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let x = required(inputs, 0, "input")?;
        check_float(x, "input")?;
        let channels = x.shape.get(1).context("the input has no channel axis")?;
        for (slot, what) in ["scale", "bias", "running mean", "running variance"].into_iter().enumerate() {
            let fact = required(inputs, slot + 1, what)?;
            check_float(fact, what)?;
            check_rank(fact, 1, what)?;
            check_dims(&fact.shape[0], channels, &format!("{what}'s length"))?;
        }
        let statistics = required(inputs, 3, "running mean")?;
        let mut facts = tvec!(x.clone());
        facts.extend((1..self.slots).map(|_| Fact::new(statistics.dtype, [channels.clone()])));
        Ok(facts)
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let x = value(inputs, 0)?;
        let norm = BatchNorm {
            batch: x.shape()[0],
            channels: x.shape()[1],
            positions: x.shape()[2..].iter().product(),
            epsilon: self.epsilon.0,
        };
        let (scale, bias) = (floats(value(inputs, 1)?)?, floats(value(inputs, 2)?)?);
        let (mean, variance) = (floats(value(inputs, 3)?)?, floats(value(inputs, 4)?)?);
        let affine = Affine { scale: &scale, bias: &bias };
        if !self.training {
            let y =
                produce(x.datum_type(), x.shape(), |y| Ok(norm.infer(&floats(x)?, affine, &mean, &variance, y)?))?;
            return Ok(std::iter::once(Some(y)).chain((1..self.slots).map(|_| None)).collect());
        }
        let mut current = None;
        let y = produce(x.datum_type(), x.shape(), |y| {
            current = Some(norm.train(&floats(x)?, affine, y)?);
            Ok(())
        })?;
        let current = current.context("no statistics were computed")?;
        let dtype = value(inputs, 3)?.datum_type();
        let next = |previous: &[f32], current: &[f32]| {
            produce(dtype, &[norm.channels], |next| Ok(running(previous, current, self.momentum.0, next)?))
        };
        let mut outputs = tvec!(Some(y), Some(next(&mean, &current.mean)?), Some(next(&variance, &current.variance)?));
        for saved in [&current.mean, &current.variance].into_iter().take(self.slots - 3) {
            outputs.push(Some(produce(dtype, &[norm.channels], |out| {
                out.copy_from_slice(saved);
                Ok(())
            })?));
        }
        Ok(outputs)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerNormalization {
    axis: i64,
    epsilon: Number,
}

pub fn build_layer_normalization(_: &super::Context, node: &NodeProto) -> Built {
    let stash = node.get_attr_opt::<i64>("stash_type")?.unwrap_or(1);
    if stash != 1 {
        bail!("stash_type {stash} is not supported; the statistics are float32 (1)");
    }
    let axis = node.get_attr_opt("axis")?.unwrap_or(-1);
    build(LayerNormalization { axis, epsilon: number(node, "epsilon", 1e-5)? }, node)
}

impl LayerNormalization {
    /// What is added to the variance.
    pub fn epsilon(&self) -> f32 {
        self.epsilon.0
    }

    /// First normalised axis of an input of that rank.
    pub fn axis(&self, rank: usize) -> TractResult<usize> {
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        let inside = usize::try_from(axis).ok().filter(|axis| *axis < rank);
        inside.with_context(|| format!("axis {} is outside an input of rank {rank}", self.axis))
    }
}

impl Operator for LayerNormalization {
    fn name(&self) -> &'static str {
        "LayerNormalization"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let x = required(inputs, 0, "input")?;
        check_float(x, "input")?;
        let axis = self.axis(x.rank())?;
        let normalised = &x.shape[axis..];
        for (fact, what) in [(Some(required(inputs, 1, "scale")?), "scale"), (optional(inputs, 2), "bias")] {
            let Some(fact) = fact else { continue };
            check_float(fact, what)?;
            if fact.rank() > normalised.len() {
                bail!("the {what} has rank {}, more than the {} normalised axes", fact.rank(), normalised.len());
            }
            for (found, expected) in fact.shape.iter().rev().zip(normalised.iter().rev()) {
                if !found.is_one() {
                    check_dims(found, expected, &format!("{what}'s size"))?;
                }
            }
        }
        let ones = std::iter::repeat_n(1.to_dim(), normalised.len());
        let statistics = Fact::new(DatumType::F32, x.shape[..axis].iter().cloned().chain(ones));
        Ok(tvec!(x.clone(), statistics.clone(), statistics))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let x = value(inputs, 0)?;
        let axis = self.axis(x.rank())?;
        let (rows, normalised) = x.shape().split_at(axis);
        let wide = |slot: usize| -> TractResult<Option<Tensor>> {
            let Some(tensor) = inputs.get(slot).and_then(Option::as_ref) else { return Ok(None) };
            Ok(Some(tensor.cast_to::<f32>()?.broadcast_to_shape(normalised)?))
        };
        let (scale, bias) = (wide(1)?.context("the scale is missing")?, wide(2)?);
        let bias = bias.as_ref().map(floats).transpose()?;
        let shape: TVec<usize> = rows.iter().copied().chain(normalised.iter().map(|_| 1)).collect();
        let (mut mean, mut inverse) = (Tensor::zero::<f32>(&shape)?, Tensor::zero::<f32>(&shape)?);
        let y = produce(x.datum_type(), x.shape(), |y| {
            let (mut mean, mut inverse) = (mean.try_as_plain_ram_mut()?, inverse.try_as_plain_ram_mut()?);
            let statistics = (mean.as_slice_mut::<f32>()?, inverse.as_slice_mut::<f32>()?);
            let (x, scale) = (floats(x)?, floats(&scale)?);
            Ok(layer_norm(&x, &scale, bias.as_deref(), self.epsilon.0, y, statistics.0, statistics.1)?)
        })?;
        Ok(tvec!(Some(y), Some(mean), Some(inverse)))
    }
}
