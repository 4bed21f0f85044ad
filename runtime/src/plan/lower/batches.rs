//! Batches taken from a dataset on the device, and their scores added up there, so that a training loop need not wait for a
//! step.

use super::*;
use crate::plan::Plan;
use npc_kernels::cuda::batch::Totals;
use npc_kernels::cuda::index::Picks;

/// Names under which a plan takes what is not an input of the model.
pub const ORDER: &str = "npc.order";
/// Position of the next batch in the order.
pub const CURSOR: &str = "npc.cursor";
/// Class ids, one a row of the logits.
pub const LABELS: &str = "npc.labels";
/// Loss and hits since it was last set to zero: [`Totals::BYTES`] bytes.
pub const TOTALS: &str = "npc.totals";

/// A dataset that stays on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Samples of the dataset.
    pub samples: usize,
    /// Samples of a batch.
    pub batch: usize,
    /// Batch inputs; each holds the same number of elements for every sample, all samples along its first axis.
    pub inputs: Vec<String>,
}

/// What is added up after every step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// Output with the mean loss, a float32 scalar.
    pub loss: String,
    /// Output with the logits, and its axis that runs over the classes; without it only the loss is added up.
    pub logits: Option<(String, i64)>,
}

/// Buffers of the dataset while a graph is lowered.
pub struct Take {
    resident: Resident,
    indices: BufferId,
}

impl Lowering<'_> {
    /// Memory for the order of the samples, and the work that takes the next ones from it.
    pub(super) fn take(&mut self, resident: &Resident) -> Take {
        let order = self.given(ORDER, DType::I64, resident.samples);
        let cursor = self.given(CURSOR, DType::I64, 1);
        let indices = self.draft.buffer("the batch's samples", DType::I64, resident.batch, Source::Computed);
        self.draft.push(ORDER, Task::TakeBatch, vec![order, cursor], vec![indices]);
        Take { resident: resident.clone(), indices }
    }

    /// An input that the model does not have.
    pub(super) fn given(&mut self, name: &str, dtype: DType, elements: usize) -> BufferId {
        let id = self.draft.buffer(name, dtype, elements, Source::Kept);
        self.draft.inputs.push((name.to_string(), id));
        id
    }

    /// A batch of an input of `elements` elements a batch; `None` when the dataset does not hold it.
    pub(super) fn taken(&mut self, name: &str, dtype: DType, elements: usize) -> Option<BufferId> {
        let take = self.take.as_ref()?;
        let is_resident = name == LABELS || take.resident.inputs.iter().any(|i| i == name);
        let (samples, batch, indices) = (take.resident.samples, take.resident.batch, take.indices);
        if !is_resident || batch == 0 || !elements.is_multiple_of(batch) {
            return None;
        }
        let width = elements / batch;
        let all = self.given(name, dtype, samples * width);
        let id = self.draft.buffer(name, dtype, elements, Source::Computed);
        let picks = Picks { outer: 1, extent: samples as u64, inner: width as u64, picks: batch as u64 };
        self.draft.push(name, Task::Gather { picks, each: false }, vec![all, indices], vec![id]);
        Some(id)
    }

    /// The work that adds a batch to the totals. `outputs`: views of the graph's outputs by name.
    pub(super) fn scored(&mut self, scored: &Scored, outputs: &[(String, View)]) -> Result<()> {
        let find = |name: &str| {
            let found = outputs.iter().find(|(n, _)| n == name);
            found.map(|(_, view)| view.clone()).ok_or_else(|| PlanError::Graph(format!("there is no output '{name}'")))
        };
        let loss = find(&scored.loss)?;
        if self.draft.buffers[loss.buffer].dtype != DType::F32 || loss.len() != 1 {
            return Err(PlanError::Graph(format!("the loss '{}' is no float32 scalar", scored.loss)));
        }
        let totals = self.given(TOTALS, DType::I64, Totals::BYTES / 8);
        let mut reads = vec![loss.buffer];
        let (mut rows, mut classes) = (0, 0);
        if let Some((name, axis)) = &scored.logits {
            let logits = find(name)?;
            let rank = logits.shape.len();
            if self.draft.buffers[logits.buffer].dtype != DType::F32 || rank == 0 {
                return Err(PlanError::Graph(format!("the logits '{name}' are not float32")));
            }
            let axis = axis.rem_euclid(rank as i64) as usize;
            let last = self.settled(logits.moved(axis, rank - 1), name);
            classes = last.shape[rank - 1];
            rows = last.len().checked_div(classes).unwrap_or(0);
            let labels = match self.taken(LABELS, DType::I64, rows) {
                Some(labels) => labels,
                None => self.given(LABELS, DType::I64, rows),
            };
            reads.extend([last.buffer, labels]);
        }
        self.draft.push(TOTALS, Task::Score { rows: rows as u64, classes: classes as u64 }, reads, vec![totals]);
        Ok(())
    }
}

impl Plan {
    /// Elements that an input takes.
    pub fn elements(&self, input: &str) -> Option<usize> {
        let (_, id) = self.inputs.iter().find(|(name, _)| name == input)?;
        Some(self.buffers[*id].elements)
    }
}
