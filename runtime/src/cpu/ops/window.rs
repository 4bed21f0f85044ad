//! The attributes that convolution and pooling share.

use npc_kernels::cpu::{Geometry, output_size};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// Before and after each axis.
    Explicit(TVec<usize>, TVec<usize>),
    Valid,
    SameUpper,
    SameLower,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub kernel: Option<TVec<usize>>,
    strides: Option<TVec<usize>>,
    dilations: Option<TVec<usize>>,
    pub padding: Padding,
    pub ceil: bool,
}

/// A window on an input of known sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub output: TVec<usize>,
    pub before: TVec<usize>,
    pub after: TVec<usize>,
}

impl Window {
    pub fn parse(node: &NodeProto) -> TractResult<Self> {
        let pads = node.get_attr_opt_vec::<i64>("pads")?;
        let padding = match node.get_attr_opt::<&str>("auto_pad")?.unwrap_or("NOTSET") {
            "NOTSET" => match pads {
                None => Padding::Valid,
                Some(pads) if pads.len() % 2 == 0 && pads.iter().all(|p| *p >= 0) => {
                    let (before, after) = pads.split_at(pads.len() / 2);
                    let sizes = |pads: &[i64]| pads.iter().map(|p| *p as usize).collect();
                    Padding::Explicit(sizes(before), sizes(after))
                }
                Some(pads) => bail!("pads {pads:?} must be one non-negative pair an axis"),
            },
            "VALID" => Padding::Valid,
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            other => bail!("auto_pad \"{other}\" is not one of NOTSET, VALID, SAME_UPPER, SAME_LOWER"),
        };
        let sizes = |name: &str| -> TractResult<Option<TVec<usize>>> {
            let Some(values) = node.get_attr_opt_vec::<i64>(name)? else { return Ok(None) };
            if values.iter().any(|v| *v < 1) {
                bail!("{name} {values:?} must be positive");
            }
            Ok(Some(values.into_iter().map(|v| v as usize).collect()))
        };
        Ok(Window {
            kernel: sizes("kernel_shape")?,
            strides: sizes("strides")?,
            dilations: sizes("dilations")?,
            padding,
            ceil: node.get_attr_opt::<i64>("ceil_mode")?.unwrap_or(0) != 0,
        })
    }

    pub fn stride(&self, axis: usize) -> usize {
        self.strides.as_ref().map_or(1, |s| s[axis])
    }

    pub fn dilation(&self, axis: usize) -> usize {
        self.dilations.as_ref().map_or(1, |d| d[axis])
    }

    /// Refuses attributes of another number of axes than `axes`.
    pub fn check_axes(&self, axes: usize) -> TractResult<()> {
        let (before, after) = match &self.padding {
            Padding::Explicit(before, after) => (Some(before), Some(after)),
            _ => (None, None),
        };
        let named = [
            ("kernel_shape", self.kernel.as_ref()),
            ("strides", self.strides.as_ref()),
            ("dilations", self.dilations.as_ref()),
            ("pads", before),
            ("pads", after),
        ];
        for (name, values) in named {
            if let Some(values) = values
                && values.len() != axes
            {
                bail!("{name} is for {} spatial axes, the input has {axes}", values.len());
            }
        }
        if !(1..=3).contains(&axes) {
            bail!("the input has {axes} spatial axes; 1 to 3 are supported");
        }
        Ok(())
    }

    /// Pads before and after an axis of `input` elements.
    fn pads(&self, axis: usize, input: usize, kernel: usize) -> (usize, usize) {
        let (stride, dilation) = (self.stride(axis), self.dilation(axis));
        let same = || {
            let reach = (input.div_ceil(stride).max(1) - 1) * stride + (kernel - 1) * dilation + 1;
            reach.saturating_sub(input)
        };
        match &self.padding {
            Padding::Explicit(before, after) => (before[axis], after[axis]),
            Padding::Valid => (0, 0),
            Padding::SameUpper => (same() / 2, same() - same() / 2),
            Padding::SameLower => (same() - same() / 2, same() / 2),
        }
    }

    /// Output sizes and pads for known sizes.
    pub fn place(&self, input: &[usize], kernel: &[usize]) -> TractResult<Placed> {
        let mut placed = Placed { output: tvec!(), before: tvec!(), after: tvec!() };
        for (axis, (&input, &kernel)) in input.iter().zip(kernel).enumerate() {
            if kernel == 0 {
                bail!("the window has no element along spatial axis {axis}");
            }
            let pads = self.pads(axis, input, kernel);
            let size = output_size(input, kernel, self.stride(axis), self.dilation(axis), pads, self.ceil);
            placed.output.push(size.with_context(|| {
                format!(
                    "the window of {kernel} does not fit spatial axis {axis} of {input} elements and its pads {pads:?}"
                )
            })?);
            placed.before.push(pads.0);
            placed.after.push(pads.1);
        }
        Ok(placed)
    }

    /// Output sizes, symbolic where the input's or the kernel's are.
    pub fn output_dims(&self, input: &[TDim], kernel: &[TDim]) -> TractResult<TVec<TDim>> {
        let mut dims = tvec!();
        for (axis, (input, kernel)) in input.iter().zip(kernel).enumerate() {
            let stride = self.stride(axis);
            if let (Ok(input), Ok(kernel)) = (input.to_usize(), kernel.to_usize()) {
                let alone = Window { kernel: None, ..self.axis(axis) };
                dims.push(
                    alone.place(&[input], &[kernel]).with_context(|| format!("spatial axis {axis}"))?.output[0]
                        .to_dim(),
                );
                continue;
            }
            let padded = match &self.padding {
                Padding::SameUpper | Padding::SameLower => {
                    dims.push(input.clone().div_ceil(stride as u64));
                    continue;
                }
                Padding::Explicit(before, after) => input.clone() + before[axis] + after[axis],
                Padding::Valid => input.clone(),
            };
            if self.ceil && stride > 1 {
                bail!("ceil_mode needs spatial axis {axis}, which is {input}, to be a number");
            }
            let span = padded - (kernel.clone() - 1) * self.dilation(axis) - 1;
            dims.push(span / stride + 1);
        }
        Ok(dims)
    }

    /// The size that a pool of this window has made `output` of, along one axis: what `MaxUnpool` assumes.
    pub fn unpooled(&self, axis: usize, output: &TDim, kernel: usize) -> TractResult<TDim> {
        let pads = match &self.padding {
            Padding::Explicit(before, after) => before[axis] + after[axis],
            Padding::Valid => 0,
            _ => bail!("auto_pad does not say what size the pool's input had"),
        };
        Ok((output.clone() - 1) * self.stride(axis) + kernel - pads)
    }

    /// The attributes of one axis.
    fn axis(&self, axis: usize) -> Window {
        let padding = match &self.padding {
            Padding::Explicit(before, after) => Padding::Explicit(tvec!(before[axis]), tvec!(after[axis])),
            other => other.clone(),
        };
        Window {
            kernel: self.kernel.as_ref().map(|k| tvec!(k[axis])),
            strides: Some(tvec!(self.stride(axis))),
            dilations: Some(tvec!(self.dilation(axis))),
            padding,
            ceil: self.ceil,
        }
    }

    /// Strides and dilations of every axis.
    fn steps(&self, rank: usize) -> (TVec<usize>, TVec<usize>) {
        (0..rank).map(|axis| (self.stride(axis), self.dilation(axis))).unzip()
    }

    /// The kernels' description of this window; `before` are the pads in front.
    pub fn geometry(
        &self,
        input: &[usize],
        output: &[usize],
        kernel: &[usize],
        before: &[isize],
    ) -> TractResult<Geometry> {
        let (strides, dilations) = self.steps(input.len());
        Ok(Geometry::new(input, output, kernel, &strides, &dilations, before)?)
    }

    /// The same with strides and dilations exchanged: what turns a convolution of transposed tensors into the weight
    /// gradient it stands for.
    pub fn exchanged(
        &self,
        input: &[usize],
        output: &[usize],
        kernel: &[usize],
        before: &[isize],
    ) -> TractResult<Geometry> {
        let (strides, dilations) = self.steps(input.len());
        Ok(Geometry::new(input, kernel, output, &dilations, &strides, before)?)
    }
}

/// Signed pads for [`Window::geometry`].
pub fn signed(pads: &[usize]) -> TVec<isize> {
    pads.iter().map(|p| *p as isize).collect()
}
