//! `SoftmaxCrossEntropyLoss` and `NegativeLogLikelihoodLoss`.

use npc_kernels::cpu::loss::{Labels, LossShape, Reduction, negative_log_likelihood, softmax_cross_entropy};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Fact, Operator, build};
use super::tensors::{
    check_dims, check_float, check_rank, floats, optional, optional_floats, produce, required, value,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Whether the input is scores, to be passed through a log-softmax first.
    pub scores: bool,
    pub reduction: Reduction,
    pub ignore_index: Option<i64>,
}

pub fn build_softmax_cross_entropy(_: &super::Context, node: &NodeProto) -> Built {
    loss(true, node)
}

pub fn build_negative_log_likelihood(_: &super::Context, node: &NodeProto) -> Built {
    loss(false, node)
}

fn loss(scores: bool, node: &NodeProto) -> Built {
    let reduction = match node.get_attr_opt::<&str>("reduction")?.unwrap_or("mean") {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        other => bail!("reduction \"{other}\" is not one of none, sum, mean"),
    };
    build(Loss { scores, reduction, ignore_index: node.get_attr_opt("ignore_index")? }, node)
}

impl Operator for Loss {
    fn name(&self) -> &'static str {
        if self.scores { "SoftmaxCrossEntropyLoss" } else { "NegativeLogLikelihoodLoss" }
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let (scores, labels) = (required(inputs, 0, "scores")?, required(inputs, 1, "labels")?);
        check_float(scores, "scores")?;
        if scores.rank() < 2 {
            bail!("the scores have rank {}, expected batch, classes and further axes", scores.rank());
        }
        if !matches!(labels.dtype, DatumType::I32 | DatumType::I64 | DatumType::TDim) {
            bail!("the labels are {:?}, expected int32 or int64", labels.dtype);
        }
        check_rank(labels, scores.rank() - 1, "label tensor")?;
        let mut positions = scores.shape.clone();
        let classes = positions.remove(1);
        for (axis, (found, expected)) in labels.shape.iter().zip(&positions).enumerate() {
            check_dims(found, expected, &format!("labels' axis {axis}"))?;
        }
        if let Some(weights) = optional(inputs, 2) {
            check_rank(weights, 1, "class weight")?;
            check_dims(&weights.shape[0], &classes, "number of class weights")?;
        }
        let shape = if self.reduction == Reduction::None { positions } else { tvec!() };
        let mut facts = tvec!(Fact { dtype: scores.dtype, shape });
        if self.scores {
            facts.push(scores.clone());
        }
        Ok(facts)
    }

    fn run(&self, inputs: &mut [Option<TValue>], wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let (scores, labels) = (value(inputs, 0)?, value(inputs, 1)?);
        let dtype = scores.datum_type();
        let shape = LossShape {
            batch: scores.shape()[0],
            classes: scores.shape()[1],
            positions: scores.shape()[2..].iter().product(),
        };
        let weights = optional_floats(inputs, 2)?;
        let labels = labels.cast_to::<i64>()?;
        let labels = Labels {
            ids: labels.try_as_plain_ram()?.as_slice::<i64>()?,
            weights: weights.as_deref(),
            ignore_index: self.ignore_index,
            reduction: self.reduction,
        };
        let mut loss_shape: TVec<usize> = scores.shape().into();
        loss_shape.remove(1);
        if self.reduction != Reduction::None {
            loss_shape.clear();
        }
        let values = floats(scores)?;
        let mut log_prob = None;
        let loss = produce(dtype, &loss_shape, |loss| {
            if !self.scores {
                return Ok(negative_log_likelihood(shape, &values, &labels, loss)?);
            }
            if wanted.get(1) != Some(&true) {
                return Ok(softmax_cross_entropy(shape, &values, &labels, loss, None)?);
            }
            log_prob = Some(produce(dtype, scores.shape(), |log_prob| {
                Ok(softmax_cross_entropy(shape, &values, &labels, loss, Some(log_prob))?)
            })?);
            Ok(())
        })?;
        Ok(tvec!(Some(loss), log_prob))
    }
}
