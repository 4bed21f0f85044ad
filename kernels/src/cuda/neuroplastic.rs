//! Launches of the fused NeuroPlastic step: every parameter of a group in one.
//!
//! [`Tables::new`] lays out what the host prepares once: a descriptor a tensor, and the order in which blocks take chunks.
//! Learning rate, step, gates and multipliers stay in device memory, so that a captured graph replays with new values.
//!
//! Bytes a float32 element moves, classic base: 60 in three launches (28 for the traces, 20 for the update, 12 for θ); in
//! one launch the first visit brings 20 bytes from memory and 16 go back, as long as a batch of tensors stays in the L2.

mod kernels;

use self::kernels::Kernels;
use super::{Argument, DevicePointer, Launch, Source};
use crate::neuroplastic::{Config, HybridBase, Mode, ModulationTarget, OrthogonalNormalization};

/// Elements a block handles at a time; of tensors from [`LARGE`] elements on, which no cache holds, [`LARGE_CHUNK`]: what a
/// chunk costs whatever its size (reading the tables, adding the sums) is spread over more, and fewer sums are added at the end.
pub const CHUNK: u64 = 4096;
/// See [`CHUNK`].
pub const LARGE_CHUNK: u64 = 16_384;
/// See [`CHUNK`]. A matter of the tensor alone: another split would round its sums otherwise.
pub const LARGE: u64 = 1 << 22;
const THREADS: u32 = 256;
const SUMS: u64 = 6;
const SCALARS_BYTES: u64 = 64;
const PHASES: [u32; 4] = [1, 2, 3, 4];
const PROJECT: u32 = 3;
const APPLY: u32 = 4;

/// Storage type of parameter and gradient; states are float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Storage {
    F32,
    F16,
    Bf16,
}

impl Storage {
    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        if self == Storage::F32 { 4 } else { 2 }
    }

    /// The module of what does not depend on the base.
    fn source(self) -> Source {
        match self {
            Storage::F32 => Source::NeuroplasticF32,
            Storage::F16 => Source::NeuroplasticF16,
            Storage::Bf16 => Source::NeuroplasticBf16,
        }
    }

    fn kernel(self, names: [&'static str; 3]) -> &'static str {
        match self {
            Storage::F32 => names[0],
            Storage::F16 => names[1],
            Storage::Bf16 => names[2],
        }
    }
}

/// One parameter with its states, each of `elements` elements. States that the base does not keep are
/// [`DevicePointer::NULL`].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Tensor {
    pub parameter: DevicePointer,
    pub gradient: DevicePointer,
    pub activity_trace: DevicePointer,
    pub momentum: DevicePointer,
    pub variance: DevicePointer,
    pub base_momentum: DevicePointer,
    pub base_variance: DevicePointer,
    /// The parameter in float32, which then is what is stepped; or null.
    pub master: DevicePointer,
    /// Scratch of float32; may be the gradient where [`may_overwrite_gradient`] says so.
    pub update: DevicePointer,
    /// κ, a float32; or null for 1.
    pub multiplier: DevicePointer,
    pub elements: u64,
    pub target_rms: f64,
    pub modulation_strength: f64,
}

/// Whether the update may be kept in the gradient's memory: nothing reads the gradient after it.
pub fn may_overwrite_gradient(config: &Config, storage: Storage) -> bool {
    let classic = config.hybrid_base == HybridBase::Classic;
    storage == Storage::F32 && !(classic && (config.bounded_residual || config.orthogonal_residual))
}

/// Bytes of an element that one phase leaves in the cache for the next: gradient, states, and the update where it has memory of
/// its own. The parameter counts only where it is read before the last phase.
fn shared_bytes(config: &Config, storage: Storage) -> u64 {
    let decays = config.weight_decay > 0.0;
    let reads_parameter = match config.hybrid_base {
        HybridBase::Classic => decays && !config.decoupled_weight_decay,
        HybridBase::SgdMomentum => decays || config.modulation_target == ModulationTarget::TrustRatio,
        HybridBase::AdamW => config.modulation_target == ModulationTarget::TrustRatio,
    };
    let update = if may_overwrite_gradient(config, storage) { 0 } else { 4 };
    storage.bytes() * if reads_parameter { 2 } else { 1 } + 4 * states(config) + update
}

/// Whether what the phases share of a tensor fills more than `cache_bytes`: then every phase reads it from memory.
pub fn is_beyond_cache(config: &Config, storage: Storage, elements: u64, cache_bytes: u64) -> bool {
    elements * shared_bytes(config, storage) > cache_bytes
}

/// Bytes that a step of a tensor moves from and to memory at least, as long as no limit on Δ is met. Within `cache_bytes`
/// everything is read and written once (float32: 36 an element for the classic base, 52 for `adamw`); beyond them each phase
/// counts (60 and 84).
pub fn least_bytes(config: &Config, storage: Storage, elements: u64, cache_bytes: u64) -> u64 {
    let (stored, states) = (storage.bytes(), states(config));
    let once = 3 * stored + 8 * states;
    let signals = if config.parameterwise && config.mode != Mode::AblationGradOnly { 12 } else { 0 };
    let projects = config.hybrid_base == HybridBase::Classic && config.orthogonal_residual;
    let phases = [
        // The traces from the gradient; u; θ.
        stored + 8 * states,
        stored + signals + 4 * (states - 3) + 4,
        if projects { stored + 8 } else { 0 },
        4 + 2 * stored + if projects { stored } else { 0 },
    ];
    elements * if is_beyond_cache(config, storage, elements, cache_bytes) { phases.iter().sum() } else { once }
}

fn states(config: &Config) -> u64 {
    3 + u64::from(config.has_base_momentum()) + u64::from(config.has_base_variance())
}

/// Where a group's tables, working memory and scalars lie on the device.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// [`Tables::descriptors`].
    pub descriptors: DevicePointer,
    /// [`Tables::chunks`].
    pub chunks: DevicePointer,
    /// [`Tables::tickets`].
    pub tickets: DevicePointer,
    /// [`Tables::working_bytes`] bytes, zero before the first launch.
    pub working: DevicePointer,
    /// float32.
    pub learning_rate: DevicePointer,
    /// int64: updates already applied.
    pub step: DevicePointer,
    /// float32 × 3: warm-up, phase, orthogonal.
    pub gates: DevicePointer,
    /// float32 that every gradient is multiplied by; or null.
    pub inverse_scale: DevicePointer,
    /// uint32, not 0 where this step is to be skipped; or null.
    pub overflow: DevicePointer,
}

/// What the host prepares once for a group of tensors with the same settings and storage.
#[derive(Clone, Debug)]
pub struct Tables {
    /// A descriptor a tensor.
    pub descriptors: Vec<u8>,
    /// (tensor, chunk) for every chunk, in order.
    pub chunks: Vec<u8>,
    /// (tensor, chunk, phase) in the order in which the one-launch form takes them.
    pub tickets: Vec<u8>,
    config: Config,
    storage: Storage,
    tensors: u64,
    chunk_count: u64,
    ticket_count: u64,
    chunk_elements: fn(u64) -> u64,
}

/// Tensors that go through the phases together.
struct Batch {
    /// (tensor, chunks).
    tensors: Vec<(u32, u32)>,
    elements: u64,
    /// Phases behind it.
    finished: usize,
}

/// Elements of each chunk of a tensor.
fn chunk_elements(elements: u64) -> u64 {
    if elements < LARGE { CHUNK } else { LARGE_CHUNK }
}

/// Working memory of a group: offsets of its parts.
struct Working {
    control: u64,
    scalars: u64,
    slots: u64,
    arrived: u64,
    ready: u64,
    end: u64,
}

impl Tables {
    /// Lays out a group. Tensors go through the phases in batches, and while one batch is in a phase the next is in the phase
    /// before: blocks that would wait for the last chunk of a phase find work. All that is under way fits `batch_bytes` (what of
    /// the L2 may be used), so that what one phase wrote is still there for the next; a tensor for which there is no room beside
    /// others waits for those to finish.
    pub fn new(config: &Config, storage: Storage, tensors: &[Tensor], batch_bytes: u64) -> Self {
        Self::in_chunks(config, storage, tensors, batch_bytes, chunk_elements)
    }

    /// [`Self::new`] with chunks of another size: `chunk_elements` of a tensor's elements, a multiple of 1024.
    pub(crate) fn in_chunks(
        config: &Config,
        storage: Storage,
        tensors: &[Tensor],
        batch_bytes: u64,
        chunk_elements: fn(u64) -> u64,
    ) -> Self {
        let mut tables = Tables {
            descriptors: Vec::new(),
            chunks: Vec::new(),
            tickets: Vec::new(),
            config: *config,
            storage,
            tensors: tensors.len() as u64,
            chunk_count: 0,
            ticket_count: 0,
            chunk_elements,
        };
        let mut batches: Vec<Batch> = Vec::new();
        for (index, tensor) in tensors.iter().enumerate() {
            let chunks = tensor.elements.div_ceil(chunk_elements(tensor.elements)) as u32;
            let index = index as u32;
            tables.descriptor(tensor, chunks);
            for chunk in 0..chunks {
                push(&mut tables.chunks, &[index, chunk, 0, 0]);
            }
            tables.chunk_count += u64::from(chunks);
            if chunks == 0 {
                continue;
            }
            // Two batches in early phases and the updates of a third: 2 + 4/16 of a batch.
            let part = batch_bytes / 9 * 4;
            match batches.last_mut() {
                Some(last) if (last.elements + tensor.elements) * shared_bytes(config, storage) <= part => {
                    last.tensors.push((index, chunks));
                    last.elements += tensor.elements;
                }
                _ => batches.push(Batch { tensors: vec![(index, chunks)], elements: tensor.elements, finished: 0 }),
            }
        }
        tables.order(batches, batch_bytes);
        tables
    }

    fn order(&mut self, batches: Vec<Batch>, cache_bytes: u64) {
        let phases: Vec<u32> = self.phases().collect();
        let shared = shared_bytes(&self.config, self.storage);
        // What a batch keeps in the cache: before the last phase only the update, a float32 an element.
        let held = |b: &Batch| b.elements * if b.finished + 1 < phases.len() { shared } else { 4 };
        let mut under_way: Vec<Batch> = Vec::new();
        for batch in batches {
            while !under_way.is_empty() && under_way.iter().map(held).sum::<u64>() + held(&batch) > cache_bytes {
                self.advance(&mut under_way, &phases);
            }
            under_way.push(batch);
            self.advance(&mut under_way, &phases);
        }
        while !under_way.is_empty() {
            self.advance(&mut under_way, &phases);
        }
    }

    /// One more phase of each batch, that of the youngest first.
    fn advance(&mut self, under_way: &mut Vec<Batch>, phases: &[u32]) {
        for batch in under_way.iter_mut().rev() {
            if batch.finished == 0 {
                // Phase 0 takes a tensor of one chunk through all of them.
                for &(tensor, _) in batch.tensors.iter().filter(|(_, chunks)| *chunks == 1) {
                    self.ticket(tensor, 0, 0);
                }
            }
            for &(tensor, chunks) in batch.tensors.iter().filter(|(_, chunks)| *chunks > 1) {
                for i in 0..chunks {
                    // To and fro: a phase begins with what the one before it touched last.
                    let chunk = if batch.finished.is_multiple_of(2) { i } else { chunks - 1 - i };
                    self.ticket(tensor, chunk, phases[batch.finished]);
                }
            }
            batch.finished += 1;
        }
        under_way.retain(|batch| batch.finished < phases.len());
    }

    fn ticket(&mut self, tensor: u32, chunk: u32, phase: u32) {
        push(&mut self.tickets, &[tensor, chunk, phase, 0]);
        self.ticket_count += 1;
    }

    fn descriptor(&mut self, t: &Tensor, chunks: u32) {
        let first_slot = self.chunk_count as u32;
        let all = [
            t.parameter,
            t.gradient,
            t.activity_trace,
            t.momentum,
            t.variance,
            t.base_momentum,
            t.base_variance,
            t.master,
            t.update,
        ];
        let is_aligned = all.iter().all(|p| p.0.is_multiple_of(16));
        let out = &mut self.descriptors;
        for pointer in all.iter().chain([&t.multiplier]) {
            out.extend(pointer.0.to_le_bytes());
        }
        out.extend(t.elements.to_le_bytes());
        push(out, &[first_slot, chunks]);
        out.extend(t.target_rms.to_le_bytes());
        out.extend(t.modulation_strength.to_le_bytes());
        push(out, &[u32::from(is_aligned), (self.chunk_elements)(t.elements) as u32]);
    }

    fn projects(&self) -> bool {
        self.config.hybrid_base == HybridBase::Classic && self.config.orthogonal_residual
    }

    fn phases(&self) -> impl Iterator<Item = u32> + use<> {
        let projects = self.projects();
        PHASES.into_iter().filter(move |p| projects || *p != PROJECT)
    }

    fn working(&self) -> Working {
        let scalars = 16;
        let slots = scalars + self.tensors * SCALARS_BYTES;
        let arrived = slots + self.chunk_count * SUMS * 4;
        let ready = arrived + self.tensors * 4;
        Working { control: 0, scalars, slots, arrived, ready, end: ready + self.tensors * 4 }
    }

    /// Bytes of working memory.
    pub fn working_bytes(&self) -> u64 {
        self.working().end
    }

    /// `struct Group` of the source.
    fn group(&self, a: &Addresses, items: DevicePointer, count: u64, advance: bool) -> Argument {
        let c = &self.config;
        let working = self.working();
        let mut out = Vec::with_capacity(304);
        let mut pointer = |p: DevicePointer| out.extend(p.0.to_le_bytes());
        pointer(a.descriptors);
        pointer(items);
        for offset in [working.scalars, working.slots, working.arrived, working.ready, working.control] {
            pointer(a.working.offset(offset));
        }
        [a.learning_rate, a.step, a.gates, a.inverse_scale, a.overflow].into_iter().for_each(pointer);
        push(&mut out, &[count as u32, self.phases().count() as u32]);
        for number in [
            c.base_momentum,
            c.base_beta2,
            c.eps,
            c.max_update_norm,
            c.adaptation_rate,
            c.eps_h,
            c.weight_decay,
            c.base_eps,
            c.residual_max_ratio,
            c.orthogonal_lambda,
            c.orthogonal_max_ratio,
            c.modulation_max_ratio,
            c.plasticity_scale,
            c.activity_weight,
            c.gradient_weight,
            c.memory_weight,
            c.min_alpha,
            c.max_alpha,
        ] {
            out.extend(number.to_le_bytes());
        }
        for number in [
            c.min_alpha,
            c.max_alpha,
            c.eps,
            c.base_eps,
            c.weight_decay,
            c.base_momentum,
            1.0 - c.base_momentum,
            c.base_beta2,
            1.0 - c.base_beta2,
        ] {
            out.extend((number as f32).to_le_bytes());
        }
        let target = match c.modulation_target {
            ModulationTarget::Gain => 0,
            ModulationTarget::Momentum => 1,
            ModulationTarget::TrustRatio => 2,
        };
        let flags = [
            c.parameterwise,
            c.bounded_residual,
            c.orthogonal_residual,
            c.orthogonal_normalization == OrthogonalNormalization::MatchGradNorm,
            c.decoupled_weight_decay,
            c.mode == Mode::AblationGradOnly,
            advance,
        ];
        let flags = flags.iter().enumerate().map(|(bit, set)| u32::from(*set) << bit).sum();
        push(&mut out, &[target, flags, 0]);
        Argument::Bytes(out)
    }

    fn launch(&self, source: Source, kernel: &'static str, blocks: u64, arguments: Vec<Argument>) -> Launch {
        let (grid, block) = ([blocks as u32, 1, 1], [THREADS, 1, 1]);
        Launch { source, kernel, grid, block, dynamic_shared: 0, arguments }
    }

    /// Blocks of [`Self::fused`] that a device of so many multiprocessors runs at once.
    pub fn resident_blocks(&self, multiprocessors: u64) -> u64 {
        Kernels::of(&self.config, self.storage).resident * multiprocessors
    }

    /// The step in one launch of at most `blocks` blocks (a few for each multiprocessor). `advance`: count the step, to be set
    /// for the last group of a step only. `None` when there is nothing to update and nothing to count.
    pub fn fused(&self, a: &Addresses, advance: bool, blocks: u64) -> Option<Launch> {
        let kernels = Kernels::of(&self.config, self.storage);
        let group = self.group(a, a.tickets, self.ticket_count, advance);
        let blocks = blocks.clamp(1, self.ticket_count.max(1));
        (self.ticket_count > 0 || advance).then(|| self.launch(kernels.source, kernels.fused, blocks, vec![group]))
    }

    /// The step in one launch a phase: what tensors beyond the L2 are stepped with. `advance` as in [`Self::fused`].
    pub fn sweeps(&self, a: &Addresses, advance: bool) -> Vec<Launch> {
        let kernels = Kernels::of(&self.config, self.storage);
        let group = self.group(a, a.chunks, self.chunk_count, advance);
        // Without elements only the last phase has something to do: it counts the step.
        let is_wanted = |phase: &u32| self.chunk_count > 0 || (advance && *phase == APPLY);
        let launch = |phase: u32| {
            let (kernel, blocks) = (kernels.phases[phase as usize - 1], self.chunk_count.max(1));
            self.launch(kernels.source, kernel, blocks, vec![group.clone()])
        };
        self.phases().filter(is_wanted).map(launch).collect()
    }

    /// The controller's signal of every tensor as it enters the step, into float32 `signals[tensor]`: two launches.
    pub fn signals(&self, a: &Addresses, signals: DevicePointer) -> Vec<Launch> {
        let names = ["neuroplastic_signal_f32", "neuroplastic_signal_f16", "neuroplastic_signal_bf16"];
        let group = self.group(a, a.chunks, self.chunk_count, false);
        let launch = |p| {
            let arguments = vec![group.clone(), Argument::Pointer(signals), Argument::U32(p)];
            self.launch(self.storage.source(), self.storage.kernel(names), self.chunk_count, arguments)
        };
        if self.chunk_count == 0 { Vec::new() } else { (1..=2).map(launch).collect() }
    }

    /// Sets the uint32 at `overflow` to 1 where a gradient is not finite.
    pub fn find_overflow(&self, a: &Addresses, overflow: DevicePointer) -> Option<Launch> {
        let names = ["neuroplastic_overflow_f32", "neuroplastic_overflow_f16", "neuroplastic_overflow_bf16"];
        let arguments = vec![self.group(a, a.chunks, self.chunk_count, false), Argument::Pointer(overflow)];
        (self.chunk_count > 0)
            .then(|| self.launch(self.storage.source(), self.storage.kernel(names), self.chunk_count, arguments))
    }
}

/// Dynamic loss scaling after a step: float32 `scale[0]` shrinks by `backoff` where the step overflowed and grows by `growth`
/// after `interval` steps that did not, `scale[1]` is its inverse, `scale[2]` the steps counted; the overflow is cleared.
pub fn rescale(scale: DevicePointer, overflow: DevicePointer, growth: f32, backoff: f32, interval: f32) -> Launch {
    let numbers = [growth, backoff, interval].map(Argument::F32);
    let pointers = [Argument::Pointer(scale), Argument::Pointer(overflow)];
    let arguments = pointers.into_iter().chain(numbers).collect();
    Launch {
        source: Source::Scale,
        kernel: "neuroplastic_scale",
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared: 0,
        arguments,
    }
}

fn push(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| out.extend(word.to_le_bytes()));
}
