//! `EinSum` as a strided matrix product.

use npc_kernels::cpu::contraction::{Contraction, Index};
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::internal::*;

pub fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::default().with_rule_for("contraction", rule).rewrite(&(), model)
}

fn rule(_: &(), model: &TypedModel, node: &TypedNode, name: &str, op: &EinSum) -> TractResult<Option<TypedModelPatch>> {
    let Some(contract) = plan(model, node, op)? else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let inputs = patch.taps(model, &node.inputs)?;
    let output = patch.wire_node(name, contract, &inputs)?;
    patch.shunt_outside(model, node.id.into(), output[0])?;
    Ok(Some(patch))
}

/// `None` for anything but a product of two float32 operands of known shapes without repeated or one-sided axes.
fn plan(model: &TypedModel, node: &TypedNode, op: &EinSum) -> TractResult<Option<Contract>> {
    let float = |fact: &TypedFact| fact.datum_type == f32::datum_type() && fact.is_plain();
    let (inputs, outputs) = model.node_facts(node.id)?;
    if inputs.len() != 2
        || op.q_params.is_some()
        || op.operating_dt != f32::datum_type()
        || !inputs.iter().chain(&outputs).all(|f| float(f))
    {
        return Ok(None);
    }
    let mut shapes: Vec<TVec<usize>> = Vec::new();
    for fact in inputs.iter().chain(&outputs) {
        match fact.shape.as_concrete() {
            Some(shape) => shapes.push(shape.into()),
            None => return Ok(None),
        }
    }
    let strides: Vec<TVec<usize>> =
        shapes.iter().map(|shape| Tensor::natural_strides(shape).iter().map(|s| *s as usize).collect()).collect();
    let mut indices = Vec::new();
    for axis in op.axes.iter_all_axes() {
        let places = [&axis.inputs[0], &axis.inputs[1], &axis.outputs[0]];
        if places.iter().any(|p| p.len() > 1) {
            return Ok(None);
        }
        let extents = places.iter().zip(&shapes).filter_map(|(p, shape)| Some(shape[*p.first()?]));
        let extent = extents.max().unwrap_or(1);
        // An operand of extent 1 on a longer axis is broadcast along it.
        let stride = |i: usize| places[i].first().filter(|at| shapes[i][**at] == extent).map(|at| strides[i][*at]);
        indices.push(Index { extent, a: stride(0), b: stride(1), c: stride(2) });
    }
    indices.retain(|i| i.extent != 1);
    Ok(Contraction::new(&indices).ok().map(|plan| Contract { plan, shape: shapes[2].clone() }))
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
