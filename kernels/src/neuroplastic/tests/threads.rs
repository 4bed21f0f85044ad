//! The result is the same, bit for bit, whatever the number of threads and however tensors are grouped.

use proptest::prelude::*;

use super::Owned;
use crate::neuroplastic::step::run;
use crate::neuroplastic::tensors::BLOCK;
use crate::neuroplastic::workspace::Buffers;
use crate::neuroplastic::{
    AnyTensors, Config, HybridBase, Inputs, Job, Traces, Workspace, plasticity_signal, step, step_many,
};

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn configs() -> Vec<Config> {
    let classic = Config { weight_decay: 0.01, ..Config::default() };
    vec![
        classic,
        Config { plasticity_scale: 2.0, bounded_residual: true, residual_max_ratio: 0.1, ..classic },
        Config { orthogonal_residual: true, ..classic },
        Config { hybrid_base: HybridBase::AdamW, modulation_strength: 1.0, ..classic },
        Config { hybrid_base: HybridBase::SgdMomentum, ..classic },
    ]
}

fn bits(tensor: &Owned<f32>) -> Vec<u32> {
    let states = tensor.states().into_iter().flat_map(|(_, values)| values);
    tensor.parameter.iter().chain(states).map(|value| value.to_bits()).collect()
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let pools = [1, 2, 3, 8].map(pool);
    for n in [40 * BLOCK, 33 * BLOCK + 5, 70 * BLOCK + 4099] {
        for config in configs() {
            let results = pools.each_ref().map(|pool| {
                let mut tensor = Owned::new(&config, noise(n, 1), noise(n, 2));
                let workspace = Workspace::new();
                let mut signals = vec![];
                pool.install(|| {
                    for t in 0..2 {
                        let inputs = Inputs::new(0.1, t);
                        let traces = Traces {
                            gradient: tensor.gradient.as_slice(),
                            activity_trace: &tensor.activity_trace,
                            momentum: &tensor.momentum,
                            variance: &tensor.variance,
                        };
                        signals.push(plasticity_signal(&config, &inputs.gates, traces).unwrap().to_bits());
                        step(&config, &inputs, tensor.tensors(), &workspace, None).unwrap();
                    }
                });
                (bits(&tensor), signals)
            });
            for other in &results[1..] {
                assert!(results[0] == *other, "{n} elements, {config:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_group_gives_the_bits_of_its_tensors(
        lengths in prop::collection::vec(prop_oneof![0usize..50, BLOCK - 3..3 * BLOCK, 30 * BLOCK..36 * BLOCK], 1..7),
        threads in 1usize..5,
        which in 0usize..5,
    ) {
        let config = &configs()[which];
        let make = || -> Vec<Owned<f32>> {
            (0u32..).zip(&lengths).map(|(i, &n)| Owned::new(config, noise(n, i), noise(n, i + 100))).collect()
        };
        let (mut alone, mut together) = (make(), make());
        let inputs = Inputs::new(0.05, 4);
        let workspace = Workspace::new();
        pool(1).install(|| {
            for tensor in &mut alone {
                step(config, &inputs, tensor.tensors(), &workspace, None).unwrap();
            }
        });
        pool(threads).install(|| {
            let mut jobs: Vec<Job<'_>> = (together.iter_mut())
                .map(|tensor| Job { config, inputs, tensors: AnyTensors::F32(tensor.tensors()), diagnostics: None })
                .collect();
            step_many(&mut jobs, &workspace).unwrap();
        });
        for (alone, together) in alone.iter().zip(&together) {
            prop_assert!(bits(alone) == bits(together));
        }
    }
}

#[test]
fn streaming_past_the_caches_changes_nothing_and_overflows_are_summed_anew() {
    // Large enough for the path that writes past the caches; one gradient whose square overflows float32.
    let n = (1 << 22) + 3;
    let config = Config::default();
    let mut gradient = noise(n, 5);
    gradient[BLOCK + 7] = 1e25;
    let mut large = Owned::new(&config, noise(n, 6), gradient);
    let mut portable = large.clone();
    run(&config, &Inputs::new(0.1, 0), &mut large.tensors(), &mut Buffers::default(), None, usize::MAX, false);
    run(&config, &Inputs::new(0.1, 0), &mut portable.tensors(), &mut Buffers::default(), None, usize::MAX, true);
    assert!(large.parameter.iter().all(|value| value.is_finite()));
    for (i, (x, y)) in large.parameter.iter().zip(&portable.parameter).enumerate() {
        assert!((x - y).abs() <= 1e-6 + 1e-6 * y.abs(), "parameter[{i}]: {x} and, without special instructions, {y}");
    }
}

#[test]
fn the_portable_build_agrees() {
    for config in configs() {
        let n = 2 * BLOCK + 13;
        let mut fast = Owned::new(&config, noise(n, 3), noise(n, 4));
        let mut portable = fast.clone();
        for t in 0..3 {
            let inputs = Inputs::new(0.05, t);
            run(&config, &inputs, &mut fast.tensors(), &mut Buffers::default(), None, usize::MAX, false);
            run(&config, &inputs, &mut portable.tensors(), &mut Buffers::default(), None, usize::MAX, true);
        }
        let values = |tensor: &Owned<f32>| bits(tensor).into_iter().map(f32::from_bits).collect::<Vec<_>>();
        for (i, (x, y)) in values(&fast).iter().zip(&values(&portable)).enumerate() {
            assert!((x - y).abs() <= 1e-6 + 1e-5 * y.abs(), "{config:?}: value {i}: {x} and {y}");
        }
    }
}
