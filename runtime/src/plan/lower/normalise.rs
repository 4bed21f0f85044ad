//! Softmax and normalisation: kernels of their own along the last axes of float32 values, otherwise elementwise work and
//! reductions, which fusion puts back together.

use super::*;
use npc_kernels::cuda::norm::Channels;
use tract_onnx::tract_core::ops::nn::SoftmaxKind;

/// Rows and columns of a shape whose last axes are `axes`.
fn rows(shape: &[usize], axes: &[usize]) -> Option<(u64, u64)> {
    let first = shape.len().checked_sub(axes.len())?;
    let product = |dims: &[usize]| dims.iter().product::<usize>() as u64;
    (0..axes.len()).all(|i| axes.contains(&(first + i))).then(|| (product(&shape[..first]), product(&shape[first..])))
}

impl Lowering<'_> {
    /// exp(x − max) / Σ exp(x − max), or its logarithm.
    pub(super) fn softmax(&mut self, node: &TypedNode, op: &Softmax) -> Result<()> {
        if op.quant_output_dt.is_some() {
            return Err(self.refuse(node, "Softmax", " with a quantized result"));
        }
        let x = self.readable(node.inputs[0], &node.name)?;
        let view = self.softened(node, x, &op.axes, matches!(op.kind, SoftmaxKind::LogSoftmax))?;
        self.values.insert(node.id.into(), view);
        Ok(())
    }

    /// The softmax of a view, or its logarithm.
    pub(super) fn softened(&mut self, node: &TypedNode, x: View, axes: &[usize], logarithm: bool) -> Result<View> {
        let shape = x.shape.clone();
        if let Some((rows, columns)) = rows(&shape, axes)
            && self.draft.buffers[x.buffer].dtype == DType::F32
        {
            let x = self.settled(x, &node.name);
            let y = self.draft.buffer(&node.name, DType::F32, x.len(), Source::Computed);
            self.draft.push(&node.name, Task::Softmax { rows, columns, logarithm }, vec![x.buffer], vec![y]);
            return Ok(View::dense(y, &shape));
        }
        let wide = |v: View| Operand::View(v.broadcast(&shape));
        let highest = self.reduced(node, Reduce::Maximum, x.clone(), axes)?;
        let below = self.apply_shaped(&node.name, &shape, Operation::Subtract, &[Operand::View(x), wide(highest)])?;
        let power = self.apply_shaped(&node.name, &shape, Operation::Exp, &[Operand::View(below.clone())])?;
        let total = self.reduced(node, Reduce::Sum, power.clone(), axes)?;
        if !logarithm {
            return self.apply_shaped(&node.name, &shape, Operation::Divide, &[Operand::View(power), wide(total)]);
        }
        let small = total.shape.clone();
        let total = self.apply_shaped(&node.name, &small, Operation::Log, &[Operand::View(total)])?;
        self.apply_shaped(&node.name, &shape, Operation::Subtract, &[Operand::View(below), wide(total)])
    }

    /// (x − mean) / √(mean((x − mean)²) + ε) · scale + bias, with mean and inverse deviation as further outputs.
    pub(super) fn layer_normalise(&mut self, node: &TypedNode, op: &OnnxNode<LayerNormalization>) -> Result<()> {
        let x = self.readable(node.inputs[0], &node.name)?;
        let shape = x.shape.clone();
        let axis = op.operator.axis(shape.len()).map_err(|e| PlanError::Graph(crate::error::one_line(&e)))?;
        let axes: Vec<usize> = (axis..shape.len()).collect();
        if self.normalised_rows(node, op, &x, &axes)? {
            return Ok(());
        }
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
        self.settle(node, op, &[y, mean, inverse]);
        Ok(())
    }

    /// The same by its own kernel, where all is float32 and scale and bias have an element for every column.
    fn normalised_rows(
        &mut self,
        node: &TypedNode,
        op: &OnnxNode<LayerNormalization>,
        x: &View,
        axes: &[usize],
    ) -> Result<bool> {
        let Some((rows, columns)) = rows(&x.shape, axes) else { return Ok(false) };
        let mut reads = Vec::new();
        for input in 0..node.inputs.len() {
            let view = self.value(node.inputs[input])?;
            let fits = input == 0 || view.len() as u64 == columns;
            if !fits || self.draft.buffers[view.buffer].dtype != DType::F32 {
                return Ok(false);
            }
            reads.push(self.settled(view, &node.name).buffer);
        }
        let mut small = x.shape.clone();
        axes.iter().for_each(|axis| small[*axis] = 1);
        let mut room = |shape: &[usize]| {
            View::dense(self.draft.buffer(&node.name, DType::F32, shape.iter().product(), Source::Computed), shape)
        };
        let results = [room(&x.shape), room(&small), room(&small)];
        let writes = results.iter().map(|v| v.buffer).collect();
        let task = Task::LayerNorm { rows, columns, epsilon: op.operator.epsilon() };
        self.draft.push(&node.name, task, reads, writes);
        self.settle(node, op, &results);
        Ok(true)
    }

    /// (x − mean) / √(variance + ε) · scale + bias by channel (axis 1); in training mean and variance are the batch's own,
    /// and what the running ones become is an output.
    pub(super) fn batch_normalise(&mut self, node: &TypedNode, op: &OnnxNode<BatchNormalization>) -> Result<()> {
        let (x, epsilon) = (self.float(node, 0)?, op.operator.epsilon());
        let shape = x.shape.clone();
        let name = &node.name;
        let mut small = vec![1; shape.len()];
        small[1] = shape[1];
        let mut given = Vec::new();
        for input in 1..5 {
            let dense = self.float(node, input)?;
            given.push(View::dense(dense.buffer, &small));
        }
        let [scale, bias, mean, variance] = [0, 1, 2, 3].map(|i| given[i].clone());
        let constant = |x: f32| Operand::Constant(DType::F32, Scalar::Float(x));
        let of = |v: &View| Operand::View(v.clone());
        let Some(momentum) = op.operator.momentum() else {
            let wide = |v: &View| Operand::View(v.clone().broadcast(&shape));
            let raised = self.apply_shaped(name, &small, Operation::Add, &[of(&variance), constant(epsilon)])?;
            let inverse = self.apply_shaped(name, &small, Operation::ReciprocalSquareRoot, &[of(&raised)])?;
            let factor = self.apply_shaped(name, &small, Operation::Multiply, &[of(&inverse), of(&scale)])?;
            let centred = self.apply_shaped(name, &shape, Operation::Subtract, &[of(&x), wide(&mean)])?;
            let scaled = self.apply_shaped(name, &shape, Operation::Multiply, &[of(&centred), wide(&factor)])?;
            let y = self.apply_shaped(name, &shape, Operation::Add, &[of(&scaled), wide(&bias)])?;
            self.settle(node, op, &[y]);
            return Ok(());
        };
        let room = |lowering: &mut Self, shape: &[usize]| {
            let elements = shape.iter().product();
            View::dense(lowering.draft.buffer(name, DType::F32, elements, Source::Computed), shape)
        };
        let [y, batch_mean, batch_variance] = [&shape, &small, &small].map(|shape| room(self, shape));
        let [batch, channels] = [shape[0], shape[1]].map(|n| n as u64);
        let channels = Channels { batch, channels, positions: shape[2..].iter().product::<usize>() as u64 };
        let reads = [&x, &scale, &bias].map(|v| v.buffer).to_vec();
        let writes = [&y, &batch_mean, &batch_variance].map(|v| v.buffer).to_vec();
        self.draft.push(name, Task::BatchNorm { shape: channels, epsilon }, reads, writes);
        let mut results = vec![y];
        for (old, new) in [(&mean, &batch_mean), (&variance, &batch_variance)] {
            let old = self.apply_shaped(name, &small, Operation::Multiply, &[of(old), constant(momentum)])?;
            let new = self.apply_shaped(name, &small, Operation::Multiply, &[of(new), constant(1.0 - momentum)])?;
            let next = self.apply_shaped(name, &small, Operation::Add, &[of(&old), of(&new)])?;
            results.push(View::dense(next.buffer, &shape[1..2]));
        }
        results.extend([&batch_mean, &batch_variance].map(|v| View::dense(v.buffer, &shape[1..2])));
        self.settle(node, op, &results);
        Ok(())
    }
}
