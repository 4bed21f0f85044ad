//! What all kernels of an expression share: its axes, its tensors, one element's work.

use super::emitter::{Class, Emitter, Value};
use super::lower::{self, constant};
use super::memory::{Width, load, store};
use crate::elementwise::expression::Expression;
use crate::elementwise::layout::{Axis, axes};
use crate::elementwise::operation::{Operand, Operation};

/// Threads of a block.
pub(super) const BLOCK: usize = 256;
/// Elements that a thread takes at a time where the innermost axis allows it.
const LANES: usize = 4;

/// A coordinate: the axis it is along and its register.
pub(super) type Coordinate = (usize, Value);

/// A kernel in the making. The coordinate along the innermost axis counts units of `lanes` elements.
pub(super) struct Frame<'a> {
    pub e: Emitter,
    pub expression: &'a Expression,
    pub axes: Vec<Axis>,
    pub lanes: usize,
    pub width: Width,
    /// Global addresses of the parameters: inputs, outputs, then what the reduction writes.
    pub bases: Vec<Value>,
}

impl<'a> Frame<'a> {
    /// Starts a kernel: its parameters are loaded. Without `aligned`, every element is accessed on its own.
    pub fn new(expression: &'a Expression, aligned: bool) -> Frame<'a> {
        let axes = axes(expression);
        let wide = aligned && axes.last().is_some_and(|axis| axis.extent % LANES == 0);
        let slack = BLOCK * LANES;
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
        Frame { e, expression, axes, lanes: if wide { LANES } else { 1 }, width, bases }
    }

    /// Units along an axis.
    pub fn units(&self, axis: usize) -> usize {
        let extent = self.axes[axis].extent;
        if axis + 1 == self.axes.len() { extent / self.lanes } else { extent }
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
            let step = stride(&self.axes[*axis]) * if axis + 1 == self.axes.len() { self.lanes } else { 1 };
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

    /// Loads, computes and stores the elements of one unit; returns the values to be reduced, lane by lane.
    pub fn unit(&mut self, indices: &[Value]) -> Option<Vec<Value>> {
        let expression = self.expression;
        let loaded: Vec<Vec<Value>> = expression
            .inputs
            .iter()
            .enumerate()
            .map(|(i, input)| {
                let lanes = if self.axes.last().is_some_and(|axis| axis.inputs[i] != 0) { self.lanes } else { 1 };
                let address = self.width.address(&mut self.e, self.bases[i], indices[i], input.dtype.bytes());
                load(&mut self.e, input.dtype, address, lanes)
            })
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
        for (at, (values, output)) in stored.iter().zip(&expression.outputs).enumerate() {
            let dtype = expression.dtype(*output);
            let base = self.bases[indices.len() - 1 + at];
            let address = self.width.address(&mut self.e, base, indices[indices.len() - 1], dtype.bytes());
            store(&mut self.e, dtype, address, values);
        }
        Some(reduced)
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
