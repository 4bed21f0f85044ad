//! Softmax and layer normalisation from elementwise work and reductions, which fusion puts back together.

use super::*;
use tract_onnx::tract_core::ops::nn::SoftmaxKind;

impl Lowering<'_> {
    /// exp(x − max) / Σ exp(x − max), or its logarithm.
    pub(super) fn softmax(&mut self, node: &TypedNode, op: &Softmax) -> Result<()> {
        if op.quant_output_dt.is_some() {
            return Err(self.refuse(node, "Softmax", " with a quantized result"));
        }
        let x = self.readable(node.inputs[0], &node.name)?;
        let highest = self.reduced(node, Reduce::Maximum, x.clone(), &op.axes)?;
        let shape = x.shape.clone();
        let wide = |v: View| Operand::View(v.broadcast(&shape));
        let below = self.apply(node, Operation::Subtract, &[Operand::View(x), wide(highest)])?;
        let power = self.apply(node, Operation::Exp, &[Operand::View(below.clone())])?;
        let total = self.reduced(node, Reduce::Sum, power.clone(), &op.axes)?;
        match op.kind {
            SoftmaxKind::Softmax => self.map(node, Operation::Divide, &[Operand::View(power), wide(total)]),
            SoftmaxKind::LogSoftmax => {
                let small = total.shape.clone();
                let logarithm = self.apply_shaped(&node.name, &small, Operation::Log, &[Operand::View(total)])?;
                self.map(node, Operation::Subtract, &[Operand::View(below), wide(logarithm)])
            }
        }
    }

    /// (x − mean) / √(mean((x − mean)²) + ε) · scale + bias, with mean and inverse deviation as further outputs.
    pub(super) fn layer_normalise(&mut self, node: &TypedNode, op: &OnnxNode<LayerNormalization>) -> Result<()> {
        let x = self.readable(node.inputs[0], &node.name)?;
        let shape = x.shape.clone();
        let axis = op.operator.axis(shape.len()).map_err(|e| PlanError::Graph(crate::error::one_line(&e)))?;
        let axes: Vec<usize> = (axis..shape.len()).collect();
        let wide = |v: View| Operand::View(v.broadcast(&shape));
        let mean = self.reduced(node, Reduce::Mean, x.clone(), &axes)?;
        let centred = self.apply(node, Operation::Subtract, &[Operand::View(x), wide(mean.clone())])?;
        let square = self.apply(node, Operation::Square, &[Operand::View(centred.clone())])?;
        let variance = self.reduced(node, Reduce::Mean, square, &axes)?;
        let small = variance.shape.clone();
        let epsilon = Operand::Constant(DType::F32, Scalar::Float(op.operator.epsilon()));
        let raised = self.apply_shaped(&node.name, &small, Operation::Add, &[Operand::View(variance), epsilon])?;
        let inverse =
            self.apply_shaped(&node.name, &small, Operation::ReciprocalSquareRoot, &[Operand::View(raised)])?;
        let mut y = self.apply(node, Operation::Multiply, &[Operand::View(centred), wide(inverse.clone())])?;
        let slots = op.inputs.iter().enumerate().filter(|(_, present)| **present).map(|(slot, _)| slot);
        for (input, slot) in slots.enumerate().skip(1) {
            let mut factor = self.readable(node.inputs[input], &node.name)?;
            while factor.shape.len() < shape.len() {
                factor = factor.with_axis(0);
            }
            let operation = if slot == 1 { Operation::Multiply } else { Operation::Add };
            y = self.apply(node, operation, &[Operand::View(y), wide(factor)])?;
        }
        let results = [y, mean, inverse];
        let wanted = op.outputs.iter().enumerate().filter(|(_, wanted)| **wanted).map(|(slot, _)| slot);
        for (output, slot) in wanted.enumerate() {
            self.values.insert(OutletId::new(node.id, output), results[slot].clone());
        }
        Ok(())
    }
}
