//! `Conv`, by the algorithm that its shapes ask for.

use npc_kernels::cpu::Geometry;
use npc_kernels::cpu::conv::{Convolution, PlaneStrides};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Fact, OnnxNode, Operator, build};
use super::tensors::{
    check_dims, check_float, check_rank, floats, optional, optional_floats, produce, required, value,
};
use super::window::{Window, signed};

/// A convolution whose kernel is larger than its output is how ONNX spells a weight gradient: `Conv` of the input and
/// the output's gradient, both with batch and channel exchanged, with strides as dilations. It is computed as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conv {
    window: Window,
    groups: usize,
    /// Whether input and weight are fed with axes 0 and 1 exchanged, a transposition having been absorbed.
    exchanged: [bool; 2],
}

pub fn build_conv(_: &super::Context, node: &NodeProto) -> Built {
    let groups = node.get_attr_opt::<usize>("group")?.unwrap_or(1);
    build(Conv { window: Window::parse(node)?, groups, exchanged: [false; 2] }, node)
}

/// A convolution of tensors of known shapes.
pub struct Placed {
    /// Of the result.
    pub shape: TVec<usize>,
    /// The window; for a weight gradient that of the convolution it belongs to.
    pub geometry: Geometry,
    pub role: Role,
}

/// What a `Conv` node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Forward {
        groups: usize,
    },
    /// Input (channels, samples, …), weight (filters, samples, …), result (channels, filters, …); axes 0 and 1 of either
    /// operand may be stored `exchanged`.
    WeightGradient {
        exchanged: [bool; 2],
    },
}

fn is_weight_gradient(groups: usize, kernel: &[usize], output: &[usize]) -> bool {
    groups == 1 && kernel.iter().product::<usize>() > output.iter().product()
}

impl Conv {
    fn kernel(&self, weight: &[TDim]) -> TractResult<()> {
        if let Some(kernel) = &self.window.kernel {
            for (found, expected) in weight.iter().zip(kernel) {
                check_dims(found, &expected.to_dim(), "weight's kernel size")?;
            }
        }
        Ok(())
    }

    fn shape<T: Clone>(&self, operand: usize, stored: &[T]) -> TVec<T> {
        let mut shape: TVec<T> = stored.into();
        if self.exchanged[operand] {
            shape.swap(0, 1);
        }
        shape
    }

    /// The convolution of tensors stored with the shapes `x` and `w`.
    pub fn place(&self, x: &[usize], w: &[usize]) -> TractResult<Placed> {
        let (x, w) = (self.shape(0, x), self.shape(1, w));
        let placed = self.window.place(&x[2..], &w[2..])?;
        let before = signed(&placed.before);
        let shape = [x[0], w[0]].into_iter().chain(placed.output.iter().copied()).collect();
        if is_weight_gradient(self.groups, &w[2..], &placed.output) {
            let geometry = self.window.exchanged(&x[2..], &placed.output, &w[2..], &before)?;
            return Ok(Placed { shape, geometry, role: Role::WeightGradient { exchanged: self.exchanged } });
        }
        if self.exchanged != [false; 2] {
            bail!("transpositions were absorbed for a weight gradient that the shapes do not show");
        }
        let geometry = self.window.geometry(&x[2..], &placed.output, &w[2..], &before)?;
        Ok(Placed { shape, geometry, role: Role::Forward { groups: self.groups } })
    }

    fn weight_gradient(
        &self,
        (x, x_shape): (&[f32], &[usize]),
        (w, w_shape): (&[f32], &[usize]),
        bias: Option<&[f32]>,
        geometry: Geometry,
        y: &mut [f32],
    ) -> TractResult<()> {
        let (channels, filters, samples) = (x_shape[0], w_shape[0], x_shape[1]);
        let planes = |operand: usize, channels: usize, plane: usize| {
            if self.exchanged[operand] {
                PlaneStrides { sample: channels * plane, channel: plane }
            } else {
                PlaneStrides { sample: plane, channel: samples * plane }
            }
        };
        let (x_planes, w_planes) =
            (planes(0, channels, geometry.input_len()), planes(1, filters, geometry.output_len()));
        let convolution = Convolution::new(samples, 1, channels, filters, geometry)?;
        let mut gradient = vec![0.0; convolution.w_len()];
        convolution.weight_gradient_strided(x, x_planes, w, w_planes, &mut gradient)?;
        // From (filter, channel, tap) to this convolution's output, (channel, filter, tap).
        let taps = geometry.taps();
        for (at, y) in y.chunks_exact_mut(taps).enumerate() {
            let (channel, filter) = (at / filters, at % filters);
            y.copy_from_slice(&gradient[(filter * channels + channel) * taps..][..taps]);
            if let Some(bias) = bias {
                let bias = bias.get(filter).context("the bias is shorter than the weight")?;
                y.iter_mut().for_each(|y| *y += bias);
            }
        }
        Ok(())
    }
}

impl Operator for Conv {
    fn name(&self) -> &'static str {
        "Conv"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let (x, w) = (required(inputs, 0, "input")?, required(inputs, 1, "weight")?);
        check_float(x, "input")?;
        if x.rank() < 3 {
            bail!("the input has rank {}, expected batch, channels and 1 to 3 spatial axes", x.rank());
        }
        self.window.check_axes(x.rank() - 2)?;
        check_rank(w, x.rank(), "weight")?;
        let (x_shape, w_shape) = (self.shape(0, &x.shape), self.shape(1, &w.shape));
        check_dims(&x_shape[1], &(w_shape[1].clone() * self.groups), "number of input channels")?;
        self.kernel(&w_shape[2..])?;
        if let Ok(filters) = w_shape[0].to_usize()
            && (self.groups == 0 || !filters.is_multiple_of(self.groups))
        {
            bail!("{filters} filters do not divide into {} groups", self.groups);
        }
        if w.dtype != x.dtype {
            bail!("the weight is {:?}, the input {:?}", w.dtype, x.dtype);
        }
        if let Some(bias) = optional(inputs, 2) {
            check_rank(bias, 1, "bias")?;
            check_dims(&bias.shape[0], &w_shape[0], "bias's length")?;
        }
        let spatial = self.window.output_dims(&x_shape[2..], &w_shape[2..])?;
        Ok(tvec!(Fact::new(x.dtype, [x_shape[0].clone(), w_shape[0].clone()].into_iter().chain(spatial))))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let (x, w) = (value(inputs, 0)?, value(inputs, 1)?);
        let placed = self.place(x.shape(), w.shape())?;
        let (x_shape, w_shape) = (self.shape(0, x.shape()), self.shape(1, w.shape()));
        let (weights, bias) = (floats(w)?, optional_floats(inputs, 2)?);
        let y = produce(x.datum_type(), &placed.shape, |y| match placed.role {
            Role::WeightGradient { .. } => {
                let (x, w) = ((&*floats(x)?, &*x_shape), (&*weights, &*w_shape));
                self.weight_gradient(x, w, bias.as_deref(), placed.geometry, y)
            }
            Role::Forward { groups } => {
                let convolution = Convolution::new(x_shape[0], groups, x_shape[1], w_shape[0], placed.geometry)?;
                Ok(convolution.forward(&floats(x)?, &weights, bias.as_deref(), y)?)
            }
        })?;
        Ok(tvec!(Some(y)))
    }

    /// A weight gradient reads its tensors in either order, so transpositions in front of it need not be carried out.
    fn declutter(
        &self,
        node: &OnnxNode<Self>,
        model: &TypedModel,
        at: &TypedNode,
    ) -> TractResult<Option<TypedModelPatch>> {
        let weight = self.shape(1, &model.outlet_fact(at.inputs[1])?.shape);
        let output = &model.outlet_fact(at.id.into())?.shape;
        let known = |dims: &[TDim]| dims.iter().map(|d| d.to_usize().ok()).collect::<Option<TVec<usize>>>();
        let (Some(kernel), Some(output)) = (known(&weight[2..]), known(&output[2..])) else { return Ok(None) };
        if !is_weight_gradient(self.groups, &kernel, &output) {
            return Ok(None);
        }
        let (mut exchanged, mut sources) = (self.exchanged, at.inputs.clone());
        for operand in 0..2 {
            let feeder = model.node(sources[operand].node);
            if let Some(AxisOp::Move(0, 1) | AxisOp::Move(1, 0)) = feeder.op_as::<AxisOp>() {
                exchanged[operand] = !exchanged[operand];
                sources[operand] = feeder.inputs[0];
            }
        }
        if sources == at.inputs {
            return Ok(None);
        }
        let op = OnnxNode { operator: Conv { exchanged, ..self.clone() }, ..node.clone() };
        Ok(Some(TypedModelPatch::replace_single_op(model, at, &sources, op)?))
    }
}
