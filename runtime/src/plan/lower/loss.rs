//! Cross-entropy and negative log-likelihood from elementwise work, a gather and reductions.

use super::*;
use npc_kernels::cpu::loss::Reduction;
use npc_kernels::cuda::index::Picks;

impl Lowering<'_> {
    /// −w[label] · log p[label], reduced; labels equal to `ignore_index` have neither loss nor weight. A label that is no
    /// class is counted as an index out of range.
    pub(super) fn loss(&mut self, node: &TypedNode, op: &OnnxNode<Loss>) -> Result<()> {
        let name = &node.name;
        let scores = self.readable(node.inputs[0], name)?;
        let labels = self.indices(node, 1)?;
        let logarithm = if op.operator.scores { self.softened(node, scores, &[1], true)? } else { scores };
        let logarithm = self.settled(logarithm, name);
        let shape = logarithm.shape.clone();
        let (outer, classes, inner) = (shape[0] as u64, shape[1] as u64, shape[2..].iter().product::<usize>() as u64);
        let flat = labels.shape.clone();
        let of = |v: &View| Operand::View(v.clone());
        let whole = |x: i64| Operand::Constant(DType::I64, Scalar::I64(x));
        let float = |x: f32| Operand::Constant(DType::F32, Scalar::Float(x));
        let ignored = match op.operator.ignore_index {
            Some(index) => Some(self.apply_shaped(name, &flat, Operation::Equal, &[of(&labels), whole(index)])?),
            None => None,
        };
        // A gather counts negative indices from the end; a label it must not.
        let negative = self.apply_shaped(name, &flat, Operation::Less, &[of(&labels), whole(0)])?;
        let past = whole(classes as i64);
        let mut safe = self.apply_shaped(name, &flat, Operation::Select, &[of(&negative), past, of(&labels)])?;
        if let Some(ignored) = &ignored {
            safe = self.apply_shaped(name, &flat, Operation::Select, &[of(ignored), whole(0), of(&safe)])?;
        }
        let picked = self.draft.buffer(name, DType::F32, safe.len(), Source::Computed);
        let picks = Picks { outer, extent: classes, inner, picks: 1 };
        let reads = vec![logarithm.buffer, safe.buffer];
        self.draft.push(name, Task::Gather { picks, each: true }, reads, vec![picked]);
        let picked = View::dense(picked, &flat);
        let mut weight = match Self::slot(op, 2) {
            Some(input) => {
                let weights = self.dense(node.inputs[input], name)?;
                let found = self.draft.buffer(name, DType::F32, safe.len(), Source::Computed);
                let picks = Picks { outer: 1, extent: classes, inner: 1, picks: safe.len() as u64 };
                self.draft.push(
                    name,
                    Task::Gather { picks, each: false },
                    vec![weights.buffer, safe.buffer],
                    vec![found],
                );
                Operand::View(View::dense(found, &flat))
            }
            None => float(1.0),
        };
        let mut term = self.apply_shaped(name, &flat, Operation::Multiply, &[of(&picked), weight.clone()])?;
        term = self.apply_shaped(name, &flat, Operation::Negate, &[of(&term)])?;
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
