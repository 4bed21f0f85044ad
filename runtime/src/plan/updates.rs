//! Updates with the same settings and type of parameters become one group: one launch steps them all.

use super::{Draft, Kind, Node, Source, Task, Update, Work};
use npc_kernels::cuda::neuroplastic::{Storage, may_overwrite_gradient};
use npc_kernels::elementwise::DType;
use npc_kernels::neuroplastic::Config;
use std::collections::HashMap;

/// Joins the updates of a draft. What differs from tensor to tensor (`target_rms`, `modulation_strength`) stays with the
/// tensor.
pub(super) fn group(mut draft: Draft) -> Draft {
    let mut groups: Vec<(Config, Vec<Update>, Work)> = Vec::new();
    let mut rest: Vec<Node> = Vec::new();
    for node in std::mem::take(&mut draft.work) {
        match node.kind {
            Kind::Work(Work { name, task: Task::NeuroPlastic { config, updates }, reads, writes }) => {
                let common = Config { target_rms: 0.0, modulation_strength: 0.0, ..config };
                let dtype = |updates: &[Update]| updates.first().map(|u| draft.buffers[u.parameter].dtype);
                let own = dtype(&updates);
                match groups.iter_mut().find(|(c, all, _)| *c == common && dtype(all) == own) {
                    Some((_, all, work)) => {
                        all.extend(updates);
                        work.reads.extend(reads);
                        work.writes.extend(writes);
                    }
                    None => {
                        let task = Task::Assign; // Replaced below, when the group is whole.
                        groups.push((common, updates, Work { name, task, reads, writes }));
                    }
                }
            }
            kind => rest.push(Node { name: node.name, kind }),
        }
    }
    draft.work = rest;
    let mut readers: HashMap<usize, usize> = HashMap::new();
    for update in groups.iter().flat_map(|(_, updates, _)| updates) {
        *readers.entry(update.gradient).or_default() += 1;
    }
    draft.outputs.iter().for_each(|(_, id, _)| *readers.entry(*id).or_default() += 1);
    for (config, mut updates, mut work) in groups {
        for update in &mut updates {
            let gradient = &draft.buffers[update.gradient];
            let own = gradient.source == Source::Computed && readers[&update.gradient] == 1;
            let storage = match gradient.dtype {
                DType::F16 => Storage::F16,
                DType::BF16 => Storage::Bf16,
                _ => Storage::F32,
            };
            if !own || !may_overwrite_gradient(&config, storage) {
                let (name, elements) = (gradient.name.clone(), gradient.elements);
                update.scratch = draft.buffer(&name, DType::F32, elements, Source::Computed);
            }
            work.writes.push(update.scratch);
        }
        work.task = Task::NeuroPlastic { config, updates };
        draft.work.push(Node { name: work.name.clone(), kind: Kind::Work(work) });
    }
    draft
}
