//! Cross-entropy and negative log-likelihood: the losses of the labels by their own kernel, or picked by a gather; weights and
//! reductions as elementwise work.

use super::*;
use npc_kernels::cpu::loss::{LossShape, Reduction};
use npc_kernels::cuda::index::Picks;

impl Lowering<'_> {
    /// −w[label] · log p[label], reduced; labels equal to `ignore_index` have neither loss nor weight. A label that is no
    /// class is counted as an index out of range.
    pub(super) fn loss(&mut self, node: &TypedNode, op: &OnnxNode<Loss>) -> Result<()> {
        let name = &node.name;
        let scores = self.float(node, 0)?;
        let labels = self.indices(node, 1)?;
        let shape = scores.shape.clone();
        let size = LossShape { batch: shape[0], classes: shape[1], positions: shape[2..].iter().product() };
        let (outer, classes, inner) = (size.batch as u64, size.classes as u64, size.positions as u64);
        let flat = labels.shape.clone();
        let of = |v: &View| Operand::View(v.clone());
        let whole = |x: i64| Operand::Constant(DType::I64, Scalar::I64(x));
        let float = |x: f32| Operand::Constant(DType::F32, Scalar::Float(x));
        let (mut ignored, mut safe) = (None, labels.clone());
        if let Some(index) = op.operator.ignore_index {
            let is_ignored = self.apply_shaped(name, &flat, Operation::Equal, &[of(&labels), whole(index)])?;
            safe = self.apply_shaped(name, &flat, Operation::Select, &[of(&is_ignored), whole(0), of(&labels)])?;
            ignored = Some(is_ignored);
        }
        let weights = Self::slot(op, 2);
        // A gather counts negative indices from the end; a label it must not.
        let index = if op.operator.scores && weights.is_none() {
            safe.clone()
        } else {
            let negative = self.apply_shaped(name, &flat, Operation::Less, &[of(&safe), whole(0)])?;
            let past = whole(classes as i64);
            self.apply_shaped(name, &flat, Operation::Select, &[of(&negative), past, of(&safe)])?
        };
        let room = |lowering: &mut Self, shape: &[usize]| {
            let id = lowering.draft.buffer(name, DType::F32, shape.iter().product(), Source::Computed);
            View::dense(id, shape)
        };
        let (mut term, logarithm) = if op.operator.scores {
            let [term, logarithm] = [&flat, &shape].map(|shape| room(self, shape));
            let task = Task::CrossEntropy { shape: size, gradient: None, logarithm: true };
            self.draft.push(name, task, vec![scores.buffer, safe.buffer], vec![term.buffer, logarithm.buffer]);
            (term, logarithm)
        } else {
            let picked = room(self, &flat);
            let picks = Picks { outer, extent: classes, inner, picks: 1 };
            let reads = vec![scores.buffer, index.buffer];
            self.draft.push(name, Task::Gather { picks, each: true }, reads, vec![picked.buffer]);
            (self.apply_shaped(name, &flat, Operation::Negate, &[of(&picked)])?, scores)
        };
        let mut weight = float(1.0);
        if let Some(input) = weights {
            let (weights, found) = (self.dense(node.inputs[input], name)?, room(self, &flat));
            let picks = Picks { outer: 1, extent: classes, inner: 1, picks: found.len() as u64 };
            let reads = vec![weights.buffer, index.buffer];
            self.draft.push(name, Task::Gather { picks, each: false }, reads, vec![found.buffer]);
            term = self.apply_shaped(name, &flat, Operation::Multiply, &[of(&term), of(&found)])?;
            weight = of(&found);
        }
        if let Some(ignored) = &ignored {
            term = self.apply_shaped(name, &flat, Operation::Select, &[of(ignored), float(0.0), of(&term)])?;
            weight = of(&self.apply_shaped(name, &flat, Operation::Select, &[of(ignored), float(0.0), weight])?);
        }
        let axes: Vec<usize> = (0..flat.len()).collect();
        let ones = vec![1; flat.len()];
        let loss = match op.operator.reduction {
            Reduction::None => term,
            Reduction::Sum => self.reduced(node, Reduce::Sum, term, &axes)?,
            Reduction::Mean => {
                let sum = self.reduced(node, Reduce::Sum, term, &axes)?;
                let total = match weight {
                    Operand::View(weight) => of(&self.reduced(node, Reduce::Sum, weight, &axes)?),
                    Operand::Constant(..) => float(flat.iter().product::<usize>() as f32),
                };
                self.apply_shaped(name, &ones, Operation::Divide, &[of(&sum), total])?
            }
        };
        let shape = if op.operator.reduction == Reduction::None { flat } else { Vec::new() };
        self.settle(node, op, &[View::dense(loss.buffer, &shape), logarithm]);
        Ok(())
    }
}
