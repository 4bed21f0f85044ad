//! What all kernels of an expression share: its axes, its tensors, one element's work.

use super::emitter::{Class, Emitter, Value};
use super::lower::{self, constant};
use super::memory::{Width, load, loaded_value, store};
use crate::elementwise::dtype::DType;
use crate::elementwise::expression::Expression;
use crate::elementwise::layout::{Axis, axes};
use crate::elementwise::operation::{Operand, Operation};

/// Threads of a block.
pub(super) const BLOCK: usize = 256;
/// Elements that a thread takes at a time, where it can.
const LANES: usize = 4;
/// The same in a map of 16-bit tensors.
const MOST_LANES: usize = 8;

/// A coordinate: the axis it is along and its register.
pub(super) type Coordinate = (usize, Value);

/// Which elements are the lanes of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// Neighbours along the innermost axis.
    Innermost,
    /// Neighbours in the outputs, wherever axes end.
    Flat,
    /// Elements [`BLOCK`] apart, each loaded on its own: neighbouring threads have neighbours.
    Strided,
}

/// Where the lanes of one thread lie in a tensor.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// All at this index.
    Same(Value),
    /// From this index on.
    Neighbours(Value),
    /// Each at its own.
    Each(Vec<Value>),
}

/// A kernel in the making. The coordinate along the innermost axis counts units of `unit` elements.
pub(super) struct Frame<'a> {
    pub e: Emitter,
    pub expression: &'a Expression,
    pub axes: Vec<Axis>,
    /// Elements that a thread takes at a time.
    pub lanes: usize,
    pub spread: Spread,
    unit: usize,
    pub width: Width,
    /// Global addresses of the parameters: inputs, outputs, then what the reduction writes.
    pub bases: Vec<Value>,
}

impl<'a> Frame<'a> {
    /// Starts a kernel: its parameters are loaded. Without `aligned`, every element is accessed on its own.
    pub fn new(expression: &'a Expression, aligned: bool) -> Frame<'a> {
        let axes = axes(expression);
        let innermost = axes.last().map_or(1, |axis| axis.extent);
        let (lanes, spread) = lanes(expression, innermost, aligned);
        let unit = if spread == Spread::Innermost { lanes } else { 1 };
        let slack = BLOCK * MOST_LANES;
        let narrow = expression.elements() < (1 << 31) - slack;
        let mut e = Emitter::default();
        let parameters =
            expression.inputs.len() + expression.outputs.len() + usize::from(expression.reduction.is_some());
        let bases = (0..parameters)
            .map(|i| {
                let address = e.register(Class::B64);
                e.line(format_args!("ld.param.u64 {address}, [p{i}];"));
                e.new_value(Class::B64, "cvta.to.global.u64", &[address])
            })
            .collect();
        let width = if narrow { Width::Narrow } else { Width::Wide };
        Frame { e, expression, axes, lanes, spread, unit, width, bases }
    }

    /// Units along an axis.
    pub fn units(&self, axis: usize) -> usize {
        let extent = self.axes[axis].extent;
        if axis + 1 == self.axes.len() { extent / self.unit } else { extent }
    }

    /// A special register, as wide as an index.
    pub fn special(&mut self, name: &str) -> Value {
        let value = self.e.register(Class::B32);
        self.e.line(format_args!("mov.u32 {value}, %{name};"));
        match self.width {
            Width::Narrow => value,
            Width::Wide => self.e.new_value(Class::B64, "cvt.u64.u32", &[value]),
        }
    }

    /// A flag: how `value` compares with a constant.
    pub fn compare(&mut self, comparison: &str, value: Value, with: usize) -> Value {
        let opcode = format!("setp.{comparison}.{}", self.width.ty());
        self.e.new_value(Class::Pred, &opcode, &[value, Value::Integer(with as i64)])
    }

    /// Jumps to `label` where `value` is `bound` or more.
    pub fn leave_from(&mut self, value: Value, bound: usize, label: &str) {
        let beyond = self.compare("ge", value, bound);
        self.e.branch(beyond, label, false);
    }

    /// Takes a number over the chosen axes, innermost fastest, apart.
    pub fn coordinates(&mut self, number: Value, chosen: impl Fn(&Axis) -> bool) -> Vec<Coordinate> {
        let chosen: Vec<usize> = (0..self.axes.len()).filter(|axis| chosen(&self.axes[*axis])).collect();
        let mut coordinates = Vec::with_capacity(chosen.len());
        let mut rest = number;
        for (at, &axis) in chosen.iter().enumerate().rev() {
            let mut coordinate = rest;
            if at > 0 {
                let units = self.units(axis);
                (rest, coordinate) = self.width.divide(&mut self.e, rest, units);
            }
            coordinates.push((axis, coordinate));
        }
        coordinates
    }

    /// `start` + the place of the coordinates in a tensor of the given strides.
    pub fn index(&mut self, coordinates: &[Coordinate], stride: impl Fn(&Axis) -> usize, start: Value) -> Value {
        let mut index = start;
        for (axis, coordinate) in coordinates {
            let step = stride(&self.axes[*axis]) * if axis + 1 == self.axes.len() { self.unit } else { 1 };
            if step > 0 {
                index = self.width.multiply_add(&mut self.e, *coordinate, step, index);
            }
        }
        index
    }

    /// The places of the coordinates in every input and, last, in the outputs, on top of `starts`.
    pub fn indices(&mut self, coordinates: &[Coordinate], starts: Option<&[Value]>) -> Vec<Value> {
        let start = |i: usize| starts.map_or(Value::Integer(0), |starts| starts[i]);
        let inputs = self.expression.inputs.len();
        let mut indices: Vec<Value> =
            (0..inputs).map(|i| self.index(coordinates, |axis| axis.inputs[i], start(i))).collect();
        indices.push(self.index(coordinates, |axis| axis.stride, start(inputs)));
        indices
    }

    /// The places of the lanes whose first has the coordinates of `indices`, tensor by tensor as [`Frame::indices`] has them.
    pub fn places(&self, indices: &[Value]) -> Vec<Place> {
        let inputs = self.expression.inputs.len();
        let along = |i: usize| i == inputs || self.axes.last().is_some_and(|axis| axis.inputs[i] != 0);
        let place =
            |(i, index): (usize, &Value)| if along(i) { Place::Neighbours(*index) } else { Place::Same(*index) };
        indices.iter().enumerate().map(place).collect()
    }

    /// Whether an input has the outputs' shape.
    pub fn is_dense(&self, input: usize) -> bool {
        self.axes.iter().all(|axis| axis.inputs[input] == axis.stride)
    }

    /// Whether an input is one value.
    pub fn is_single(&self, input: usize) -> bool {
        self.axes.iter().all(|axis| axis.inputs[input] == 0)
    }

    /// Loads, computes and stores the lanes at the places in every input and, last, in the outputs, without those whose
    /// guard, if there are guards, does not hold; returns the values to be reduced, lane by lane.
    pub fn run(&mut self, places: &[Place], guards: Option<&[Value]>) -> Option<Vec<Value>> {
        let expression = self.expression;
        let (output, inputs) = places.split_last()?;
        let mut loaded = Vec::with_capacity(inputs.len());
        for ((place, input), base) in inputs.iter().zip(&expression.inputs).zip(self.bases.clone()) {
            let at = |e: &mut Emitter, index: Value, lanes: usize, guard: Option<Value>| {
                let address = self.width.address(e, base, index, input.dtype.bytes());
                load(e, input.dtype, address, lanes, guard)
            };
            loaded.push(match place {
                Place::Same(index) => at(&mut self.e, *index, 1, None),
                Place::Neighbours(index) => at(&mut self.e, *index, self.lanes, None),
                Place::Each(indices) => {
                    let guard = |lane: usize| guards.map(|guards| guards[lane]);
                    let each = indices.iter().enumerate();
                    each.flat_map(|(lane, index)| at(&mut self.e, *index, 1, guard(lane))).collect()
                }
            });
        }
        let loaded: Vec<Vec<Value>> = (loaded.into_iter().zip(&expression.inputs))
            .map(|(raw, input)| raw.into_iter().map(|raw| loaded_value(&mut self.e, input.dtype, raw)).collect())
            .collect();
        let mut stored: Vec<Vec<Value>> = vec![Vec::new(); expression.outputs.len()];
        let mut reduced = Vec::new();
        for lane in 0..self.lanes {
            let inputs: Vec<Value> = loaded.iter().map(|lanes| lanes[lane % lanes.len()]).collect();
            let results = compute(&mut self.e, expression, &inputs)?;
            for (values, output) in stored.iter_mut().zip(&expression.outputs) {
                values.push(read(&mut self.e, *output, &inputs, &results));
            }
            if let Some(reduction) = &expression.reduction {
                reduced.push(read(&mut self.e, reduction.value, &inputs, &results));
            }
        }
        for (at, (values, operand)) in stored.iter().zip(&expression.outputs).enumerate() {
            let dtype = expression.dtype(*operand);
            let base = self.bases[inputs.len() + at];
            let mut to = |index: Value, values: &[Value], guard: Option<Value>| {
                let address = self.width.address(&mut self.e, base, index, dtype.bytes());
                store(&mut self.e, dtype, address, values, guard);
            };
            match output {
                Place::Same(index) | Place::Neighbours(index) => to(*index, values, None),
                Place::Each(indices) => {
                    for (lane, (index, value)) in indices.iter().zip(values).enumerate() {
                        to(*index, std::slice::from_ref(value), guards.map(|guards| guards[lane]));
                    }
                }
            }
        }
        Some(reduced)
    }
}

/// Elements that a thread takes at a time, and which. A reduction stays along its innermost axis, so that the order of its sums
/// does not depend on anything else.
fn lanes(expression: &Expression, innermost: usize, aligned: bool) -> (usize, Spread) {
    let is_map = expression.reduction.is_none();
    let inputs = expression.inputs.iter().map(|input| input.dtype);
    let outputs = expression.outputs.iter().map(|output| expression.dtype(*output));
    let widest = inputs.chain(outputs).map(DType::bytes).max();
    let most = if is_map && widest == Some(2) { MOST_LANES } else { LANES };
    let fits = |extent: usize| [most, LANES].into_iter().find(|lanes| aligned && extent.is_multiple_of(*lanes));
    match (fits(innermost), fits(expression.elements())) {
        (Some(lanes), _) => (lanes, Spread::Innermost),
        (None, _) if !is_map => (1, Spread::Innermost),
        (None, Some(lanes)) => (lanes, Spread::Flat),
        (None, None) => (expression.elements().div_ceil(BLOCK).clamp(1, LANES), Spread::Strided),
    }
}

/// All instructions on one element's inputs.
fn compute(e: &mut Emitter, expression: &Expression, inputs: &[Value]) -> Option<Vec<Value>> {
    let mut results = Vec::with_capacity(expression.instructions.len());
    for instruction in &expression.instructions {
        let operands: Vec<Value> = instruction.operands.iter().map(|o| read(e, *o, inputs, &results)).collect();
        let dtype = match instruction.operation {
            Operation::Select => instruction.dtype,
            _ => expression.dtype(*instruction.operands.first()?),
        };
        results.push(lower::apply(e, instruction.operation, dtype, &operands)?);
    }
    Some(results)
}

fn read(e: &mut Emitter, operand: Operand, inputs: &[Value], results: &[Value]) -> Value {
    match operand {
        Operand::Input(i) => inputs[i],
        Operand::Result(i) => results[i],
        Operand::Constant(_, value) => constant(e, value),
    }
}
