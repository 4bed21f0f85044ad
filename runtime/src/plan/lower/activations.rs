//! Functions that the graph library has as one operator, as the elementwise work they are made of; fusion puts it together
//! again.

use super::*;
use tract_onnx::tract_core::ops::nn::{GeluApproximate, GeluExact, HardSwish, LeakyRelu, RmsNorm, Silu};

fn number(x: f32) -> Operand {
    Operand::Constant(DType::F32, Scalar::Float(x))
}

impl Lowering<'_> {
    /// `None` when `op` is none of them.
    pub(super) fn activation(&mut self, node: &TypedNode, op: &ElementWiseOp) -> Result<Option<()>> {
        let op = &*op.0;
        let names = ["GeluExact", "GeluApproximate", "HardSwish", "LeakyRelu", "Silu"];
        if !names.contains(&op.name().as_str()) || self.dtype(node.id.into())? != DType::F32 {
            return Ok(None);
        }
        let x = self.operand(node, 0)?;
        let mut then = |operation, a: &Operand, b: Operand| -> Result<Operand> {
            Ok(Operand::View(self.apply(node, operation, &[a.clone(), b])?))
        };
        let result = if op.is::<GeluExact>() {
            // x/2 · (1 + erf(x/√2))
            let scaled = then(Operation::Multiply, &x, number(std::f32::consts::FRAC_1_SQRT_2))?;
            let erf = Operand::View(self.apply(node, Operation::Erf, &[scaled])?);
            self.half_raised(node, &x, &erf)?
        } else if let Some(GeluApproximate { fast_impl: false }) = op.downcast_ref() {
            // x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))
            let square = then(Operation::Multiply, &x, x.clone())?;
            let inner = then(Operation::Multiply, &square, number(0.044715))?;
            let inner = then(Operation::Add, &inner, number(1.0))?;
            let inner = then(Operation::Multiply, &inner, x.clone())?;
            let inner = then(Operation::Multiply, &inner, number((2.0 / std::f32::consts::PI).sqrt()))?;
            let tanh = Operand::View(self.apply(node, Operation::Tanh, &[inner])?);
            self.half_raised(node, &x, &tanh)?
        } else if op.is::<HardSwish>() {
            // x · max(0, min(1, x/6 + 1/2))
            let ramp = then(Operation::Multiply, &x, number(1.0 / 6.0))?;
            let ramp = then(Operation::Add, &ramp, number(0.5))?;
            let ramp = then(Operation::Minimum, &ramp, number(1.0))?;
            let ramp = then(Operation::Maximum, &ramp, number(0.0))?;
            then(Operation::Multiply, &ramp, x.clone())?
        } else if let Some(LeakyRelu { alpha }) = op.downcast_ref() {
            let little = then(Operation::Multiply, &x, number(*alpha))?;
            let negative = then(Operation::Less, &x, number(0.0))?;
            Operand::View(self.apply(node, Operation::Select, &[negative, little, x.clone()])?)
        } else if op.is::<Silu>() {
            let gate = Operand::View(self.apply(node, Operation::Sigmoid, std::slice::from_ref(&x))?);
            Operand::View(self.apply(node, Operation::Multiply, &[x.clone(), gate])?)
        } else {
            return Ok(None);
        };
        if let Operand::View(view) = result {
            self.values.insert(node.id.into(), view);
        }
        Ok(Some(()))
    }

    /// x/2 · (1 + t)
    fn half_raised(&mut self, node: &TypedNode, x: &Operand, t: &Operand) -> Result<Operand> {
        let raised = self.apply(node, Operation::Add, &[t.clone(), number(1.0)])?;
        let half = self.apply(node, Operation::Multiply, &[x.clone(), number(0.5)])?;
        Ok(Operand::View(self.apply(node, Operation::Multiply, &[Operand::View(half), Operand::View(raised)])?))
    }

    /// x / √(mean(x²) + ε) along an axis.
    pub(super) fn rms_normalise(&mut self, node: &TypedNode, op: &RmsNorm) -> Result<()> {
        let x = self.readable(node.inputs[0], &node.name)?;
        let shape = x.shape.clone();
        let epsilon = Self::graph(op.eps.cast_to_scalar::<f32>())?;
        let square = self.apply(node, Operation::Square, &[Operand::View(x.clone())])?;
        let mean = self.reduced(node, Reduce::Mean, square, &[op.axis])?;
        let small = mean.shape.clone();
        let raised = self.apply_shaped(&node.name, &small, Operation::Add, &[Operand::View(mean), number(epsilon)])?;
        let inverse =
            self.apply_shaped(&node.name, &small, Operation::ReciprocalSquareRoot, &[Operand::View(raised)])?;
        self.map(node, Operation::Multiply, &[Operand::View(x), Operand::View(inverse.broadcast(&shape))])
    }
}
