//! `SoftmaxCrossEntropyLoss` and `NegativeLogLikelihoodLoss` of ONNX (opset 13) with their gradients.
//!
//! Scores and log-probabilities are float32 (batch, classes, positions), labels (batch, positions). A loss is float32, one for
//! each label without a reduction, else a single one, added up in float64. What [`crate::cpu::loss`] computes, except that a
//! label out of range is counted and otherwise treated as ignored.

use super::norm::by_row;
use super::{Argument, DevicePointer, Launch, Source};
use crate::cpu::loss::{LossShape, Reduction};

/// Most blocks that share a sum.
const SHARES: u64 = 128;
/// Labels that a block adds up.
const SHARE: u64 = 4096;

/// What both losses take besides the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Class ids (batch, positions): int64 if `wide`, else int32.
    pub ids: DevicePointer,
    pub wide: bool,
    /// One float32 factor a class, or null.
    pub weights: DevicePointer,
    /// A label of this value adds neither loss nor weight. It need not be a class.
    pub ignore_index: Option<i64>,
    pub reduction: Reduction,
    /// A uint32 that counts labels that are no class and not ignored.
    pub bad: DevicePointer,
}

/// The scratch memory: shares of the losses, shares of the weights, the total weight, and a float32 loss for each label.
#[derive(Clone, Copy)]
struct Scratch {
    losses: DevicePointer,
    weights: DevicePointer,
    total: DevicePointer,
    terms: DevicePointer,
}

impl Scratch {
    const TERMS: u64 = 8 * (2 * SHARES + 2);

    fn at(start: DevicePointer) -> Self {
        let [weights, total] = [8 * SHARES, 16 * SHARES].map(|bytes| start.offset(bytes));
        Scratch { losses: start, weights, total, terms: start.offset(Self::TERMS) }
    }
}

/// Bytes of the memory that every loss with a reduction takes as `scratch`.
pub fn scratch_bytes(shape: LossShape) -> u64 {
    Scratch::TERMS + 4 * (shape.batch * shape.positions) as u64
}

/// One loss over one shape.
struct Plan {
    shape: LossShape,
    labels: Labels,
    scratch: Scratch,
    /// Whether the gradient of what became of the losses is one for each.
    each: bool,
    launches: Vec<Launch>,
}

impl Plan {
    fn new(shape: LossShape, labels: Labels, scratch: DevicePointer) -> Self {
        let each = labels.reduction == Reduction::None;
        Plan { shape, labels, scratch: Scratch::at(scratch), each, launches: vec![] }
    }

    fn count(&self) -> u64 {
        (self.shape.batch * self.shape.positions) as u64
    }

    fn shares(&self) -> u64 {
        self.count().div_ceil(SHARE).clamp(1, SHARES)
    }

    fn pick(&self, kernels: [&'static str; 2]) -> &'static str {
        kernels[usize::from(self.labels.wide)]
    }

    /// `struct Labels` of the source.
    fn description(&self) -> Argument {
        let mut out = vec![];
        let LossShape { batch, classes, positions } = self.shape;
        [batch, classes, positions].iter().for_each(|size| out.extend((*size as u64).to_le_bytes()));
        out.extend(self.labels.ignore_index.unwrap_or(0).to_le_bytes());
        out.extend(u64::from(self.labels.ignore_index.is_some()).to_le_bytes());
        Argument::Bytes(out)
    }

    /// Where the losses of the labels go.
    fn terms(&self, loss: DevicePointer) -> DevicePointer {
        if self.labels.reduction == Reduction::None { loss } else { self.scratch.terms }
    }

    /// Only then have the labels weights that differ.
    fn weighted(&self) -> bool {
        let differ = self.labels.weights != DevicePointer::NULL || self.labels.ignore_index.is_some();
        self.labels.reduction == Reduction::Mean && differ
    }

    /// Where the total weight is, and what stands in for it where it is null.
    fn divisor(&self) -> [Argument; 2] {
        let total = if self.weighted() { self.scratch.total } else { DevicePointer::NULL };
        let elements = if self.labels.reduction == Reduction::Mean { self.count() } else { 1 };
        [Argument::Pointer(total), Argument::U64(elements)]
    }

    /// `struct Scale` of the source, member by member.
    fn scale(&self, upstream: DevicePointer) -> [Argument; 4] {
        let [total, elements] = self.divisor();
        [total, Argument::Pointer(upstream), elements, Argument::U32(self.each.into())]
    }

    fn in_blocks(&mut self, blocks: u64, kernel: &'static str, arguments: Vec<Argument>) {
        self.launches.push(Launch::blocks(Source::Loss, kernel, blocks, arguments));
    }

    /// Adds up the labels' weights.
    fn weigh(&mut self) {
        if !self.weighted() {
            return;
        }
        let (shares, Scratch { weights, total, .. }) = (self.shares(), self.scratch);
        let to = if shares > 1 { weights } else { total };
        let pointers = [self.labels.ids, self.labels.weights, to].map(Argument::Pointer);
        let arguments = [self.description()].into_iter().chain(pointers).collect();
        self.in_blocks(shares, self.pick(["weigh_i32", "weigh_i64"]), arguments);
        if shares > 1 {
            let arguments = vec![Argument::U64(shares), Argument::Pointer(weights), Argument::Pointer(total)];
            self.in_blocks(1, "add_shares", arguments);
        }
    }

    /// Adds up the losses of the labels.
    fn reduce(&mut self, loss: DevicePointer) {
        if self.labels.reduction == Reduction::None {
            return;
        }
        let (shares, Scratch { losses, terms, .. }) = (self.shares(), self.scratch);
        let mut items = self.count();
        if shares > 1 {
            let arguments = vec![Argument::U64(items), Argument::Pointer(terms), Argument::Pointer(losses)];
            self.in_blocks(shares, "add_terms", arguments);
            items = shares;
        }
        let of_shares = if shares > 1 { losses } else { DevicePointer::NULL };
        let mut arguments = vec![Argument::U64(items), Argument::Pointer(terms), Argument::Pointer(of_shares)];
        arguments.extend(self.divisor());
        arguments.push(Argument::Pointer(loss));
        self.in_blocks(1, "reduce_loss", arguments);
    }

    fn entropy(&mut self, scores: DevicePointer, upstream: DevicePointer, outputs: [DevicePointer; 3]) {
        let Labels { ids, weights, bad, .. } = self.labels;
        let mut arguments = vec![self.description()];
        arguments.extend(self.scale(upstream));
        arguments.extend([scores, ids, weights].into_iter().chain(outputs).chain([bad]).map(Argument::Pointer));
        self.launches.push(if self.shape.positions == 1 {
            let kernels = [
                self.pick(["entropy_warp_few_i32", "entropy_warp_few_i64"]),
                self.pick(["entropy_warp_i32", "entropy_warp_i64"]),
                self.pick(["entropy_block_few_i32", "entropy_block_few_i64"]),
                self.pick(["entropy_block_i32", "entropy_block_i64"]),
                self.pick(["entropy_long_i32", "entropy_long_i64"]),
            ];
            by_row(Source::Loss, kernels, self.shape.batch as u64, self.shape.classes as u64, arguments)
        } else {
            let kernel = self.pick(["entropy_positions_i32", "entropy_positions_i64"]);
            Launch::threads(Source::Loss, kernel, self.count(), arguments)
        });
    }
}

/// [`crate::cpu::loss::negative_log_likelihood`].
pub fn negative_log_likelihood(
    shape: LossShape,
    labels: Labels,
    log_prob: DevicePointer,
    loss: DevicePointer,
    scratch: DevicePointer,
) -> Vec<Launch> {
    let mut plan = Plan::new(shape, labels, scratch);
    plan.weigh();
    let pointers = [log_prob, labels.ids, labels.weights, plan.terms(loss), labels.bad].map(Argument::Pointer);
    let arguments = [plan.description()].into_iter().chain(pointers).collect();
    let kernel = plan.pick(["likelihood_i32", "likelihood_i64"]);
    plan.launches.push(Launch::threads(Source::Loss, kernel, plan.count(), arguments));
    plan.reduce(loss);
    plan.launches
}

/// Writes the gradient of [`negative_log_likelihood`] with respect to the log-probabilities: `−w[label] / divisor` at each label
/// times `upstream`, the float32 gradient of what became of the loss: as many as there are losses, or null for 1.
pub fn negative_log_likelihood_gradient(
    shape: LossShape,
    labels: Labels,
    upstream: DevicePointer,
    gradient: DevicePointer,
    scratch: DevicePointer,
) -> Vec<Launch> {
    let mut plan = Plan::new(shape, labels, scratch);
    plan.weigh();
    let mut arguments = vec![plan.description()];
    arguments.extend(plan.scale(upstream));
    arguments.extend([labels.ids, labels.weights, gradient].map(Argument::Pointer));
    let kernel = plan.pick(["likelihood_gradient_i32", "likelihood_gradient_i64"]);
    plan.launches.push(Launch::threads(Source::Loss, kernel, plan.count() * shape.classes as u64, arguments));
    plan.launches
}

/// [`crate::cpu::loss::softmax_cross_entropy`]; `log_prob` may be null.
pub fn softmax_cross_entropy(
    shape: LossShape,
    labels: Labels,
    scores: DevicePointer,
    loss: DevicePointer,
    log_prob: DevicePointer,
    scratch: DevicePointer,
) -> Vec<Launch> {
    let null = DevicePointer::NULL;
    softmax_cross_entropy_with_gradient(shape, labels, scores, null, loss, log_prob, null, scratch)
}

/// The same, and the gradient with respect to the scores, of which a row is read once for both:
/// `upstream · w[label] / divisor · (softmax(scores) − one at the label)`, zero where the label is ignored. `upstream` is the
/// float32 gradient of what became of the loss: as many as there are losses, or null for 1.
#[allow(clippy::too_many_arguments)]
pub fn softmax_cross_entropy_with_gradient(
    shape: LossShape,
    labels: Labels,
    scores: DevicePointer,
    upstream: DevicePointer,
    loss: DevicePointer,
    log_prob: DevicePointer,
    gradient: DevicePointer,
    scratch: DevicePointer,
) -> Vec<Launch> {
    let mut plan = Plan::new(shape, labels, scratch);
    plan.weigh();
    plan.entropy(scores, upstream, [plan.terms(loss), log_prob, gradient]);
    plan.reduce(loss);
    plan.launches
}

/// The gradient of what became of the losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A float32 number for each label.
    Each(DevicePointer),
    /// One for all of them.
    Shared(DevicePointer),
}

/// Writes the loss of every label without weights or a label that is ignored, the logarithm of the probabilities unless
/// `log_prob` is null, and where it is given the `gradient` as [`softmax_cross_entropy_with_gradient`] does. `ids` are int64 if
/// `wide`, else int32; the uint32 at `bad` counts those that are no class.
#[allow(clippy::too_many_arguments)]
pub fn losses(
    shape: LossShape,
    scores: DevicePointer,
    (ids, wide): (DevicePointer, bool),
    loss: DevicePointer,
    log_prob: DevicePointer,
    gradient: Option<(Upstream, DevicePointer)>,
    bad: DevicePointer,
) -> Vec<Launch> {
    let (reduction, null) = (Reduction::None, DevicePointer::NULL);
    let labels = Labels { ids, wide, weights: null, ignore_index: None, reduction, bad };
    let mut plan = Plan::new(shape, labels, null);
    let (upstream, gradient) = match gradient {
        Some((Upstream::Each(upstream), gradient)) => (upstream, gradient),
        Some((Upstream::Shared(upstream), gradient)) => {
            plan.each = false;
            (upstream, gradient)
        }
        None => (null, null),
    };
    plan.entropy(scores, upstream, [loss, log_prob, gradient]);
    plan.launches
}

#[cfg(test)]
mod tests;
