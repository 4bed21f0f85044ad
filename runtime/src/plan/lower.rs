//! Nodes of a typed graph as work on buffers.

mod activations;
pub mod batches;
mod contraction;
mod loss;
mod moving;
mod narrow;
mod normalise;
mod triangle;
mod values;
mod window;

use super::maps::{self, Map, Operand, What};
use super::scaling::{LossScale, MASTER, SCALE, Scaling};
use super::{BufferId, Convolution, Draft, Kind, Libraries, Node, PlanError, PlanOptions, Source, Task, Update, View};
use crate::cpu::neuroplastic::{NeuroPlastic, Signal};
use crate::cpu::ops::conv::Conv;
use crate::cpu::ops::conv_transpose::ConvTranspose;
use crate::cpu::ops::dropout::Dropout;
use crate::cpu::ops::loss::Loss;
use crate::cpu::ops::norm::{BatchNormalization, LayerNormalization};
use crate::cpu::ops::operator::OnnxNode;
use crate::cpu::ops::pool::{AveragePool, GlobalAveragePool, MaxPool, MaxUnpool};
use crate::cpu::ops::scatter::{GatherElements, Scatter};
use batches::Take;
pub(super) use contraction::is_matrix;
use npc_compiler::bindings::Bindings;
use npc_kernels::cuda::arg::{Extreme, Ordered};
use npc_kernels::elementwise::{DType, Operation, Reduce, Scalar};
use std::collections::{HashMap, HashSet};
use tract_onnx::tract_core::ops::Downsample;
use tract_onnx::tract_core::ops::array::{
    Gather, GatherNd, MultiBroadcastTo, OneHot, Pad, PadMode, Slice, Tile, Trilu, TypedConcat,
};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_core::ops::nn::{Reduce as TractReduce, Reducer, RmsNorm, Softmax};
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_hir::internal::*;

type Result<T> = std::result::Result<T, PlanError>;

/// What a graph's inputs and outputs are called, in order, and which inputs are bfloat16 in the model.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Names {
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub narrow: HashSet<String>,
}

/// Lowers a graph in its own order.
pub fn lower(
    model: &TypedModel,
    names: &Names,
    bindings: &Bindings,
    options: &PlanOptions,
    libraries: &mut dyn Libraries,
) -> Result<Draft> {
    let Names { inputs, outputs, narrow } = names;
    let states = bindings.parameters.iter().flat_map(|p| &p.states).chain(&bindings.state);
    let fed_back: Vec<(&str, &str)> = (bindings.parameters.iter().map(|p| (p.name.as_str(), p.next.as_str())))
        .chain(states.map(|s| (s.name.as_str(), s.next.as_str())))
        .collect();
    let mut lowering = Lowering {
        model,
        draft: Draft::default(),
        values: HashMap::new(),
        inputs,
        narrow,
        twins: HashMap::new(),
        kept: fed_back.iter().map(|(name, _)| *name).collect(),
        take: None,
        loss_scale: options.loss_scale,
        master_weights: options.master_weights,
        has_convolution: &mut |c| libraries.has_convolution(c, options.precision),
    };
    lowering.take = options.resident.as_ref().map(|resident| lowering.take(resident));
    let graph = |e: TractError| PlanError::Graph(crate::error::one_line(&e));
    for id in model.eval_order().map_err(graph)? {
        lowering.node(model.node(id))?;
    }
    let results = model.output_outlets().map_err(graph)?.to_vec();
    let mut views: Vec<(String, View)> = Vec::new();
    for (name, outlet) in outputs.iter().zip(results) {
        let view = lowering.dense(outlet, name)?;
        views.push((name.clone(), view.clone()));
        match fed_back.iter().find(|(_, next)| next == name) {
            Some((input, _)) => {
                let found = lowering.draft.inputs.iter().find(|(n, _)| n == input).map(|(_, id)| *id);
                let target =
                    found.ok_or_else(|| PlanError::Graph(format!("the input '{input}' is not in the graph")))?;
                let view = lowering.stored(outlet, name, Some(lowering.draft.buffers[target].dtype))?;
                if target != view.buffer {
                    lowering.draft.push(name, Task::Assign, vec![view.buffer], vec![target]);
                }
            }
            None => lowering.draft.outputs.push((name.clone(), view.buffer, view.shape)),
        }
    }
    if let Some(scored) = &options.scored {
        lowering.scored(scored, &views)?;
    }
    Ok(lowering.draft)
}

struct Lowering<'a> {
    model: &'a TypedModel,
    draft: Draft,
    values: HashMap<OutletId, View>,
    inputs: &'a [String],
    narrow: &'a HashSet<String>,
    /// What is bfloat16 in memory, by the float32 value that the graph has of it.
    twins: HashMap<OutletId, View>,
    kept: HashSet<&'a str>,
    /// Where batches come from, when not from the host.
    take: Option<Take>,
    loss_scale: Option<LossScale>,
    master_weights: bool,
    /// Whether the device's libraries have the whole of a convolution.
    has_convolution: &'a mut dyn FnMut(&Convolution) -> bool,
}

impl Lowering<'_> {
    fn node(&mut self, node: &TypedNode) -> Result<()> {
        // Constants are made where they are needed, and often are not.
        if node.op_is::<Const>() || node.outputs.iter().all(|o| o.fact.konst.is_some()) {
            return Ok(());
        }
        if node.op_is::<TypedSource>() {
            return self.source(node);
        }
        if let Some(view) = self.renamed(node)? {
            self.values.insert(node.id.into(), view);
            return Ok(());
        }
        if let Some(op) = node.op_as::<TypedBinOp>() {
            let (operation, swapped, negated) = maps::binary(op).ok_or_else(|| self.refuse(node, op.0.name(), ""))?;
            let (a, b) = if swapped { (1, 0) } else { (0, 1) };
            let operands = [self.operand(node, a)?, self.operand(node, b)?];
            if !negated {
                return self.map(node, operation, &operands);
            }
            let equal = self.apply(node, operation, &operands)?;
            return self.map(node, Operation::Not, &[Operand::View(equal)]);
        }
        if let Some(op) = node.op_as::<ElementWiseOp>() {
            if Self::is_rounding(op) {
                return self.round(node);
            }
            if self.activation(node, op)?.is_some() {
                return Ok(());
            }
            return self.elementwise(node, op);
        }
        if let Some(op) = node.op_as::<Cast>() {
            let to = maps::dtype(op.to).ok_or_else(|| self.wrong_type(node, 0))?;
            let x = self.operand(node, 0)?;
            return self.map(node, Operation::Cast(to), &[x]);
        }
        if node.op_is::<Iff>() {
            let operands = [self.operand(node, 0)?, self.operand(node, 1)?, self.operand(node, 2)?];
            return self.map(node, Operation::Select, &operands);
        }
        if let Some(op) = node.op_as::<TractReduce>() {
            let reduce = match op.reducer {
                Reducer::Sum => Reduce::Sum,
                Reducer::Prod => Reduce::Product,
                Reducer::Max => Reduce::Maximum,
                Reducer::Min => Reduce::Minimum,
                Reducer::ArgMax(is_last) => return self.arg(node, &op.axes, Extreme { is_smallest: false, is_last }),
                Reducer::ArgMin(is_last) => return self.arg(node, &op.axes, Extreme { is_smallest: true, is_last }),
                Reducer::MeanOfSquares => Reduce::Mean,
                other => return Err(self.refuse(node, "Reduce", &format!(" by {other:?}"))),
            };
            let mut x = self.readable(node.inputs[0], &node.name)?;
            if op.reducer == Reducer::MeanOfSquares {
                let shape = x.shape.clone();
                x = self.apply_shaped(&node.name, &shape, Operation::Square, &[Operand::View(x)])?;
            }
            let view = self.reduced(node, reduce, x, &op.axes)?;
            self.values.insert(node.id.into(), view);
            return Ok(());
        }
        if let Some(op) = node.op_as::<Softmax>() {
            return self.softmax(node, op);
        }
        if let Some(op) = node.op_as::<EinSum>() {
            return self.contract(node, op);
        }
        if let Some(op) = node.op_as::<Gather>() {
            return self.gather(node, op.axis);
        }
        if let Some(op) = node.op_as::<OneHot>() {
            return self.one_hot(node, op);
        }
        if let Some(op) = node.op_as::<TypedConcat>() {
            return self.concatenate(node, op.axis);
        }
        if let Some(op) = node.op_as::<RmsNorm>() {
            return self.rms_normalise(node, op);
        }
        if let Some(op) = node.op_as::<GatherNd>().filter(|op| op.batch_dims == 0) {
            return self.gather_rows(node, op);
        }
        if let Some(op) = node.op_as::<Downsample>() {
            return self.every_other(node, op);
        }
        if let Some(op) = node.op_as::<Pad>() {
            return self.pad(node, op);
        }
        if let Some(op) = node.op_as::<Tile>() {
            return self.tile(node, op);
        }
        if let Some(op) = node.op_as::<Trilu>() {
            return self.triangle(node, op);
        }
        if let Some(op) = node.op_as::<OnnxNode<GatherElements>>() {
            return self.gather_elements(node, &op.operator);
        }
        if let Some(op) = node.op_as::<OnnxNode<Scatter>>() {
            return self.scatter(node, &op.operator);
        }
        if let Some(op) = node.op_as::<OnnxNode<LayerNormalization>>() {
            return self.layer_normalise(node, op);
        }
        if let Some(op) = node.op_as::<OnnxNode<BatchNormalization>>() {
            return self.batch_normalise(node, op);
        }
        if let Some(op) = node.op_as::<OnnxNode<Conv>>() {
            return self.convolve(node, op);
        }
        if let Some(op) = node.op_as::<OnnxNode<ConvTranspose>>() {
            return self.convolve_transposed(node, op);
        }
        if let Some(op) = node.op_as::<OnnxNode<MaxPool>>() {
            return self.max_pool(node, op);
        }
        if node.op_is::<OnnxNode<MaxUnpool>>() {
            return self.unpool(node);
        }
        if let Some(op) = node.op_as::<OnnxNode<AveragePool>>() {
            return self.average_pool(node, op);
        }
        if node.op_is::<OnnxNode<GlobalAveragePool>>() {
            return self.global_average_pool(node);
        }
        if let Some(op) = node.op_as::<OnnxNode<Dropout>>() {
            return self.dropout(node, op);
        }
        if let Some(op) = node.op_as::<OnnxNode<Loss>>() {
            return self.loss(node, op);
        }
        if let Some(op) = node.op_as::<Signal>() {
            let mut reads = Vec::new();
            for input in &node.inputs {
                reads.push(self.dense(*input, &node.name)?.buffer);
            }
            let s = self.draft.buffer(&node.name, DType::F32, 1, Source::Computed);
            self.values.insert(node.id.into(), View::dense(s, &[]));
            self.draft.push(&node.name, Task::Signal { config: *op.config() }, reads, vec![s]);
            return Ok(());
        }
        if let Some(op) = node.op_as::<NeuroPlastic>() {
            return self.update(node, op);
        }
        Err(self.refuse(node, &node.op.name(), ""))
    }

    fn refuse(&self, node: &TypedNode, op: &str, why: &str) -> PlanError {
        PlanError::Unsupported { op: op.to_string(), node: node.name.clone(), why: why.to_string() }
    }

    fn wrong_type(&self, node: &TypedNode, output: usize) -> PlanError {
        let dtype = node.outputs.get(output).map_or_else(String::new, |o| format!("{:?}", o.fact.datum_type));
        PlanError::Type { value: node.name.clone(), dtype }
    }

    fn shape(&self, outlet: OutletId) -> Result<Vec<usize>> {
        let fact = self.model.outlet_fact(outlet).map_err(|e| PlanError::Graph(crate::error::one_line(&e)))?;
        let unknown = || PlanError::Graph(format!("the shape of '{}' is not known", self.model.node(outlet.node).name));
        fact.shape.as_concrete().map(<[usize]>::to_vec).ok_or_else(unknown)
    }

    fn dtype(&self, outlet: OutletId) -> Result<DType> {
        let node = self.model.node(outlet.node);
        maps::dtype(node.outputs[outlet.slot].fact.datum_type).ok_or_else(|| self.wrong_type(node, outlet.slot))
    }

    /// Places of an operator's wanted outputs, in the schema's order.
    fn settle<O>(&mut self, node: &TypedNode, op: &OnnxNode<O>, results: &[View]) {
        let wanted = op.outputs.iter().enumerate().filter(|(_, wanted)| **wanted).map(|(slot, _)| slot);
        for (output, slot) in wanted.enumerate() {
            if let Some(view) = results.get(slot) {
                self.values.insert(OutletId::new(node.id, output), view.clone());
            }
        }
    }

    /// The connected input of a schema's slot.
    fn slot<O>(op: &OnnxNode<O>, slot: usize) -> Option<usize> {
        let before = op.inputs.iter().take(slot).filter(|present| **present).count();
        (op.inputs.get(slot) == Some(&true)).then_some(before)
    }

    fn graph<T>(result: TractResult<T>) -> Result<T> {
        result.map_err(|e| PlanError::Graph(crate::error::one_line(&e)))
    }

    /// Applies an operation to operands of the node's own shape; the result is a buffer of its own.
    fn apply(&mut self, node: &TypedNode, operation: Operation, operands: &[Operand]) -> Result<View> {
        let shape = self.shape(node.id.into())?;
        self.apply_shaped(&node.name, &shape, operation, operands)
    }

    fn apply_shaped(
        &mut self,
        name: &str,
        shape: &[usize],
        operation: Operation,
        operands: &[Operand],
    ) -> Result<View> {
        let types: Vec<DType> = operands
            .iter()
            .map(|o| match o {
                Operand::View(v) => self.draft.buffers[v.buffer].dtype,
                Operand::Constant(dtype, _) => *dtype,
            })
            .collect();
        let mut types_of = npc_kernels::elementwise::Expression::builder(&[]);
        let inputs: std::result::Result<Vec<_>, _> = types.iter().map(|t| types_of.input(*t, &[])).collect();
        let whole = inputs
            .and_then(|i| types_of.apply(operation, &i))
            .and_then(|r| types_of.output(r))
            .and_then(|()| types_of.finish());
        let dtype = match whole {
            Ok(expression) => expression.outputs()[0].0,
            Err(_) => {
                let why = format!(" on {types:?}");
                return Err(PlanError::Unsupported { op: format!("{operation:?}"), node: name.into(), why });
            }
        };
        let output = self.draft.buffer(name, dtype, shape.iter().product(), Source::Computed);
        let map = Map { shape: shape.to_vec(), operands: operands.to_vec(), what: What::Apply(operation), output };
        self.draft.work.push(Node { name: name.to_string(), kind: Kind::Map(map) });
        Ok(View::dense(output, shape))
    }

    fn map(&mut self, node: &TypedNode, operation: Operation, operands: &[Operand]) -> Result<()> {
        let view = self.apply(node, operation, operands)?;
        self.values.insert(node.id.into(), view);
        Ok(())
    }

    fn elementwise(&mut self, node: &TypedNode, op: &ElementWiseOp) -> Result<()> {
        let x = self.operand(node, 0)?;
        match op.0.name().as_str() {
            "IsNan" => {
                let equal = self.apply(node, Operation::Equal, &[x.clone(), x])?;
                self.map(node, Operation::Not, &[Operand::View(equal)])
            }
            "IsInf" => {
                let size = self.apply(node, Operation::Absolute, &[x])?;
                self.map(
                    node,
                    Operation::Equal,
                    &[Operand::View(size), Operand::Constant(DType::F32, Scalar::Float(f32::INFINITY))],
                )
            }
            name => {
                let operation = maps::unary(op).ok_or_else(|| self.refuse(node, name, ""))?;
                self.map(node, operation, &[x])
            }
        }
    }

    /// Reduces a view over `axes`, which stay with extent 1.
    fn reduced(&mut self, node: &TypedNode, reduce: Reduce, x: View, axes: &[usize]) -> Result<View> {
        let dtype = self.draft.buffers[x.buffer].dtype;
        let mut shape = x.shape.clone();
        axes.iter().for_each(|axis| shape[*axis] = 1);
        let output = self.draft.buffer(&node.name, dtype, shape.iter().product(), Source::Computed);
        let map = Map {
            shape: x.shape.clone(),
            operands: vec![Operand::View(x)],
            what: What::Reduce(reduce, axes.to_vec()),
            output,
        };
        self.draft.work.push(Node { name: node.name.clone(), kind: Kind::Map(map) });
        Ok(View::dense(output, &shape))
    }

    fn update(&mut self, node: &TypedNode, op: &NeuroPlastic) -> Result<()> {
        let states = op.states();
        let mut ids = Vec::new();
        let parameter = self.stored(node.inputs[3], &node.name, None)?;
        let dtype = self.draft.buffers[parameter.buffer].dtype;
        for (slot, input) in node.inputs.iter().enumerate() {
            ids.push(match slot {
                3 => parameter.buffer,
                4 => self.stored(*input, &node.name, Some(dtype))?.buffer,
                _ => self.dense(*input, &node.name)?.buffer,
            });
        }
        let multiplier = ids.get(5 + states).copied();
        let is_kept = |id: &BufferId| self.draft.buffers[*id].source == Source::Kept;
        if !is_kept(&ids[3]) || !ids[5..5 + states].iter().all(is_kept) {
            return Err(self.refuse(node, "NeuroPlastic", " of a parameter or state that is not fed back"));
        }
        let is_narrow = [DType::F16, DType::BF16].contains(&dtype);
        let master = (self.master_weights && is_narrow).then(|| {
            let parameter = &self.draft.buffers[ids[3]];
            let (name, elements) = (format!("{MASTER}{}", parameter.name), parameter.elements);
            self.given(&name, DType::F32, elements)
        });
        let config = *op.config();
        let update = Update {
            parameter: ids[3],
            gradient: ids[4],
            states: ids[5..5 + states].to_vec(),
            master,
            multiplier,
            target_rms: config.target_rms,
            modulation_strength: config.modulation_strength,
            scratch: ids[4],
        };
        let writes: Vec<BufferId> = std::iter::once(ids[3]).chain(ids[5..5 + states].iter().copied()).collect();
        for (slot, id) in writes.iter().enumerate() {
            let outlet = OutletId::new(node.id, slot);
            let shape = self.shape(outlet)?;
            self.values.insert(outlet, View::dense(*id, &shape));
        }
        self.draft.push(&node.name, Task::NeuroPlastic { config, updates: vec![update] }, ids, writes);
        Ok(())
    }
}
