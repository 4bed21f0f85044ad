//! `MaxPool` with its indices, `MaxUnpool`, `AveragePool` and `GlobalAveragePool`.

use npc_kernels::cpu::Geometry;
use npc_kernels::cpu::pool::{Divisor, average_pool, global_average_pool, max_pool};
use npc_kernels::cpu::scatter::scatter_elements;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Fact, Operator, build};
use super::tensors::{check_dims, check_float, floats, produce, required, value};
use super::window::{Window, signed};

/// Batch × channels of a tensor of planes.
fn planes(shape: &[usize]) -> usize {
    shape[0] * shape[1]
}

fn pooled(window: &Window, inputs: &[Option<Fact>]) -> TractResult<Fact> {
    let x = required(inputs, 0, "input")?;
    check_float(x, "input")?;
    if x.rank() < 3 {
        bail!("the input has rank {}, expected batch, channels and 1 to 3 spatial axes", x.rank());
    }
    window.check_axes(x.rank() - 2)?;
    let kernel = window.kernel.as_ref().context("the attribute kernel_shape is missing")?;
    let kernel: TVec<TDim> = kernel.iter().map(|k| k.to_dim()).collect();
    let spatial = window.output_dims(&x.shape[2..], &kernel)?;
    Ok(Fact::new(x.dtype, x.shape[..2].iter().cloned().chain(spatial)))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaxPool {
    window: Window,
    column_major: bool,
}

pub fn build_max_pool(_: &super::Context, node: &NodeProto) -> Built {
    let column_major = node.get_attr_opt::<i64>("storage_order")?.unwrap_or(0) != 0;
    build(MaxPool { window: Window::parse(node)?, column_major }, node)
}

/// A pool's window on an input of known shape, the result's shape, and the pads behind each of the three axes.
fn windowed(window: &Window, x: &[usize]) -> TractResult<(Geometry, TVec<usize>, [usize; 3])> {
    let (input, kernel) = (&x[2..], window.kernel.as_ref().context("kernel_shape is missing")?);
    let placed = window.place(input, kernel)?;
    let geometry = window.geometry(input, &placed.output, kernel, &signed(&placed.before))?;
    let mut after = [0; 3];
    after[3 - placed.after.len()..].copy_from_slice(&placed.after);
    Ok((geometry, x[..2].iter().chain(&placed.output).copied().collect(), after))
}

impl MaxPool {
    /// The window on an input of known shape, and the result's shape.
    pub fn window(&self, x: &[usize]) -> TractResult<(Geometry, TVec<usize>)> {
        let (geometry, shape, _) = windowed(&self.window, x)?;
        Ok((geometry, shape))
    }

    /// Whether indices count with the first axis fastest.
    pub fn is_column_major(&self) -> bool {
        self.column_major
    }
}

/// Position in a plane counted with the first axis fastest.
fn column_major(mut position: usize, dims: &[usize]) -> usize {
    let (mut result, mut stride) = (0, dims.iter().product::<usize>());
    for dim in dims.iter().rev() {
        stride /= dim;
        result += position % dim * stride;
        position /= dim;
    }
    result
}

impl Operator for MaxPool {
    fn name(&self) -> &'static str {
        "MaxPool"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let y = pooled(&self.window, inputs)?;
        let indices = Fact { dtype: DatumType::I64, shape: y.shape.clone() };
        Ok(tvec!(y, indices))
    }

    fn run(&self, inputs: &mut [Option<TValue>], wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let x = value(inputs, 0)?;
        let (geometry, shape) = self.window(x.shape())?;
        let input = &x.shape()[2..];
        let (planes, data) = (planes(&shape), floats(x)?);
        if wanted.get(1) != Some(&true) {
            let y = produce(x.datum_type(), &shape, |y| Ok(max_pool(&geometry, planes, &data, y, None)?))?;
            return Ok(tvec!(Some(y), None));
        }
        let mut within = vec![0; shape.iter().product()];
        let y = produce(x.datum_type(), &shape, |y| Ok(max_pool(&geometry, planes, &data, y, Some(&mut within))?))?;
        let (plane, outputs) = (geometry.input_len(), geometry.output_len().max(1));
        let order = |i: usize| if self.column_major { column_major(i, input) } else { i };
        let whole = |(at, i): (usize, &u32)| (at / outputs * plane + order(*i as usize)) as i64;
        let indices: Vec<i64> = within.iter().enumerate().map(whole).collect();
        Ok(tvec!(Some(y), Some(Tensor::from_shape(&shape, &indices)?)))
    }
}

/// Puts each element where an index of `MaxPool` says, in a tensor of zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaxUnpool {
    window: Window,
    /// The value of the input `output_shape`.
    shape: Option<TVec<usize>>,
}

pub fn build_max_unpool(context: &super::Context, node: &NodeProto) -> Built {
    let shape = match node.input.get(2).filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => {
            let mut initializers = context.parent_graphs.iter().flat_map(|graph| &graph.initializer);
            let found = initializers.find(|i| i.name == *name);
            let found = found.with_context(|| format!("output_shape \"{name}\" must be an initializer"))?;
            let dims = context.load_tensor(found)?.cast_to::<i64>()?.into_owned();
            let dims = dims.try_as_plain_ram()?.as_slice::<i64>()?.iter().map(|d| usize::try_from(*d));
            Some(dims.collect::<Result<TVec<usize>, _>>().context("output_shape has a negative size")?)
        }
    };
    build(MaxUnpool { window: Window::parse(node)?, shape }, node)
}

impl MaxUnpool {
    fn output(&self, input: &[TDim]) -> TractResult<TVec<TDim>> {
        if let Some(shape) = &self.shape {
            if shape.len() != input.len() {
                bail!("output_shape {shape:?} is not of the input's rank {}", input.len());
            }
            return Ok(shape.iter().map(|d| d.to_dim()).collect());
        }
        let kernel = self.window.kernel.as_ref().context("the attribute kernel_shape is missing")?;
        let mut dims: TVec<TDim> = input[..2].into();
        for axis in 0..kernel.len() {
            dims.push(self.window.unpooled(axis, &input[axis + 2], kernel[axis])?);
        }
        Ok(dims)
    }
}

impl Operator for MaxUnpool {
    fn name(&self) -> &'static str {
        "MaxUnpool"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let (x, indices) = (required(inputs, 0, "input")?, required(inputs, 1, "index tensor")?);
        check_float(x, "input")?;
        if x.rank() < 3 || indices.rank() != x.rank() {
            bail!("the input has rank {}, the indices {}; expected one rank from 3 to 5", x.rank(), indices.rank());
        }
        self.window.check_axes(x.rank() - 2)?;
        for (axis, (found, expected)) in indices.shape.iter().zip(&x.shape).enumerate() {
            check_dims(found, expected, &format!("indices' axis {axis}"))?;
        }
        Ok(tvec!(Fact { dtype: x.dtype, shape: self.output(&x.shape)? }))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let (x, indices) = (value(inputs, 0)?, value(inputs, 1)?);
        let dims: TVec<TDim> = x.shape().iter().map(|d| d.to_dim()).collect();
        let shape =
            self.output(&dims)?.iter().map(|d| Ok(usize::try_from(d.to_i64()?)?)).collect::<TractResult<TVec<_>>>()?;
        let indices = indices.cast_to::<i64>()?;
        let indices = indices.try_as_plain_ram()?.as_slice::<i64>()?;
        if let Some(at) = indices.iter().position(|i| *i < 0) {
            bail!("index {} at position {at} is negative", indices[at]);
        }
        let values = floats(x)?;
        let y = produce(x.datum_type(), &shape, |y| {
            y.fill(0.0);
            let len = y.len();
            Ok(scatter_elements(y, &[len], indices, &[indices.len()], &values, 0, |_, new| new)?)
        })?;
        Ok(tvec!(Some(y)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AveragePool {
    window: Window,
    count_pads: bool,
}

pub fn build_average_pool(_: &super::Context, node: &NodeProto) -> Built {
    let count_pads = node.get_attr_opt::<i64>("count_include_pad")?.unwrap_or(0) != 0;
    build(AveragePool { window: Window::parse(node)?, count_pads }, node)
}

impl AveragePool {
    /// The window on an input of known shape, the result's shape, and what is divided by.
    pub fn window(&self, x: &[usize]) -> TractResult<(Geometry, TVec<usize>, Divisor)> {
        let (geometry, shape, after) = windowed(&self.window, x)?;
        Ok((geometry, shape, if self.count_pads { Divisor::WithPads { after } } else { Divisor::Inside }))
    }
}

impl Operator for AveragePool {
    fn name(&self) -> &'static str {
        "AveragePool"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        Ok(tvec!(pooled(&self.window, inputs)?))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let x = value(inputs, 0)?;
        let (geometry, shape, divisor) = self.window(x.shape())?;
        let y =
            produce(x.datum_type(), &shape, |y| Ok(average_pool(&geometry, planes(&shape), divisor, &floats(x)?, y)?))?;
        Ok(tvec!(Some(y)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalAveragePool;

pub fn build_global_average_pool(_: &super::Context, node: &NodeProto) -> Built {
    build(GlobalAveragePool, node)
}

impl Operator for GlobalAveragePool {
    fn name(&self) -> &'static str {
        "GlobalAveragePool"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let x = required(inputs, 0, "input")?;
        check_float(x, "input")?;
        if x.rank() < 3 {
            bail!("the input has rank {}, expected batch, channels and spatial axes", x.rank());
        }
        let ones = std::iter::repeat_n(1.to_dim(), x.rank() - 2);
        Ok(tvec!(Fact::new(x.dtype, x.shape[..2].iter().cloned().chain(ones))))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let x = value(inputs, 0)?;
        let mut shape: TVec<usize> = x.shape().into();
        let plane = shape[2..].iter().product();
        shape[2..].fill(1);
        let y = produce(x.datum_type(), &shape, |y| Ok(global_average_pool(plane, &floats(x)?, y)?))?;
        Ok(tvec!(Some(y)))
    }
}
