//! The fused step beside a plain fused AdamW loop in the same run: ns per element and the ratio of the two, which is what has to
//! hold on a noisy machine. Each sample times both, one after the other.
//!
//! Bytes an element must move at least: AdamW 28, NeuroPlastic 36 where a tensor stays in cache between the sweeps, else 60.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use npc_kernels::neuroplastic::{AnyTensors, Config, HybridBase, Inputs, Job, Tensors, Workspace, step, step_many};
use rayon::prelude::*;

/// Float32 values aligned to 32 bytes, as the tensors of the inference engine are.
struct Aligned {
    values: Vec<f32>,
    start: usize,
}

impl Aligned {
    fn new(n: usize, value: impl FnMut() -> f32) -> Aligned {
        let mut values = vec![0.0; n + 8];
        let start = values.as_ptr().align_offset(32);
        values[start..start + n].fill_with(value);
        values.truncate(start + n);
        Aligned { values, start }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..]
    }
}

/// One parameter with everything either optimizer needs.
struct Tensor {
    parameter: Aligned,
    gradient: Aligned,
    states: [Aligned; 5],
}

impl Tensor {
    fn new(n: usize, seed: u32) -> Tensor {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        Tensor {
            parameter: Aligned::new(n, &mut noise),
            gradient: Aligned::new(n, || noise() * 1e-2),
            states: std::array::from_fn(|_| Aligned::new(n, || 1e-4)),
        }
    }

    fn tensors(&mut self, base: HybridBase) -> Tensors<'_, f32> {
        let [activity_trace, momentum, variance, base_momentum, base_variance] = &mut self.states;
        let adamw = base == HybridBase::AdamW;
        Tensors {
            parameter: &mut self.parameter,
            gradient: &self.gradient,
            activity_trace,
            momentum,
            variance,
            base_momentum: if adamw { base_momentum } else { &mut [] },
            base_variance: if adamw { base_variance } else { &mut [] },
        }
    }
}

/// AdamW's scalars for one step.
struct AdamW {
    keep: f32,
    rate: f32,
    root_correction: f32,
}

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;

#[inline(always)]
fn adamw_loop(c: &AdamW, parameter: &mut [f32], gradient: &[f32], momentum: &mut [f32], variance: &mut [f32]) {
    for (((p, &g), m), v) in parameter.iter_mut().zip(gradient).zip(momentum).zip(variance) {
        *m = BETA1 * *m + (1.0 - BETA1) * g;
        *v = BETA2 * *v + (1.0 - BETA2) * g * g;
        *p = c.keep * *p - c.rate * *m / (v.sqrt() * c.root_correction + 1e-8);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn adamw_loop_avx2(c: &AdamW, parameter: &mut [f32], gradient: &[f32], momentum: &mut [f32], variance: &mut [f32]) {
    adamw_loop(c, parameter, gradient, momentum, variance);
}

fn adamw(parameter: &mut [f32], gradient: &[f32], momentum: &mut [f32], variance: &mut [f32]) {
    let c = AdamW { keep: 1.0 - 1e-3 * 1e-2, rate: 1e-3, root_correction: 1.0 };
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: both features were just detected.
        return unsafe { adamw_loop_avx2(&c, parameter, gradient, momentum, variance) };
    }
    adamw_loop(&c, parameter, gradient, momentum, variance);
}

fn adamw_tensor(tensor: &mut Tensor) {
    let n = tensor.parameter.len();
    let threads = rayon::current_num_threads();
    let [_, momentum, variance, ..] = &mut tensor.states;
    if threads == 1 || n < 32_768 {
        return adamw(&mut tensor.parameter, &tensor.gradient, momentum, variance);
    }
    let chunk = n.div_ceil(4 * threads).next_multiple_of(1024).max(8 * 1024);
    (tensor.parameter.par_chunks_mut(chunk).zip(tensor.gradient.par_chunks(chunk)))
        .zip(momentum.par_chunks_mut(chunk).zip(variance.par_chunks_mut(chunk)))
        .for_each(|((parameter, gradient), (momentum, variance))| adamw(parameter, gradient, momentum, variance));
}

fn adamw_many(tensors: &mut [Tensor]) {
    if rayon::current_num_threads() == 1 || tensors.len() == 1 {
        tensors.iter_mut().for_each(adamw_tensor);
    } else {
        tensors.par_iter_mut().for_each(adamw_tensor);
    }
}

fn neuroplastic_many(config: &Config, tensors: &mut [Tensor], workspace: &Workspace) {
    let inputs = Inputs::new(1e-3, 10);
    if let [tensor] = tensors {
        step(config, &inputs, tensor.tensors(config.hybrid_base), workspace, None).expect("valid step");
        return;
    }
    let mut jobs: Vec<Job<'_>> = (tensors.iter_mut())
        .map(|tensor| Job {
            config,
            inputs,
            tensors: AnyTensors::F32(tensor.tensors(config.hybrid_base)),
            diagnostics: None,
        })
        .collect();
    step_many(&mut jobs, workspace).expect("valid step");
}

struct Case {
    name: &'static str,
    tensors: usize,
    elements: usize,
    limit: f64,
}

const CASES: [Case; 4] = [
    Case { name: "1 x 4,096", tensors: 1, elements: 4096, limit: 1.6 },
    Case { name: "1 x 50,000", tensors: 1, elements: 50_000, limit: 1.6 },
    Case { name: "200 x 50,000", tensors: 200, elements: 50_000, limit: 1.6 },
    Case { name: "1 x 10,000,000", tensors: 1, elements: 10_000_000, limit: 2.3 },
];

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn timed(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

fn copy_bandwidth(pool: &rayon::ThreadPool, threads: usize) -> f64 {
    let n = 10_000_000usize;
    let (source, mut target) = (vec![1.0f32; n], vec![0.0f32; n]);
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let time = timed(|| {
                pool.install(|| {
                    (target.par_chunks_mut(n / threads).zip(source.par_chunks(n / threads)))
                        .for_each(|(target, source)| target.copy_from_slice(source))
                });
            });
            8.0 * n as f64 / time.as_secs_f64() / 1e9
        })
        .collect();
    median(&mut times)
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(700))
        .without_plots()
        .configure_from_args();
    let mut table = vec![];
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("thread pool");
        table.push(format!("{threads} thread(s): copy {:.1} GB/s", copy_bandwidth(&pool, threads)));
        for case in &CASES {
            let n = case.tensors * case.elements;
            let mut tensors: Vec<Tensor> = (0..case.tensors).map(|i| Tensor::new(case.elements, i as u32)).collect();
            for base in [HybridBase::Classic, HybridBase::AdamW] {
                let config =
                    Config { hybrid_base: base, weight_decay: 1e-2, decoupled_weight_decay: true, ..Config::default() };
                let workspace = Workspace::new();
                let samples = RefCell::new(vec![]);
                let mut group = criterion.benchmark_group(format!("{threads} thread(s)"));
                group.throughput(Throughput::Elements(n as u64));
                let id = BenchmarkId::new(format!("{base:?}"), case.name);
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|iterations| {
                        let (mut ours, mut peer) = (Duration::ZERO, Duration::ZERO);
                        // Batches, so that a small tensor is as warm for one as for the other.
                        let batch = (20_000_000 / n).clamp(1, 200) as u64;
                        let mut left = iterations;
                        while left > 0 {
                            let now = left.min(batch);
                            left -= now;
                            peer += timed(|| pool.install(|| (0..now).for_each(|_| adamw_many(&mut tensors))));
                            ours += timed(|| {
                                pool.install(|| {
                                    (0..now).for_each(|_| neuroplastic_many(&config, &mut tensors, &workspace))
                                })
                            });
                        }
                        let each = |time: Duration| time.as_secs_f64() * 1e9 / iterations as f64 / n as f64;
                        samples.borrow_mut().push((each(ours), each(peer)));
                        ours
                    });
                });
                group.finish();
                let samples = samples.into_inner();
                if samples.is_empty() {
                    continue;
                }
                let of = |f: fn(&(f64, f64)) -> f64| median(&mut samples.iter().map(f).collect::<Vec<_>>());
                let least = |f: fn(&(f64, f64)) -> f64| samples.iter().map(f).fold(f64::INFINITY, f64::min);
                table.push(format!(
                    "  {:<15} {:<8} {:6.3} ns/element, AdamW loop {:6.3}: {:4.2} x (least times {:4.2} x){}",
                    case.name,
                    format!("{base:?}"),
                    of(|sample| sample.0),
                    of(|sample| sample.1),
                    of(|sample| sample.0 / sample.1),
                    least(|sample| sample.0) / least(|sample| sample.1),
                    if base == HybridBase::Classic { format!(", limit {} x", case.limit) } else { String::new() },
                ));
            }
        }
    }
    criterion.final_summary();
    table.iter().for_each(|line| println!("{line}"));
}
