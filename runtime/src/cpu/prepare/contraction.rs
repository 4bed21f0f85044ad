//! `EinSum` as a strided matrix product.

use super::view::{Step, View};
use npc_kernels::cpu::contraction::{Contraction, Index};
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::internal::*;

pub fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::default().with_rule_for("contraction", rule).rewrite(&(), model)
}

fn rule(_: &(), model: &TypedModel, node: &TypedNode, name: &str, op: &EinSum) -> TractResult<Option<TypedModelPatch>> {
    let Some((contract, operands)) = plan(model, node, op)? else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let inputs = patch.taps(model, &operands)?;
    let output = patch.wire_node(name, contract, &inputs)?;
    patch.shunt_outside(model, node.id.into(), output[0])?;
    Ok(Some(patch))
}

/// The product and the operands it reads: those of the node or, where that takes no more matrix products, the tensors that
/// they are views of. `None` for anything but two float32 operands of known shapes without repeated or one-sided axes.
fn plan(model: &TypedModel, node: &TypedNode, op: &EinSum) -> TractResult<Option<(Contract, [OutletId; 2])>> {
    let float = |fact: &TypedFact| fact.datum_type == f32::datum_type() && fact.is_plain();
    let (inputs, outputs) = model.node_facts(node.id)?;
    if inputs.len() != 2
        || op.q_params.is_some()
        || op.operating_dt != f32::datum_type()
        || !inputs.iter().chain(&outputs).all(|f| float(f))
    {
        return Ok(None);
    }
    let Some(shape) = outputs[0].shape.as_concrete() else { return Ok(None) };
    let mut own = Vec::new();
    for input in &node.inputs {
        let Some(view) = View::of(model, *input)? else { return Ok(None) };
        own.push(view);
    }
    let mut behind = Vec::new();
    for input in &node.inputs {
        behind.push(View::behind(model, *input)?.unwrap_or_else(|| own[behind.len()].clone()));
    }
    let result = View::dense(node.id.into(), shape);
    let product = |a: &View, b: &View| {
        let contraction = Contraction::new(&indices(op, [a, b, &result])?).ok()?;
        Some((Contract { plan: contraction, shape: shape.into() }, [a.tensor, b.tensor]))
    };
    let Some(mut best) = product(&own[0], &own[1]) else { return Ok(None) };
    for (a, b) in [(&own[0], &behind[1]), (&behind[0], &own[1]), (&behind[0], &behind[1])] {
        if let Some(other) = product(a, b).filter(|other| other.0.plan.product_count() <= best.0.plan.product_count()) {
            best = other;
        }
    }
    Ok(Some(best))
}

/// The indices of the product: an axis is several where an operand's elements along it have no single distance.
fn indices(op: &EinSum, views: [&View; 3]) -> Option<Vec<Index>> {
    let mut indices = Vec::new();
    for axis in op.axes.iter_all_axes() {
        let places = [&axis.inputs[0], &axis.inputs[1], &axis.outputs[0]];
        if places.iter().any(|p| p.len() > 1) {
            return None;
        }
        let extents = places.iter().zip(&views).filter_map(|(p, view)| Some(view.extent(*p.first()?)));
        let mut rest = extents.max().unwrap_or(1);
        // An operand of extent 1 on a longer axis is broadcast along it.
        let along =
            |i: usize| places[i].first().filter(|at| views[i].extent(**at) == rest).map(|at| views[i].steps(*at));
        let mut steps = [along(0), along(1), along(2)];
        while rest > 1 {
            let last = steps.iter().flatten().filter_map(|steps| steps.last()).map(|step| step.extent);
            let extent = last.min()?;
            let mut strides = [None; 3];
            for (stride, steps) in strides.iter_mut().zip(&mut steps) {
                let Some(steps) = steps else { continue };
                let step = steps.last_mut()?;
                *stride = Some(step.stride);
                if step.extent % extent != 0 {
                    return None;
                }
                *step = Step { extent: step.extent / extent, stride: step.stride * extent };
                if step.extent == 1 {
                    steps.pop();
                }
            }
            indices.push(Index { extent, a: strides[0], b: strides[1], c: strides[2] });
            rest /= extent;
        }
        if rest == 0 {
            let stride = |i: usize| places[i].first().map(|_| 1);
            indices.push(Index { extent: 0, a: stride(0), b: stride(1), c: stride(2) });
        }
    }
    Some(indices)
}

/// A planned contraction whose result has `shape`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contract {
    plan: Contraction,
    shape: TVec<usize>,
}

impl Op for Contract {
    fn name(&self) -> StaticName {
        "Contraction".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Contract {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }

    as_op!();
}

impl EvalOp for Contract {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (a, b) = args_2!(inputs);
        // SAFETY: the contraction overwrites every element.
        let mut result = unsafe { Tensor::uninitialized::<f32>(&self.shape)? };
        {
            let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
            let mut c = result.try_as_plain_ram_mut()?;
            self.plan.run(a.as_slice()?, b.as_slice()?, c.as_slice_mut()?).map_err(|e| format_err!("{e}"))?;
        }
        Ok(tvec!(result.into_tvalue()))
    }
}
