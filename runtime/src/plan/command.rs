//! A plan with addresses: what a device is told to do, in order.

use super::arena::ALIGNMENT;
use super::{Convolution, Epilogue, Factors, Numbers, Plan, PlanError, Precision, Source, Task, Work};
use npc_kernels::cpu::contraction::Product;
use npc_kernels::cuda::index::{self, Bits, Scatter};
use npc_kernels::cuda::neuroplastic::{Addresses, Storage, Tables, Tensor, is_beyond_cache, rescale};
use npc_kernels::cuda::{DevicePointer, Launch};
use npc_kernels::cuda::{arg, batch, dropout, loss, norm, window};
use npc_kernels::elementwise::{DType, ptx};

/// One thing a device does.
#[derive(Clone, Debug)]
pub enum Command {
    /// Starts a kernel of ours.
    Launch(Launch),
    /// Starts a generated kernel, of [`Commands::module`].
    #[allow(missing_docs)]
    Generated { kernel: String, grid: u32, block: u32, shared: u32, arguments: Vec<DevicePointer> },
    /// A matrix product; offsets and distances in elements from the three addresses.
    #[allow(missing_docs)]
    Product {
        product: Product,
        numbers: Numbers,
        a: DevicePointer,
        b: DevicePointer,
        c: DevicePointer,
        extra: Option<Extra>,
    },
    /// A whole convolution, by the operands in the order of [`super::Task::Convolution`].
    #[allow(missing_docs)]
    Convolution { convolution: Convolution, precision: Precision, a: DevicePointer, b: DevicePointer, c: DevicePointer },
    /// Copies bytes within the device.
    #[allow(missing_docs)]
    Copy { from: DevicePointer, to: DevicePointer, bytes: u64 },
}

/// What a product does besides.
#[derive(Clone, Copy, Debug)]
pub struct Extra {
    /// What.
    pub epilogue: Epilogue,
    /// Its bias, or what the forward product kept; `NULL` for sums of operands.
    pub read: DevicePointer,
    /// Where it keeps something, or adds it up; `NULL` where it does neither.
    pub write: DevicePointer,
}

/// A step's commands, each with the name of the work it comes from, and the module of its generated kernels.
#[derive(Clone, Debug)]
pub struct Commands {
    /// In order.
    pub list: Vec<(String, Command)>,
    /// PTX.
    pub module: String,
}

/// Addresses of a plan's memory.
#[derive(Clone, Debug)]
pub struct Memory {
    /// One a buffer.
    pub buffers: Vec<DevicePointer>,
    /// uint32: indices that were out of range, counted.
    pub bad_indices: DevicePointer,
    /// [`scratch_bytes`] bytes.
    pub scratch: DevicePointer,
}

/// A group of updates, with what its launches need beyond the plan's buffers.
#[derive(Clone, Debug)]
pub struct Group {
    /// Position of its work in the plan.
    pub work: usize,
    /// Tables for device memory.
    pub tables: Tables,
    /// Whether its tensors fit the cache and are stepped in one launch.
    pub is_fused: bool,
}

fn refuse(work: &Work, op: &str, why: &str) -> PlanError {
    PlanError::Unsupported { op: op.into(), node: work.name.clone(), why: why.into() }
}

/// Generated kernels' scratch memory: the most that one of them needs, in bytes.
///
/// # Errors
/// An expression too large for a launch.
pub fn scratch_bytes(plan: &Plan) -> Result<u64, PlanError> {
    let mut bytes = ALIGNMENT;
    for work in &plan.work {
        if let Task::Expression(expression) = &work.task {
            let generated =
                ptx::generate(expression, true).map_err(|e| refuse(work, "Expression", &format!(": {e}")))?;
            bytes = bytes.max(generated.scratch as u64);
        }
    }
    Ok(bytes.next_multiple_of(ALIGNMENT))
}

fn storage(work: &Work, dtype: DType) -> Result<Storage, PlanError> {
    Ok(match dtype {
        DType::F32 => Storage::F32,
        DType::F16 => Storage::F16,
        DType::BF16 => Storage::Bf16,
        other => return Err(refuse(work, "NeuroPlastic", &format!(" of {other:?} parameters"))),
    })
}

/// In which types a product's operands are stored.
fn numbers(plan: &Plan, work: &Work) -> Result<Numbers, PlanError> {
    let [a, b, c] = [work.reads[0], work.reads[1], work.writes[0]].map(|id| plan.buffers[id].dtype);
    let (narrow_factors, narrow_result) = (a != DType::F32, c != DType::F32);
    let numbers = Numbers { precision: plan.precision, narrow_factors, narrow_result };
    if [a, b, c] == [numbers.factors(), numbers.factors(), numbers.result()] {
        return Ok(numbers);
    }
    Err(refuse(work, "MatMul", &format!(" of {a:?} and {b:?} to {c:?}")))
}

/// The groups of updates of a plan, given where its buffers are. `cache_bytes`: what of the device's L2 they may fill.
///
/// # Errors
/// A parameter of a type that no kernel steps.
pub fn groups(plan: &Plan, buffers: &[DevicePointer], cache_bytes: u64) -> Result<Vec<Group>, PlanError> {
    let mut groups = Vec::new();
    for (at, work) in plan.work.iter().enumerate() {
        if let Task::Signal { config } = &work.task {
            let [gradient, activity_trace, momentum, variance] = [1, 2, 3, 4].map(|i| buffers[work.reads[i]]);
            let tensor = Tensor {
                parameter: gradient,
                gradient,
                activity_trace,
                momentum,
                variance,
                base_momentum: DevicePointer::NULL,
                base_variance: DevicePointer::NULL,
                master: DevicePointer::NULL,
                update: gradient,
                multiplier: DevicePointer::NULL,
                elements: plan.buffers[work.reads[1]].elements as u64,
                target_rms: config.target_rms,
                modulation_strength: config.modulation_strength,
            };
            let storage = storage(work, plan.buffers[work.reads[1]].dtype)?;
            let tables = Tables::new(config, storage, &[tensor], cache_bytes);
            groups.push(Group { work: at, tables, is_fused: false });
        }
        let Task::NeuroPlastic { config, updates } = &work.task else { continue };
        let mut tensors: [Vec<Tensor>; 2] = [Vec::new(), Vec::new()];
        let mut kind = Storage::F32;
        for update in updates {
            let parameter = &plan.buffers[update.parameter];
            kind = storage(work, parameter.dtype)?;
            let state = |i: usize| update.states.get(i).map_or(DevicePointer::NULL, |id| buffers[*id]);
            let elements = parameter.elements as u64;
            let is_large = is_beyond_cache(config, kind, elements, cache_bytes);
            tensors[usize::from(is_large)].push(Tensor {
                parameter: buffers[update.parameter],
                gradient: buffers[update.gradient],
                activity_trace: state(0),
                momentum: state(1),
                variance: state(2),
                base_momentum: state(3),
                base_variance: state(4),
                master: update.master.map_or(DevicePointer::NULL, |id| buffers[id]),
                update: buffers[update.scratch],
                multiplier: update.multiplier.map_or(DevicePointer::NULL, |id| buffers[id]),
                elements,
                target_rms: update.target_rms,
                modulation_strength: update.modulation_strength,
            });
        }
        for (is_fused, tensors) in [(true, &tensors[0]), (false, &tensors[1])] {
            if !tensors.is_empty() {
                groups.push(Group { work: at, tables: Tables::new(config, kind, tensors, cache_bytes), is_fused });
            }
        }
    }
    Ok(groups)
}

/// Writes out the commands of a step. `groups` come with their addresses; the last group counts the step when `counts` says so.
/// `multiprocessors`: how many the device has.
///
/// # Errors
/// What no kernel does.
pub fn commands(
    plan: &Plan,
    memory: &Memory,
    groups: &[(Group, Addresses)],
    counts: bool,
    multiprocessors: u64,
) -> Result<Commands, PlanError> {
    let mut list: Vec<(String, Command)> = Vec::new();
    let mut kernels: Vec<ptx::Kernel> = Vec::new();
    let at = |id: usize| memory.buffers[id];
    let is_update = |position: usize| matches!(plan.work[position].task, Task::NeuroPlastic { .. });
    let first = (0..plan.work.len()).find(|position| is_update(*position));
    let last = (0..plan.work.len()).rfind(|position| is_update(*position));
    for (position, work) in plan.work.iter().enumerate() {
        let mut push = |command: Command| list.push((work.name.clone(), command));
        let bits = |id: usize| {
            let bytes = plan.buffers[id].dtype.bytes();
            Bits::of(bytes).ok_or_else(|| refuse(work, "Copy", &format!(" of elements of {bytes} bytes")))
        };
        // The first result in float32 or 16 bits, or in both where the work has more results than `usual`.
        let output = |usual: usize| {
            let dtype = |id: usize| plan.buffers[id].dtype;
            let (first, twin) = (work.writes[0], work.writes.get(usual).copied());
            let narrow = twin.or((dtype(first) != DType::F32).then_some(first));
            norm::Output {
                wide: if dtype(first) == DType::F32 { at(first) } else { DevicePointer::NULL },
                narrow: narrow.map_or(DevicePointer::NULL, at),
                is_bfloat: narrow.is_some_and(|id| dtype(id) == DType::BF16),
            }
        };
        let rank = || refuse(work, "Copy", &format!(" of more than {} axes", index::RANK));
        match &work.task {
            Task::Expression(expression) => {
                let generated =
                    ptx::generate(expression, true).map_err(|e| refuse(work, "Expression", &format!(": {e}")))?;
                for kernel in generated.kernels {
                    let address = |argument: &ptx::Argument| match argument {
                        ptx::Argument::Input(i) => at(work.reads[*i]),
                        ptx::Argument::Output(i) => at(work.writes[*i]),
                        ptx::Argument::Scratch => memory.scratch,
                    };
                    push(Command::Generated {
                        kernel: kernel.name.clone(),
                        grid: kernel.grid,
                        block: kernel.block,
                        shared: kernel.shared,
                        arguments: kernel.arguments.iter().map(address).collect(),
                    });
                    kernels.push(kernel);
                }
            }
            Task::Products(products) => {
                let (a, b, c) = (at(work.reads[0]), at(work.reads[1]), at(work.writes[0]));
                let numbers = numbers(plan, work)?;
                products.iter().for_each(|p| push(Command::Product { product: *p, numbers, a, b, c, extra: None }));
            }
            Task::ProductWith { product, epilogue } => {
                let second = |list: &[usize], i: usize| list.get(i).map_or(DevicePointer::NULL, |id| at(*id));
                let (read, write) = (second(&work.reads, 2), second(&work.writes, 1));
                let (a, b, c) = (at(work.reads[0]), at(work.reads[1]), at(work.writes[0]));
                let extra = Some(Extra { epilogue: *epilogue, read, write });
                push(Command::Product { product: *product, numbers: numbers(plan, work)?, a, b, c, extra });
            }
            Task::Convolution(convolution) => {
                let (a, b, c) = (at(work.reads[0]), at(work.reads[1]), at(work.writes[0]));
                push(Command::Convolution { convolution: *convolution, precision: plan.precision, a, b, c });
            }
            Task::Copy(view) => {
                let from = at(view.buffer).offset((view.start * plan.buffers[view.buffer].dtype.bytes()) as u64);
                let (shape, strides) = arranged(&view.shape, &view.strides);
                let launch = index::copy(bits(view.buffer)?, from, at(work.writes[0]), &shape, &strides);
                push(Command::Launch(launch.ok_or_else(rank)?));
            }
            Task::Place(view) => {
                let to = at(view.buffer).offset((view.start * plan.buffers[view.buffer].dtype.bytes()) as u64);
                let (shape, strides) = arranged(&view.shape, &view.strides);
                let launch = index::scatter_copy(bits(view.buffer)?, at(work.reads[0]), to, &shape, &strides);
                push(Command::Launch(launch.ok_or_else(rank)?));
            }
            Task::Gather { picks, each } => {
                let run = if *each { index::gather_elements } else { index::gather };
                let (x, indices, y) = (at(work.reads[0]), at(work.reads[1]), at(work.writes[0]));
                push(Command::Launch(run(bits(work.reads[0])?, x, indices, y, memory.bad_indices, *picks)));
            }
            Task::ScatterElements { picks, add } => {
                let how = if *add { Scatter::Add(Storage::F32) } else { Scatter::Replace(bits(work.reads[0])?) };
                let (x, indices, updates) = (at(work.reads[0]), at(work.reads[1]), at(work.reads[2]));
                let y = at(work.writes[0]);
                if work.reads[0] != work.writes[0] {
                    push(Command::Copy { from: x, to: y, bytes: plan.buffers[work.reads[0]].bytes() });
                }
                push(Command::Launch(index::scatter_elements(how, y, indices, updates, memory.bad_indices, *picks)));
            }
            Task::ScatterRows { picks, leading, add } => {
                let how = if *add { Scatter::Add(Storage::F32) } else { Scatter::Replace(bits(work.reads[0])?) };
                let (x, indices, updates) = (at(work.reads[0]), at(work.reads[1]), at(work.reads[2]));
                let (y, rows) = (at(work.writes[0]), at(work.writes[1]));
                if work.reads[0] != work.writes[0] {
                    push(Command::Copy { from: x, to: y, bytes: plan.buffers[work.reads[0]].bytes() });
                }
                push(Command::Launch(index::join_indices(indices, rows, leading, picks.picks).ok_or_else(rank)?));
                push(Command::Launch(index::scatter_rows(how, y, rows, updates, memory.bad_indices, *picks)));
            }
            Task::Softmax { rows, columns, logarithm } => {
                let (x, y) = (at(work.reads[0]), output(1));
                push(Command::Launch(norm::softmax(*rows, *columns, x, y, *logarithm)));
            }
            Task::LayerNorm { rows, columns, epsilon } => {
                let bias = work.reads.get(2).map_or(DevicePointer::NULL, |id| at(*id));
                let (x, scale) = (at(work.reads[0]), at(work.reads[1]));
                let [mean, inverse] = [1, 2].map(|i| at(work.writes[i]));
                let launch = norm::layer_norm(*rows, *columns, *epsilon, x, scale, bias, output(3), mean, inverse);
                push(Command::Launch(launch));
            }
            Task::SoftmaxGradient { rows, columns, logarithm } => {
                let (y, dy, dx) = (at(work.reads[0]), at(work.reads[1]), output(1));
                push(Command::Launch(norm::softmax_gradient(*rows, *columns, y, dy, dx, *logarithm)));
            }
            Task::LayerNormGradient { rows, columns } => {
                let [dy, x, scale, mean, inverse] = [0, 1, 2, 3, 4].map(|i| at(work.reads[i]));
                let [dscale, dbias, partial] = [1, 2, 3].map(|i| at(work.writes[i]));
                let dx = output(4);
                let launches =
                    norm::layer_norm_gradient(*rows, *columns, dy, x, scale, mean, inverse, dx, dscale, dbias, partial);
                launches.into_iter().for_each(|l| push(Command::Launch(l)));
            }
            Task::BatchNorm { shape, epsilon } => {
                let [x, scale, bias] = [0, 1, 2].map(|i| at(work.reads[i]));
                let [y, mean, variance] = [0, 1, 2].map(|i| at(work.writes[i]));
                let launches = norm::batch_norm_train(*shape, *epsilon, x, scale, bias, y, mean, variance);
                launches.into_iter().for_each(|l| push(Command::Launch(l)));
            }
            Task::BatchNormGradient { shape, epsilon } => {
                let [dy, x, scale, mean, variance] = [0, 1, 2, 3, 4].map(|i| at(work.reads[i]));
                let [dx, dscale, dbias] = [0, 1, 2].map(|i| at(work.writes[i]));
                let (shape, epsilon) = (*shape, *epsilon);
                let launches =
                    norm::batch_norm_gradient(shape, epsilon, dy, x, scale, mean, variance, dx, dscale, dbias);
                launches.into_iter().for_each(|l| push(Command::Launch(l)));
            }
            Task::CrossEntropy { shape, gradient, logarithm } => {
                let (scores, ids) = (at(work.reads[0]), at(work.reads[1]));
                let wide = plan.buffers[work.reads[1]].dtype == DType::I64;
                let mut writes = work.writes.iter().map(|id| at(*id));
                let null = DevicePointer::NULL;
                let terms = writes.next().unwrap_or(null);
                let to = if gradient.is_some() { writes.next() } else { None };
                let gradient = gradient.zip(to).map(|(factors, to)| {
                    let from = at(work.reads[2]);
                    let of = if factors == Factors::Each { loss::Upstream::Each } else { loss::Upstream::Shared };
                    (of(from), to)
                });
                let log = writes.next().filter(|_| *logarithm).unwrap_or(null);
                let launches = loss::losses(*shape, scores, (ids, wide), terms, log, gradient, memory.bad_indices);
                launches.into_iter().for_each(|l| push(Command::Launch(l)));
            }
            Task::Columns { geometry, planes } => {
                push(Command::Launch(window::columns(geometry, *planes, at(work.reads[0]), at(work.writes[0]))));
            }
            Task::DataFromColumns { geometry, batch, channels } => {
                let (from, to) = (at(work.reads[0]), at(work.writes[0]));
                let launch = window::data_from_columns(geometry, (*batch, *channels), from, DevicePointer::NULL, to);
                push(Command::Launch(launch));
            }
            Task::MaxPool { geometry, planes, column_major } => {
                let (x, y) = (at(work.reads[0]), at(work.writes[0]));
                let indices = work.writes.get(1).map_or(DevicePointer::NULL, |id| at(*id));
                push(Command::Launch(window::max_pool(geometry, *planes, x, y, indices, *column_major)));
            }
            Task::Unpool => {
                let (x, indices, y) = (at(work.reads[0]), at(work.reads[1]), at(work.writes[0]));
                let counts = [work.reads[0], work.writes[0]].map(|id| plan.buffers[id].elements as u64);
                let launches = window::unpool(x, indices, y, memory.bad_indices, counts.into());
                launches.into_iter().for_each(|l| push(Command::Launch(l)));
            }
            Task::AveragePool { geometry, planes, divisor } => {
                let (x, y) = (at(work.reads[0]), at(work.writes[0]));
                push(Command::Launch(window::average_pool(geometry, *planes, *divisor, x, y)));
            }
            Task::Dropout { ratio, seed } => {
                let (x, step, y) = (at(work.reads[0]), at(work.reads[1]), at(work.writes[0]));
                let mask = work.writes.get(1).map_or(DevicePointer::NULL, |id| at(*id));
                let elements = plan.buffers[work.reads[0]].elements as u64;
                push(Command::Launch(dropout::dropout(elements, *ratio, *seed, step, x, y, mask)));
            }
            Task::CountStep => push(Command::Launch(dropout::count_step(at(work.reads[0])))),
            Task::Arg { dtype, which, shape } => {
                push(Command::Launch(arg::arg(*dtype, *which, at(work.reads[0]), at(work.writes[0]), *shape)));
            }
            Task::TakeBatch => {
                let (order, cursor, indices) = (at(work.reads[0]), at(work.reads[1]), at(work.writes[0]));
                let count = plan.buffers[work.writes[0]].elements as u64;
                push(Command::Launch(batch::take_batch(order, cursor, indices, count)));
            }
            Task::Score { rows, classes } => {
                let read = |i: usize| work.reads.get(i).map_or(DevicePointer::NULL, |id| at(*id));
                let (loss, totals) = (at(work.reads[0]), at(work.writes[0]));
                push(Command::Launch(batch::score(loss, read(1), read(2), (*rows, *classes), totals)));
            }
            Task::Assign => {
                let bytes = plan.buffers[work.reads[0]].bytes();
                push(Command::Copy { from: at(work.reads[0]), to: at(work.writes[0]), bytes });
            }
            Task::Signal { .. } => {
                for (group, addresses) in groups.iter().filter(|(g, _)| g.work == position) {
                    let launches = group.tables.signals(addresses, at(work.writes[0]));
                    launches.into_iter().for_each(|l| push(Command::Launch(l)));
                }
            }
            Task::NeuroPlastic { .. } => {
                // All gradients of all groups, before any of them is updated.
                if let Some(scaling) = plan.scaling.filter(|_| first == Some(position)) {
                    for (group, addresses) in groups.iter().filter(|(g, _)| is_update(g.work)) {
                        let find = group.tables.find_overflow(addresses, at(scaling.overflow));
                        find.into_iter().for_each(|l| push(Command::Launch(l)));
                    }
                }
                for (i, (group, addresses)) in groups.iter().enumerate().filter(|(_, (g, _))| g.work == position) {
                    let advance = counts && i + 1 == groups.len();
                    if group.is_fused {
                        group
                            .tables
                            .fused(addresses, advance, group.tables.resident_blocks(multiprocessors))
                            .into_iter()
                            .for_each(|l| push(Command::Launch(l)));
                    } else {
                        group.tables.sweeps(addresses, advance).into_iter().for_each(|l| push(Command::Launch(l)));
                    }
                }
                if let Some(scaling) = plan.scaling.filter(|_| last == Some(position)) {
                    let r = scaling.rule;
                    let (scale, overflow) = (at(scaling.scale), at(scaling.overflow));
                    push(Command::Launch(rescale(scale, overflow, r.growth, r.backoff, r.interval)));
                }
            }
        }
    }
    Ok(Commands { list, module: ptx::module(&kernels) })
}

/// Axes of extent 1 left out, neighbours that lie nested joined.
fn arranged(shape: &[usize], strides: &[usize]) -> (Vec<u64>, Vec<i64>) {
    let (mut extents, mut distances): (Vec<u64>, Vec<i64>) = (Vec::new(), Vec::new());
    for (n, s) in shape.iter().zip(strides).filter(|(n, _)| **n != 1) {
        let (n, s) = (*n as u64, *s as i64);
        match (extents.last_mut(), distances.last_mut()) {
            (Some(extent), Some(distance)) if *distance == s * n as i64 => {
                *extent *= n;
                *distance = s;
            }
            _ => {
                extents.push(n);
                distances.push(s);
            }
        }
    }
    (extents, distances)
}

/// Bytes of device memory that a plan takes: constants, what is kept, what is fed, and the arena.
pub fn memory_bytes(plan: &Plan) -> u64 {
    let own = plan.buffers.iter().filter(|b| b.source != Source::Computed);
    own.map(|b| b.bytes().next_multiple_of(ALIGNMENT)).sum::<u64>() + plan.arena_bytes
}
