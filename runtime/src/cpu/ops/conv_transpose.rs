//! `ConvTranspose`: the gradient of a convolution with respect to its input.

use npc_kernels::cpu::Geometry;
use npc_kernels::cpu::conv::Convolution;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Fact, Operator, build};
use super::tensors::{
    check_dims, check_float, check_rank, floats, optional, optional_floats, produce, required, value,
};
use super::window::{Padding, Window};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvTranspose {
    window: Window,
    groups: usize,
    output_padding: Option<TVec<usize>>,
    output_shape: Option<TVec<usize>>,
}

pub fn build_conv_transpose(_: &super::Context, node: &NodeProto) -> Built {
    let operator = ConvTranspose {
        window: Window::parse(node)?,
        groups: node.get_attr_opt::<usize>("group")?.unwrap_or(1),
        output_padding: node.get_attr_opt_tvec("output_padding")?,
        output_shape: node.get_attr_opt_tvec("output_shape")?,
    };
    build(operator, node)
}

impl ConvTranspose {
    /// Output size of one axis and the pad in front of it; ONNX's `ConvTranspose` gives the formulas.
    fn place(&self, axis: usize, input: &TDim, kernel: usize) -> TractResult<(TDim, usize)> {
        if kernel == 0 {
            bail!("the weight has no element along spatial axis {axis}");
        }
        let stride = self.window.stride(axis);
        let extra = self.output_padding.as_ref().map_or(0, |p| p[axis]);
        // The output without any pads.
        let full = (input.clone() - 1) * stride + (extra + (kernel - 1) * self.window.dilation(axis) + 1);
        let same = matches!(self.window.padding, Padding::SameUpper | Padding::SameLower);
        let shape = match &self.output_shape {
            Some(shape) => Some(shape[axis].to_dim()),
            None => same.then(|| input.clone() * stride),
        };
        let Some(shape) = shape else {
            return Ok(match &self.window.padding {
                Padding::Explicit(before, after) => (full - before[axis] - after[axis], before[axis]),
                _ => (full, 0),
            });
        };
        let total = full - &shape;
        let total = total.to_i64().context("output_shape and auto_pad need spatial axes that are numbers")?;
        let total = total.max(0) as usize;
        let upper = self.window.padding == Padding::SameUpper;
        Ok((shape, if upper { total / 2 } else { total - total / 2 }))
    }
}

impl ConvTranspose {
    /// The result's shape, and the window of the convolution whose input gradient this is.
    pub fn window(&self, dy: &[usize], w: &[usize]) -> TractResult<(Vec<usize>, Geometry)> {
        let (input, kernel) = (&dy[2..], &w[2..]);
        let mut shape = vec![dy[0], w[1] * self.groups];
        let mut before = tvec!();
        for axis in 0..input.len() {
            let (size, pad) = self.place(axis, &input[axis].to_dim(), kernel[axis])?;
            shape.push(usize::try_from(size.to_i64()?).context("the pads leave an output of negative size")?);
            before.push(pad as isize);
        }
        let geometry = self.window.geometry(&shape[2..], input, kernel, &before)?;
        Ok((shape, geometry))
    }

    pub fn groups(&self) -> usize {
        self.groups
    }
}

impl Operator for ConvTranspose {
    fn name(&self) -> &'static str {
        "ConvTranspose"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let (x, w) = (required(inputs, 0, "input")?, required(inputs, 1, "weight")?);
        check_float(x, "input")?;
        if x.rank() < 3 {
            bail!("the input has rank {}, expected batch, channels and 1 to 3 spatial axes", x.rank());
        }
        let axes = x.rank() - 2;
        self.window.check_axes(axes)?;
        for (name, values) in [("output_padding", &self.output_padding), ("output_shape", &self.output_shape)] {
            if let Some(values) = values.as_ref().filter(|v| v.len() != axes) {
                bail!("{name} is for {} spatial axes, the input has {axes}", values.len());
            }
        }
        check_rank(w, x.rank(), "weight")?;
        check_dims(&x.shape[1], &w.shape[0], "number of input channels")?;
        if w.dtype != x.dtype {
            bail!("the weight is {:?}, the input {:?}", w.dtype, x.dtype);
        }
        let channels = w.shape[1].clone() * self.groups;
        if let Some(bias) = optional(inputs, 2) {
            check_rank(bias, 1, "bias")?;
            check_dims(&bias.shape[0], &channels, "bias's length")?;
        }
        let mut shape = tvec!(x.shape[0].clone(), channels);
        for axis in 0..axes {
            let kernel = w.shape[axis + 2].to_usize().context("the weight's kernel sizes must be numbers")?;
            shape.push(self.place(axis, &x.shape[axis + 2], kernel)?.0);
        }
        if let Some(negative) = shape.iter().find(|dim| dim.to_i64().is_ok_and(|d| d < 0)) {
            bail!("the pads leave an output of {negative} elements");
        }
        Ok(tvec!(Fact { dtype: x.dtype, shape }))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let (dy, w) = (value(inputs, 0)?, value(inputs, 1)?);
        let (shape, geometry) = self.window(dy.shape(), w.shape())?;
        let convolution = Convolution::new(shape[0], self.groups, shape[1], w.shape()[0], geometry)?;
        let (bias, weight) = (optional_floats(inputs, 2)?, floats(w)?);
        let y = produce(dy.datum_type(), &shape, |y| {
            Ok(convolution.data_gradient(&floats(dy)?, &weight, bias.as_deref(), y)?)
        })?;
        Ok(tvec!(Some(y)))
    }
}
