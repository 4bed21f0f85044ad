//! Chains of elementwise operators as one expression, evaluated block by block.
//!
//! A group grows from a root towards its inputs: an operator joins when its result has the root's shape and nobody outside
//! the group reads it. A comparison that a `Where` chooses by is recomputed inside the group, since expressions hold numbers only.

use npc_kernels::cpu::elementwise::{Expression, Function, Instruction, Operand, Operation};
use std::collections::{HashMap, HashSet};
use tract_linalg::routines::Func;
use tract_onnx::tract_core::ops::array::MultiBroadcastTo;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_hir::internal::*;

pub fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    if std::env::var("NPC_NOFUSE").is_ok() { return Ok(()); }
    let order = model.eval_order()?;
    let mut taken: HashSet<usize> = HashSet::new();
    let mut groups: Vec<(usize, HashSet<usize>)> = Vec::new();
    for &root in order.iter().rev() {
        if !taken.contains(&root) && is_float(model, root.into())? && step(model, root)?.is_some() {
            let group = grow(model, root)?;
            taken.extend(&group);
            groups.push((root, group));
        }
    }
    // Producers first: a group's inputs are then final when it is wired.
    for (root, group) in groups.into_iter().rev() {
        let mut builder = Builder { model, group: &group, op: Fused::default(), inputs: Vec::new(), known: HashMap::new() };
        builder.operand(root.into())?;
        let Builder { mut op, inputs, .. } = builder;
        if op.instructions.len() < 2 {
            continue;
        }
        let shape = |outlet: OutletId| model.outlet_fact(outlet)?.shape.as_concrete().map(TVec::from).context("a shape is not known");
        op.shape = shape(root.into())?;
        op.inputs = inputs.iter().map(|i| shape(*i)).collect::<TractResult<_>>()?;
        if std::env::var("NPC_DEBUG").is_ok() { eprintln!("{:?} {:?} {:?}", op.shape, op.inputs, op.instructions.iter().map(|i| format!("{:?}", i.operation)).collect::<Vec<_>>()); }
        let slices: Vec<&[usize]> = op.inputs.iter().map(|i| &i[..]).collect();
        op.expression = Some(Expression::new(&op.shape, &slices, op.instructions.clone()).map_err(|e| format_err!("{e}"))?);
        let mut patch = TypedModelPatch::default();
        let taps = patch.taps(model, &inputs)?;
        let output = patch.wire_node(&model.node(root).name, op, &taps)?;
        patch.shunt_outside(model, root.into(), output[0])?;
        patch.apply(model)?;
    }
    Ok(())
}

/// What one elementwise node computes: the operation, and which of the node's inputs it reads in which order.
enum Step {
    Compute(Operation, [Option<usize>; 3]),
    Apply(Func),
    /// The input repeated.
    Repeat,
}

fn is_float(model: &TypedModel, outlet: OutletId) -> TractResult<bool> {
    let fact = model.outlet_fact(outlet)?;
    Ok(fact.datum_type == f32::datum_type() && fact.is_plain() && fact.shape.as_concrete().is_some() && fact.konst.is_none())
}

fn is_number(model: &TypedModel, outlet: OutletId) -> TractResult<bool> {
    let fact = model.outlet_fact(outlet)?;
    Ok(fact.datum_type == f32::datum_type() && fact.is_plain() && fact.shape.as_concrete().is_some())
}

/// `None` when the node is no float32 operator that expressions know.
fn step(model: &TypedModel, node: usize) -> TractResult<Option<Step>> {
    let node = model.node(node);
    let rank = node.outputs[0].fact.rank();
    for input in &node.inputs {
        if model.outlet_fact(*input)?.rank() != rank {
            return Ok(None);
        }
    }
    if node.op_is::<Iff>() {
        let condition = node.inputs[0].node;
        let chosen_by_numbers = matches!(step(model, condition)?, Some(Step::Compute(_, _)))
            && model.outlet_fact(node.inputs[0])?.datum_type == bool::datum_type();
        let numbers = is_number(model, node.inputs[1])? && is_number(model, node.inputs[2])?;
        return Ok((chosen_by_numbers && numbers).then_some(Step::Compute(Operation::Select, [Some(0), Some(1), Some(2)])));
    }
    for input in &node.inputs {
        if !is_number(model, *input)? {
            return Ok(None);
        }
    }
    if node.op_is::<MultiBroadcastTo>() {
        return Ok(Some(Step::Repeat));
    }
    if let Some(TypedBinOp(op, None)) = node.op_as::<TypedBinOp>() {
        let (operation, swapped) = match op.name() {
            "Add" => (Operation::Add, false),
            "Sub" => (Operation::Subtract, false),
            "SubF" => (Operation::Subtract, true),
            "Mul" => (Operation::Multiply, false),
            "Div" => (Operation::Divide, false),
            "Max" => (Operation::Maximum, false),
            "Min" => (Operation::Minimum, false),
            "LT" => (Operation::Less, false),
            "LTE" => (Operation::LessOrEqual, false),
            "GT" => (Operation::Less, true),
            "GTE" => (Operation::LessOrEqual, true),
            "Eq" => (Operation::Equal, false),
            _ => return Ok(None),
        };
        let order = if swapped { [Some(1), Some(0), None] } else { [Some(0), Some(1), None] };
        return Ok(Some(Step::Compute(operation, order)));
    }
    let Some(ElementWiseOp(op, None)) = node.op_as::<ElementWiseOp>() else { return Ok(None) };
    let compute = |operation| Step::Compute(operation, [Some(0), None, None]);
    Ok(Some(match op.name().as_str() {
        "Neg" => compute(Operation::Negate),
        "Square" => compute(Operation::Square),
        "Sqrt" => compute(Operation::SquareRoot),
        "Recip" => compute(Operation::Reciprocal),
        "Rsqrt" => compute(Operation::ReciprocalSquareRoot),
        "Abs" => compute(Operation::Absolute),
        "Exp" => Step::Apply(Func::Exp),
        "Ln" => Step::Apply(Func::Ln),
        "Tanh" => Step::Apply(Func::Tanh),
        "Erf" => Step::Apply(Func::Erf),
        "Sigmoid" => Step::Apply(Func::Sigmoid),
        _ => return Ok(None),
    }))
}

fn grow(model: &TypedModel, root: usize) -> TractResult<HashSet<usize>> {
    let shape = &model.outlet_fact(root.into())?.shape;
    let mut group = HashSet::from([root]);
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        for input in &model.node(node).inputs {
            let candidate = model.node(input.node);
            let inside = candidate.outputs.len() == 1
                && !model.output_outlets()?.contains(input)
                && candidate.outputs[0].successors.iter().all(|s| group.contains(&s.node));
            if inside && !group.contains(&input.node) && model.outlet_fact(*input)?.shape == *shape && step(model, input.node)?.is_some() {
                group.insert(input.node);
                open.push(input.node);
                // A producer of several members may have become all theirs.
                open.extend(group.iter().copied().filter(|n| *n != input.node));
            }
        }
    }
    Ok(group)
}

struct Builder<'a> {
    model: &'a TypedModel,
    group: &'a HashSet<usize>,
    op: Fused,
    inputs: Vec<OutletId>,
    known: HashMap<OutletId, Operand>,
}

impl Builder<'_> {
    fn operand(&mut self, outlet: OutletId) -> TractResult<Operand> {
        if let Some(known) = self.known.get(&outlet) {
            return Ok(*known);
        }
        let fact = self.model.outlet_fact(outlet)?;
        let operand = if let Some(constant) = fact.konst.as_ref().filter(|k| k.len() == 1 && k.datum_type() == f32::datum_type()) {
            Operand::Constant(constant.try_as_plain_ram()?.as_slice::<f32>()?[0])
        } else if self.group.contains(&outlet.node) || fact.datum_type == bool::datum_type() {
            let node = self.model.node(outlet.node);
            match step(self.model, outlet.node)?.with_context(|| format!("{node} is no elementwise operator"))? {
                Step::Repeat => self.operand(node.inputs[0])?,
                Step::Compute(operation, order) => {
                    let mut operands = [Operand::Constant(0.0); 3];
                    for (operand, input) in operands.iter_mut().zip(order) {
                        if let Some(input) = input {
                            *operand = self.operand(node.inputs[input])?;
                        }
                    }
                    self.push(operation, operands)
                }
                Step::Apply(function) => {
                    let operand = self.operand(node.inputs[0])?;
                    let at = self.op.functions.iter().position(|f| *f == function).unwrap_or_else(|| {
                        self.op.functions.push(function);
                        self.op.functions.len() - 1
                    });
                    self.push(Operation::Function(at), [operand; 3])
                }
            }
        } else {
            self.inputs.push(outlet);
            Operand::Input(self.inputs.len() - 1)
        };
        self.known.insert(outlet, operand);
        Ok(operand)
    }

    fn push(&mut self, operation: Operation, operands: [Operand; 3]) -> Operand {
        self.op.instructions.push(Instruction { operation, operands });
        Operand::Result(self.op.instructions.len() - 1)
    }
}

/// An expression over its inputs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Fused {
    shape: TVec<usize>,
    inputs: Vec<TVec<usize>>,
    instructions: Vec<Instruction>,
    functions: Vec<Func>,
    expression: Option<Expression>,
}

// Constants compare as numbers, never as NaN: tract folds no NaN into a model.
impl Eq for Fused {}

impl Op for Fused {
    fn name(&self) -> StaticName {
        "Elementwise".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(self.instructions.iter().map(|i| format!("{:?}", i.operation)).collect())
    }

    op_as_typed_op!();
}

impl TypedOp for Fused {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }

    as_op!();
}

impl EvalOp for Fused {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let expression = self.expression.as_ref().context("an expression was not planned")?;
        let kernels = self.functions.iter().map(|f| f.ew_f32()).collect::<TractResult<Vec<_>>>()?;
        let closures: Vec<_> = kernels
            .iter()
            .map(|kernel| {
                move |values: &mut [f32]| {
                    if kernel.run(values).is_err() {
                        values.fill(f32::NAN);
                    }
                }
            })
            .collect();
        let functions: Vec<Function> = closures.iter().map(|c| c as Function).collect();
        // SAFETY: the expression overwrites every element.
        let mut result = unsafe { Tensor::uninitialized::<f32>(&self.shape)? };
        {
            let views = inputs.iter().map(|i| i.try_as_plain_ram()).collect::<TractResult<Vec<_>>>()?;
            let slices = views.iter().map(|v| v.as_slice::<f32>()).collect::<TractResult<Vec<_>>>()?;
            let mut view = result.try_as_plain_ram_mut()?;
            expression.run(&slices, &functions, view.as_slice_mut()?).map_err(|e| format_err!("{e}"))?;
        }
        Ok(tvec!(result.into_tvalue()))
    }
}
