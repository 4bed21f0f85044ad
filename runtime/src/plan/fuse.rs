//! Neighbouring elementwise work as one expression.
//!
//! A map joins the group of one of its operands when the group has its shape and nothing it reads from elsewhere depends on
//! the group. Where its operands come from several such groups that do not need each other, they become one. A reduction may
//! end a group; what reads its result belongs to another.

use super::maps::{Map, Operand, What};
use super::{Draft, Kind, Node, PlanError, Task, View, Work};
use npc_kernels::elementwise::{Expression, Operand as Slot};
use std::collections::{HashMap, HashSet};

/// More inputs or operations than this make a kernel that needs too many registers.
const INPUTS: usize = 16;
const OPERATIONS: usize = 48;

/// Maps that become one expression.
#[derive(Default)]
struct Group {
    /// Positions in the draft's work, in order.
    members: Vec<usize>,
    shape: Vec<usize>,
    inputs: HashSet<usize>,
    has_reduction: bool,
}

fn squeezed(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|n| *n != 1).collect()
}

fn reads(node: &Node) -> Vec<usize> {
    match &node.kind {
        Kind::Map(map) => map
            .operands
            .iter()
            .filter_map(|o| match o {
                Operand::View(view) => Some(view.buffer),
                Operand::Constant(..) => None,
            })
            .collect(),
        Kind::Work(work) => work.reads.clone(),
    }
}

/// Fuses a draft's maps; afterwards it holds work only.
pub(super) fn fuse(mut draft: Draft) -> Result<Draft, PlanError> {
    let mut producer: HashMap<usize, usize> = HashMap::new();
    let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of: HashMap<usize, usize> = HashMap::new();
    for (at, node) in draft.work.iter().enumerate() {
        for buffer in reads(node) {
            readers.entry(buffer).or_default().push(at);
        }
        match &node.kind {
            Kind::Map(map) => {
                let joined = join(&draft, map, &producer, &groups, &group_of);
                let index = joined.unwrap_or_else(|| {
                    let (members, inputs) = (Vec::new(), HashSet::new());
                    groups.push(Group { members, shape: squeezed(&map.shape), inputs, has_reduction: false });
                    groups.len() - 1
                });
                merge(&draft, map, index, &producer, &mut groups, &mut group_of);
                groups[index].members.push(at);
                groups[index].has_reduction |= matches!(map.what, What::Reduce(..));
                // What the group computes itself stays in registers.
                let is_own = |buffer: &usize| producer.get(buffer).and_then(|p| group_of.get(p)) == Some(&index);
                groups[index].inputs.extend(reads(node).into_iter().filter(|buffer| !is_own(buffer)));
                group_of.insert(at, index);
                producer.insert(map.output, at);
            }
            Kind::Work(work) => work.writes.iter().for_each(|w| {
                producer.insert(*w, at);
            }),
        }
    }
    let exported: HashSet<usize> = draft.outputs.iter().map(|(_, id, _)| *id).collect();
    let mut fused: Vec<Node> = Vec::new();
    for (index, group) in groups.iter().enumerate().filter(|(_, group)| !group.members.is_empty()) {
        let is_needed = |map: &Map| {
            let inside = |reader: &usize| {
                group_of.get(reader) == Some(&index) && reads_inside(&draft, *reader, map.output, &group.shape)
            };
            exported.contains(&map.output) || readers.get(&map.output).is_none_or(|all| !all.iter().all(inside))
        };
        let work = expression(&draft, group, is_needed)?;
        fused.push(Node { name: work.name.clone(), kind: Kind::Work(work) });
    }
    let rest = std::mem::take(&mut draft.work).into_iter().filter(|n| matches!(n.kind, Kind::Work(_)));
    draft.work = fused.into_iter().chain(rest).collect();
    Ok(draft)
}

/// Whether a view of a group's value is the value as it stands in a register.
fn is_whole(view: &View, shape: &[usize]) -> bool {
    view.is_dense() && squeezed(&view.shape) == shape
}

fn reads_inside(draft: &Draft, reader: usize, buffer: usize, shape: &[usize]) -> bool {
    let Kind::Map(map) = &draft.work[reader].kind else { return false };
    map.operands.iter().all(|o| !matches!(o, Operand::View(v) if v.buffer == buffer && !is_whole(v, shape)))
}

fn join(
    draft: &Draft,
    map: &Map,
    producer: &HashMap<usize, usize>,
    groups: &[Group],
    group_of: &HashMap<usize, usize>,
) -> Option<usize> {
    let shape = squeezed(&map.shape);
    let views: Vec<&View> = map
        .operands
        .iter()
        .filter_map(|o| match o {
            Operand::View(view) => Some(view),
            Operand::Constant(..) => None,
        })
        .collect();
    let home = |view: &View| producer.get(&view.buffer).and_then(|at| Some((*at, *group_of.get(at)?)));
    views.iter().filter_map(|v| home(v)).map(|(_, group)| group).find(|&index| {
        let group = &groups[index];
        let outside = views.iter().filter(|v| home(v).is_none_or(|(_, other)| other != index)).count();
        let room = group.members.len() < OPERATIONS
            && group.inputs.len() + outside <= INPUTS
            && !(group.has_reduction && matches!(map.what, What::Reduce(..)));
        room && group.shape == shape
            && views.iter().all(|view| match producer.get(&view.buffer) {
                Some(at) if group_of.get(at) == Some(&index) => {
                    let reduced = matches!(&draft.work[*at].kind, Kind::Map(m) if matches!(m.what, What::Reduce(..)));
                    is_whole(view, &shape) && !reduced
                }
                Some(at) => !depends(draft, *at, index, producer, groups, group_of),
                None => true,
            })
    })
}

/// Takes into the group `index`, which `map` joins, what else computes whole values for `map`: groups of the same shape that
/// neither need the group's results nor give it any. What is left of them is empty.
fn merge(
    draft: &Draft,
    map: &Map,
    index: usize,
    producer: &HashMap<usize, usize>,
    groups: &mut [Group],
    group_of: &mut HashMap<usize, usize>,
) {
    let mut homes: Vec<(usize, &View)> = Vec::new();
    for operand in &map.operands {
        if let Operand::View(view) = operand
            && let Some(at) = producer.get(&view.buffer)
        {
            homes.push((*at, view));
        }
    }
    let is_reduction = |at: usize| matches!(&draft.work[at].kind, Kind::Map(m) if matches!(m.what, What::Reduce(..)));
    let reduces = matches!(map.what, What::Reduce(..));
    for &(at, _) in &homes {
        let Some(other) = group_of.get(&at).copied().filter(|other| *other != index) else { continue };
        let (own, theirs) = (&groups[index], &groups[other]);
        let reductions = [own.has_reduction, theirs.has_reduction, reduces].iter().filter(|r| **r).count();
        let inputs = own.inputs.union(&theirs.inputs).count() + homes.len();
        let has_room = own.members.len() + theirs.members.len() < OPERATIONS && inputs <= INPUTS && reductions <= 1;
        if !has_room || own.members.is_empty() || own.shape != theirs.shape {
            continue;
        }
        let needs = |from: usize, on: usize| depends(draft, from, on, producer, groups, group_of);
        let fits = homes.iter().all(|(at, view)| match group_of.get(at) {
            Some(group) if *group == index || *group == other => is_whole(view, &own.shape) && !is_reduction(*at),
            _ => !needs(*at, other),
        });
        if !fits || needs(own.members[0], other) || needs(theirs.members[0], index) {
            continue;
        }
        let Group { members, inputs, has_reduction, .. } = std::mem::take(&mut groups[other]);
        members.iter().for_each(|member| {
            group_of.insert(*member, index);
        });
        let own = &mut groups[index];
        own.members.extend(members);
        own.members.sort_unstable();
        own.inputs.extend(inputs);
        own.has_reduction |= has_reduction;
    }
}

/// Whether the work at `from`, with the whole group it belongs to, needs a result of the group `on`.
fn depends(
    draft: &Draft,
    from: usize,
    on: usize,
    producer: &HashMap<usize, usize>,
    groups: &[Group],
    group_of: &HashMap<usize, usize>,
) -> bool {
    let (mut open, mut seen) = (vec![from], HashSet::new());
    while let Some(at) = open.pop() {
        let members = match group_of.get(&at) {
            Some(group) if *group == on => return true,
            Some(group) => groups[*group].members.as_slice(),
            None => &[],
        };
        for member in members.iter().chain([&at]) {
            if seen.insert(*member) {
                open.extend(reads(&draft.work[*member]).iter().filter_map(|buffer| producer.get(buffer)));
            }
        }
    }
    false
}

fn expression(draft: &Draft, group: &Group, is_needed: impl Fn(&Map) -> bool) -> Result<Work, PlanError> {
    let mut builder = Expression::builder(&group.shape);
    let mut known: HashMap<usize, Slot> = HashMap::new();
    let mut inputs: Vec<(usize, Vec<usize>, Slot)> = Vec::new();
    let (mut writes, mut last) = (Vec::new(), None);
    let mut name = String::new();
    for &member in &group.members {
        let Node { name: node, kind: Kind::Map(map) } = &draft.work[member] else { continue };
        name.clone_from(node);
        let refuse = |e: npc_kernels::cpu::KernelError| PlanError::Unsupported {
            op: format!("{:?}", map.what),
            node: node.clone(),
            why: format!(": {e}"),
        };
        let mut slots = Vec::new();
        for operand in &map.operands {
            let slot = match operand {
                Operand::Constant(dtype, scalar) => Slot::Constant(*dtype, *scalar),
                Operand::View(view) => match known.get(&view.buffer).filter(|_| is_whole(view, &group.shape)) {
                    Some(slot) => *slot,
                    None => {
                        let whole = view.broadcast_shape().unwrap_or_else(|| view.shape.clone());
                        let axes = whole.iter().zip(&map.shape).filter(|(_, n)| **n != 1);
                        let shape: Vec<usize> = axes.map(|(n, _)| *n).collect();
                        match inputs.iter().find(|(id, s, _)| *id == view.buffer && *s == shape) {
                            Some((_, _, slot)) => *slot,
                            None => {
                                let dtype = draft.buffers[view.buffer].dtype;
                                let slot = builder.input(dtype, &shape).map_err(refuse)?;
                                inputs.push((view.buffer, shape, slot));
                                slot
                            }
                        }
                    }
                },
            };
            slots.push(slot);
        }
        match &map.what {
            What::Apply(operation) => {
                let slot = builder.apply(*operation, &slots).map_err(refuse)?;
                known.insert(map.output, slot);
                if is_needed(map) {
                    builder.output(slot).map_err(refuse)?;
                    writes.push(map.output);
                }
            }
            What::Reduce(reduce, axes) => {
                let kept = |axis: &usize| map.shape[..*axis].iter().filter(|n| **n != 1).count();
                let axes: Vec<usize> = axes.iter().filter(|a| map.shape[**a] != 1).map(kept).collect();
                if axes.is_empty() {
                    // Nothing to reduce: the value itself.
                    builder.output(slots[0]).map_err(refuse)?;
                    writes.push(map.output);
                } else {
                    builder.reduce(*reduce, slots[0], &axes).map_err(refuse)?;
                    last = Some(map.output);
                }
            }
        }
    }
    writes.extend(last);
    let graph = |e: npc_kernels::cpu::KernelError| PlanError::Graph(e.to_string());
    let expression = builder.finish().map_err(graph)?;
    Ok(Work {
        name,
        task: Task::Expression(expression),
        reads: inputs.into_iter().map(|(id, _, _)| id).collect(),
        writes,
    })
}
