//! Chains of elementwise operators as one expression, evaluated block by block.
//!
//! A group grows from a root towards its inputs: an operator joins when its result has the root's shape and nobody outside
//! the group reads it. A condition that a `Where` chooses by is recomputed inside the group. Inputs are read through
//! changes of shape that leave their elements in order.

mod fused;
mod operator;

use fused::Fused;
use npc_kernels::elementwise::{Builder, DType, Expression, Operand, Scalar};
use operator::{Step, is_number, step};
use std::collections::{HashMap, HashSet};
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_hir::internal::*;

pub fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    let order = model.eval_order()?;
    let mut taken: HashSet<usize> = HashSet::new();
    let mut groups: Vec<(usize, HashSet<usize>)> = Vec::new();
    for &root in order.iter().rev() {
        if !taken.contains(&root) && may_be_root(model, root)? {
            let group = grow(model, root)?;
            taken.extend(&group);
            groups.push((root, group));
        }
    }
    // Producers first: a group's inputs are then final when it is wired.
    for (root, group) in groups.into_iter().rev() {
        if let Some(patch) = fuse(model, root, &group)? {
            patch.apply(model)?;
        }
    }
    Ok(())
}

fn may_be_root(model: &TypedModel, node: usize) -> TractResult<bool> {
    if model.node(node).outputs.len() != 1 {
        return Ok(false);
    }
    let fact = model.outlet_fact(node.into())?;
    Ok(fact.konst.is_none() && is_number(model, node.into())? && step(model, node)?.is_some())
}

fn grow(model: &TypedModel, root: usize) -> TractResult<HashSet<usize>> {
    let shape = &model.outlet_fact(root.into())?.shape;
    let outputs = model.output_outlets()?;
    let mut group = HashSet::from([root]);
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        for input in &model.node(node).inputs {
            let candidate = model.node(input.node);
            let inside = candidate.outputs.len() == 1
                && !outputs.contains(input)
                && candidate.outputs[0].successors.iter().all(|s| group.contains(&s.node));
            if inside
                && !group.contains(&input.node)
                && model.outlet_fact(*input)?.shape == *shape
                && step(model, input.node)?.is_some()
            {
                group.insert(input.node);
                // A producer of several members may have become all theirs.
                open.extend(&group);
            }
        }
    }
    Ok(group)
}

/// `None` for a group that is no more than one operation.
fn fuse(model: &TypedModel, root: usize, group: &HashSet<usize>) -> TractResult<Option<TypedModelPatch>> {
    let shape = model.outlet_fact(root.into())?.shape.as_concrete().context("a shape is not known")?;
    let mut group =
        Group { model, group, builder: Expression::builder(shape), inputs: Vec::new(), known: HashMap::new() };
    let output = group.operand(root.into())?;
    group.builder.output(output)?;
    let expression = group.builder.finish()?;
    if expression.instructions().len() < 2 {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let taps = patch.taps(model, &group.inputs)?;
    let output = patch.wire_node(&model.node(root).name, Fused::new(expression)?, &taps)?;
    patch.shunt_outside(model, root.into(), output[0])?;
    Ok(Some(patch))
}

/// An expression in the making.
struct Group<'a> {
    model: &'a TypedModel,
    group: &'a HashSet<usize>,
    builder: Builder,
    inputs: Vec<OutletId>,
    known: HashMap<OutletId, Operand>,
}

impl Group<'_> {
    fn operand(&mut self, outlet: OutletId) -> TractResult<Operand> {
        if let Some(known) = self.known.get(&outlet) {
            return Ok(*known);
        }
        let fact = self.model.outlet_fact(outlet)?;
        let operand = if let Some(constant) = fact.konst.as_ref().and_then(|k| constant(k)) {
            constant
        } else if self.group.contains(&outlet.node) || fact.datum_type == bool::datum_type() {
            let node = self.model.node(outlet.node);
            match step(self.model, outlet.node)?.with_context(|| format!("{node} is no elementwise operator"))? {
                Step::Repeat => self.operand(node.inputs[0])?,
                Step::Compute(operation, order) => {
                    let operands =
                        order.iter().map(|at| self.operand(node.inputs[*at])).collect::<TractResult<Vec<_>>>()?;
                    self.builder.apply(operation, &operands)?
                }
            }
        } else {
            let shape = fact.shape.as_concrete().context("a shape is not known")?;
            self.inputs.push(in_order(self.model, outlet));
            self.builder.input(DType::F32, shape)?
        };
        self.known.insert(outlet, operand);
        Ok(operand)
    }
}

/// The value of a constant of one element.
fn constant(tensor: &Tensor) -> Option<Operand> {
    if tensor.len() != 1 {
        return None;
    }
    let plain = tensor.try_as_plain_ram().ok()?;
    match tensor.datum_type() {
        DatumType::F32 => plain.as_slice::<f32>().ok()?.first().map(|x| Operand::from(*x)),
        DatumType::Bool => {
            plain.as_slice::<bool>().ok()?.first().map(|x| Operand::Constant(DType::Bool, Scalar::Bool(*x)))
        }
        _ => None,
    }
}

/// The same elements before changes of shape.
fn in_order(model: &TypedModel, mut outlet: OutletId) -> OutletId {
    while let Some(AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..)) = model.node(outlet.node).op_as::<AxisOp>() {
        outlet = model.node(outlet.node).inputs[0];
    }
    outlet
}
