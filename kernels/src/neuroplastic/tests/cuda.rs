//! The CUDA kernels, run by the PTX interpreter: golden vectors, the float64 reference, and what only a device has.

use half::{bf16, f16};
use npc_ptx_interpreter::Schedule;

use super::golden::{ABSOLUTE, RELATIVE, cases, floats, list, numbers};
use super::scopes::Settings;
use super::{Owned, assert_close, wide};
use crate::cuda::neuroplastic::{
    Addresses, CHUNK, LARGE_CHUNK, Storage, Tables, Tensor, least_bytes, may_overwrite_gradient, rescale,
};
use crate::cuda::testing::Device;
use crate::cuda::{DevicePointer, Launch};
use crate::neuroplastic::{
    Config, Element, Gates, HybridBase, Inputs, ModulationTarget, OrthogonalNormalization, reference,
};

/// How a step is started.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Fused { blocks: u64 },
    Sweeps,
}

/// Elements as a device stores them.
pub(super) trait Stored: Element {
    const STORAGE: Storage;
    fn bytes(values: &[Self]) -> Vec<u8>;
    fn values(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! stored {
    ($($type:ty => $storage:ident, $width:literal;)*) => {$(
        impl Stored for $type {
            const STORAGE: Storage = Storage::$storage;
            fn bytes(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            fn values(bytes: &[u8]) -> Vec<Self> {
                bytes.chunks_exact($width).map(|x| <$type>::from_le_bytes(x.try_into().unwrap())).collect()
            }
        }
    )*};
}

stored! { f32 => F32, 4; f16 => F16, 2; bf16 => Bf16, 2; }

/// A group of tensors on a device.
pub(super) struct Group<T> {
    pub device: Device,
    tensors: Vec<Tensor>,
    pub tables: Tables,
    pub addresses: Addresses,
    kind: std::marker::PhantomData<T>,
}

/// What a group is made with beyond its tensors.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    pub schedule: Schedule,
    batch_bytes: u64,
    /// Bytes that every array starts after a multiple of 256.
    shift: u64,
    master: bool,
    pub chunk_elements: fn(u64) -> u64,
}

pub(super) const PLAIN: Setup =
    Setup { schedule: Schedule::InOrder, batch_bytes: 1 << 20, shift: 0, master: false, chunk_elements: |_| CHUNK };

impl<T: Stored> Group<T> {
    pub fn new(configs: &[Config], owned: &[Owned<T>], setup: Setup) -> Self {
        let mut device = Device::new(setup.schedule);
        let shift = setup.shift;
        let mut place = |bytes: Vec<u8>| {
            let at = device.memory.alloc(bytes.len() + shift as usize);
            device.memory.write(at + shift, &bytes).unwrap();
            DevicePointer(at + shift)
        };
        let config = configs[0];
        let mut tensors = Vec::new();
        for (owned, config) in owned.iter().zip(configs) {
            let mut state = |values: &[f32]| {
                if values.is_empty() && !owned.parameter.is_empty() {
                    DevicePointer::NULL
                } else {
                    place(f32::bytes(values))
                }
            };
            let [activity_trace, momentum, variance, base_momentum, base_variance] =
                owned.states().map(|(_, values)| state(values));
            let master: Vec<f32> = owned.parameter.iter().map(|x| x.to_f64() as f32).collect();
            let master = if setup.master { place(f32::bytes(&master)) } else { DevicePointer::NULL };
            let (parameter, gradient) = (place(T::bytes(&owned.parameter)), place(T::bytes(&owned.gradient)));
            let scratch = may_overwrite_gradient(config, T::STORAGE);
            let update = if scratch { gradient } else { place(f32::bytes(&vec![f32::NAN; owned.gradient.len()])) };
            tensors.push(Tensor {
                parameter,
                gradient,
                activity_trace,
                momentum,
                variance,
                base_momentum,
                base_variance,
                master,
                update,
                multiplier: DevicePointer::NULL,
                elements: owned.parameter.len() as u64,
                target_rms: config.target_rms,
                modulation_strength: config.modulation_strength,
            });
        }
        for tensor in &mut tensors {
            tensor.multiplier = device.put(&[1.0f32]);
        }
        let tables = Tables::in_chunks(&config, T::STORAGE, &tensors, setup.batch_bytes, setup.chunk_elements);
        let addresses = Addresses {
            descriptors: device.put(&tables.descriptors),
            chunks: device.put(&tables.chunks),
            tickets: device.put(&tables.tickets),
            working: device.put(&vec![0u8; tables.working_bytes() as usize]),
            learning_rate: device.put(&[0.0f32]),
            step: device.put(&[0i64]),
            gates: device.put(&[1.0f32; 3]),
            inverse_scale: DevicePointer::NULL,
            overflow: DevicePointer::NULL,
        };
        Group { device, tensors, tables, addresses, kind: std::marker::PhantomData }
    }

    pub fn set(&mut self, gates: &Gates, learning_rate: f32, gradients: &[Vec<T>]) {
        self.device.memory.write(self.addresses.gates.0, &[gates.warm_up, gates.phase, gates.orthogonal]).unwrap();
        self.device.memory.write(self.addresses.learning_rate.0, &[learning_rate]).unwrap();
        for (tensor, gradient) in self.tensors.iter().zip(gradients) {
            self.device.memory.write(tensor.gradient.0, &T::bytes(gradient)).unwrap();
        }
    }

    fn step(&mut self, form: Form) {
        let launches: Vec<Launch> = match form {
            Form::Fused { blocks } => self.tables.fused(&self.addresses, true, blocks).into_iter().collect(),
            Form::Sweeps => self.tables.sweeps(&self.addresses, true),
        };
        launches.iter().for_each(|launch| self.device.run(launch));
    }

    fn parameter(&self, i: usize) -> Vec<T> {
        let tensor = &self.tensors[i];
        T::values(&self.device.get::<u8>(tensor.parameter, (tensor.elements * T::STORAGE.bytes()) as usize))
    }

    fn states(&self, i: usize) -> [Vec<f32>; 5] {
        let t = &self.tensors[i];
        [t.activity_trace, t.momentum, t.variance, t.base_momentum, t.base_variance].map(|p| match p {
            DevicePointer::NULL => Vec::new(),
            p => self.device.get(p, t.elements as usize),
        })
    }

    fn everything(&self) -> Vec<u8> {
        let tensors = (0..self.tensors.len()).flat_map(|i| {
            let states = self.states(i).into_iter().flat_map(|s| f32::bytes(&s));
            T::bytes(&self.parameter(i)).into_iter().chain(states)
        });
        tensors.chain(self.device.get::<i64>(self.addresses.step, 1)[0].to_le_bytes()).collect()
    }
}

#[test]
fn golden_vectors_through_the_ptx() {
    for case in cases() {
        let name = case["case"].as_str().unwrap();
        let settings = Settings(case["settings"].as_object().unwrap());
        let epochs = case["total_epochs"].as_f64().unwrap();
        let shapes = list(&case["shapes"]);
        let count = shapes.len();
        let configs: Vec<_> = (0..count).map(|i| settings.config(i, count, list(&shapes[i]).len())).collect();
        let owned: Vec<_> = (list(&case["initial_params"]).iter().zip(&configs))
            .map(|(p, config)| Owned::new(config, floats(p), vec![0.0; floats(p).len()]))
            .collect();
        for form in [Form::Fused { blocks: 3 }, Form::Sweeps] {
            let mut group = Group::new(&configs, &owned, PLAIN);
            let signals = group.device.put(&vec![0.0f32; count]);
            for (t, step) in list(&case["steps"]).iter().enumerate() {
                let gates = settings.gates(step["epoch"].as_f64().unwrap(), epochs);
                let gradients: Vec<_> = list(&step["grads"]).iter().map(floats).collect();
                group.set(&gates, settings.number("lr", 1e-3) as f32, &gradients);
                let launches = group.tables.signals(&group.addresses, signals);
                launches.iter().for_each(|launch| group.device.run(launch));
                let found: Vec<f64> = group.device.get::<f32>(signals, count).into_iter().map(f64::from).collect();
                for (tensor, (_, multiplier)) in group.tensors.iter().zip(settings.controller(&found)) {
                    group.device.memory.write(tensor.multiplier.0, &[multiplier as f32]).unwrap();
                }
                group.step(form);
                for (i, expected) in list(&step["params"]).iter().enumerate() {
                    let what = format!("{name} {form:?}: parameter {i} after step {t}");
                    assert_close(&what, &wide(&group.parameter(i)), &numbers(expected), ABSOLUTE, RELATIVE);
                }
            }
            assert_eq!(group.device.get::<i64>(group.addresses.step, 1)[0], list(&case["steps"]).len() as i64);
            for (i, expected) in list(&case["final_state"]).iter().enumerate() {
                for ((state, _), values) in owned[i].states().iter().zip(group.states(i)) {
                    if !values.is_empty() {
                        assert_close(
                            &format!("{name} {form:?}: {state} {i}"),
                            &wide(&values),
                            &numbers(&expected[state]),
                            ABSOLUTE,
                            RELATIVE,
                        );
                    }
                }
            }
        }
    }
}

fn noise(n: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next() * scale).collect()
}

pub(super) fn owned<T: Stored>(config: &Config, sizes: &[usize], convert: impl Fn(f32) -> T) -> Vec<Owned<T>> {
    let values = |n, seed, scale| noise(n, seed, scale).into_iter().map(&convert).collect::<Vec<T>>();
    let tensor =
        |(i, n): (usize, &usize)| Owned::new(config, values(*n, i as u32, 0.3), values(*n, 77 + i as u32, 0.02));
    sizes.iter().enumerate().map(tensor).collect()
}

/// Settings that between them take every branch of the kernels.
fn configs() -> Vec<Config> {
    let default = Config::default();
    let hybrid = |hybrid_base, modulation_target| Config {
        hybrid_base,
        modulation_target,
        modulation_strength: 0.9,
        modulation_max_ratio: 0.05,
        weight_decay: 0.01,
        ..default
    };
    let orthogonal = Config { orthogonal_residual: true, orthogonal_lambda: 0.4, orthogonal_max_ratio: 0.1, ..default };
    vec![
        default,
        Config { plasticity_scale: 2.0, weight_decay: 0.05, ..default },
        Config { parameterwise: false, decoupled_weight_decay: true, weight_decay: 0.1, ..default },
        Config { bounded_residual: true, residual_max_ratio: 0.1, weight_decay: 0.02, ..default },
        Config { weight_decay: 0.03, ..orthogonal },
        Config { orthogonal_normalization: OrthogonalNormalization::MatchGradNorm, parameterwise: false, ..orthogonal },
        hybrid(HybridBase::AdamW, ModulationTarget::Gain),
        hybrid(HybridBase::AdamW, ModulationTarget::Momentum),
        hybrid(HybridBase::AdamW, ModulationTarget::TrustRatio),
        hybrid(HybridBase::SgdMomentum, ModulationTarget::Momentum),
        Config { max_update_norm: 1e-3, ..default },
    ]
}

/// Sizes that leave tails everywhere: none, below a vector, one chunk, one and a bit, several.
const SIZES: [usize; 6] = [1, 3, 4095, 4096, 4099, 13_001];

fn against_reference<T: Stored>(convert: impl Fn(f32) -> T + Copy, setup: Setup, absolute: f64, relative: f64) {
    for config in configs() {
        let tensors = owned(&config, &SIZES, convert);
        let gates = Gates { warm_up: 0.7, phase: 1.0, orthogonal: 0.8 };
        for form in [Form::Fused { blocks: 4 }, Form::Sweeps] {
            let mut group = Group::new(&vec![config; SIZES.len()], &tensors, setup);
            let mut states: Vec<_> = tensors.iter().map(|t| reference::State::new(wide(&t.parameter))).collect();
            for t in 0..2 {
                let gradients: Vec<Vec<T>> = (SIZES.iter().enumerate())
                    .map(|(i, n)| noise(*n, 99 + i as u32 + 31 * t, 0.02).into_iter().map(convert).collect())
                    .collect();
                group.set(&gates, 0.05, &gradients);
                group.step(form);
                let inputs = Inputs { gates, ..Inputs::new(0.05, i64::from(t)) };
                for (state, gradient) in states.iter_mut().zip(&gradients) {
                    reference::step(&config, &inputs, state, &wide(gradient));
                    if !setup.master {
                        let stored = state.parameter.iter().map(|x| convert(*x as f32).to_f64());
                        state.parameter = stored.collect();
                    }
                }
            }
            for (i, state) in states.iter().enumerate() {
                let what = format!("{config:?} {form:?}: tensor {i}");
                assert_close(&what, &wide(&group.parameter(i)), &state.parameter, absolute, relative);
            }
        }
    }
}

#[test]
fn every_setting_agrees_with_the_reference() {
    against_reference(|x| x, PLAIN, 2e-6, 2e-5);
}

#[test]
fn arrays_at_odd_addresses_agree_with_the_reference() {
    against_reference(|x| x, Setup { shift: 4, ..PLAIN }, 2e-6, 2e-5);
}

#[test]
fn half_precision_parameters_agree_with_the_reference() {
    // Half a unit in the last place of what is stored, and the reference's own rounding.
    against_reference(f16::from_f32, PLAIN, 1e-6, 1.0 / 1024.0);
    against_reference(bf16::from_f32, PLAIN, 1e-6, 1.0 / 128.0);
    against_reference(bf16::from_f32, Setup { master: true, ..PLAIN }, 1e-6, 1.0 / 128.0);
}

#[test]
fn large_chunks_agree_with_the_reference() {
    // As large tensors have them: one that is not full, and one beside a full one.
    against_reference(
        |x| x,
        Setup { chunk_elements: |n| if n < 5000 { CHUNK } else { LARGE_CHUNK }, ..PLAIN },
        2e-6,
        2e-5,
    );
}

#[test]
fn sums_of_many_chunks_are_all_added() {
    // More chunks than the last block's threads read at once, some read one by one, in chunks of 1024 elements.
    let n = 1024 * (4 * 256 + 256 + 3) + 1;
    let config = Config { max_update_norm: 1e9, target_rms: 1.0, adaptation_rate: 0.5, ..Config::default() };
    let tensors = owned(&config, &[n], |x| x);
    let setup = Setup { chunk_elements: |_| 1024, ..PLAIN };
    let gates = Gates { warm_up: 1.0, phase: 1.0, orthogonal: 1.0 };
    let mut state = reference::State::new(wide(&tensors[0].parameter));
    reference::step(&config, &Inputs { gates, ..Inputs::new(0.05, 0) }, &mut state, &wide(&tensors[0].gradient));
    let mut group = Group::new(&[config], &tensors, setup);
    group.set(&gates, 0.05, &[tensors[0].gradient.clone()]);
    group.step(Form::Sweeps);
    assert_close("many chunks", &wide(&group.parameter(0)), &state.parameter, 2e-6, 2e-5);
}

#[test]
fn a_group_without_elements_still_counts_the_step() {
    for config in configs() {
        let tensors = owned(&config, &[0, 0], |x| x);
        let mut group = Group::new(&[config; 2], &tensors, PLAIN);
        for form in [Form::Fused { blocks: 3 }, Form::Sweeps] {
            let before = group.device.get::<i64>(group.addresses.step, 1)[0];
            group.step(form);
            group.step(form);
            assert_eq!(group.device.get::<i64>(group.addresses.step, 1)[0], before + 2, "{config:?} {form:?}");
        }
        assert!(group.tables.fused(&group.addresses, false, 3).is_none());
        assert!(group.tables.sweeps(&group.addresses, false).is_empty());
    }
}

#[test]
fn rows_without_a_gradient_keep_their_values() {
    // An embedding's unused rows: every root and quotient is of 0.
    for config in [Config::default(), Config { hybrid_base: HybridBase::AdamW, ..Config::default() }] {
        let mut tensors = owned(&config, &[8192], |x| x);
        tensors[0].gradient[1000..].fill(0.0);
        for form in [Form::Fused { blocks: 2 }, Form::Sweeps] {
            let mut group = Group::new(&[config], &tensors, PLAIN);
            group.set(&Gates { warm_up: 1.0, phase: 1.0, orthogonal: 1.0 }, 0.1, &[tensors[0].gradient.clone()]);
            group.step(form);
            let found = group.parameter(0);
            assert!(found[1000..] == tensors[0].parameter[1000..], "{form:?}");
            assert!(found[..1000].iter().zip(&tensors[0].parameter).all(|(a, b)| a != b && a.is_finite()));
        }
    }
}

#[test]
fn no_schedule_and_no_form_changes_a_bit() {
    for config in configs() {
        let tensors = owned(&config, &[5000, 9, 20_000, 8192], |x| x);
        let run = |schedule, form, batch_bytes| {
            let mut group = Group::new(&[config; 4], &tensors, Setup { schedule, batch_bytes, ..PLAIN });
            group.set(
                &Gates { warm_up: 1.0, phase: 1.0, orthogonal: 1.0 },
                0.1,
                &tensors.iter().map(|t| t.gradient.clone()).collect::<Vec<_>>(),
            );
            group.step(form);
            group.everything()
        };
        let first = run(Schedule::InOrder, Form::Sweeps, 1 << 20);
        for (schedule, form, batch) in [
            (Schedule::Reversed, Form::Sweeps, 1 << 20),
            (Schedule::InOrder, Form::Fused { blocks: 1 }, 1 << 20),
            (Schedule::Reversed, Form::Fused { blocks: 5 }, 0),
            (Schedule::Random(3), Form::Fused { blocks: 7 }, 1 << 20),
            (Schedule::Random(4), Form::Fused { blocks: 64 }, 200_000),
        ] {
            assert!(run(schedule, form, batch) == first, "{config:?} {schedule:?} {form:?} {batch}");
        }
    }
}

#[test]
fn traffic_is_what_the_design_counts() {
    let n = 40_000;
    let slack = 0.5; // Tables, slots and scalars.
    let adamw = Config { hybrid_base: HybridBase::AdamW, max_update_norm: 1e9, ..Config::default() };
    for (config, once, phases) in [(Config::default(), 36.0, 60.0), (adamw, 52.0, 84.0)] {
        let tensors = owned(&config, &[n], |x| x);
        let per_element = |bytes: u64| bytes as f64 / n as f64;
        let least = |cache| per_element(least_bytes(&config, Storage::F32, n as u64, cache));
        assert_eq!((least(1 << 30), least(1 << 19)), (once, phases));
        let mut group = Group::new(&[config], &tensors, PLAIN);
        group.step(Form::Sweeps);
        // What a launch touches, it moves once: no byte is asked for by two blocks but those of the tables.
        let all = &group.device.statistics;
        let moved: u64 = all.iter().map(|s| s.distinct_loaded_bytes + s.distinct_stored_bytes).sum();
        assert!((phases - 5.0..phases + slack).contains(&per_element(moved)), "{}", per_element(moved));
        let mut group = Group::new(&[config], &tensors, PLAIN);
        group.step(Form::Fused { blocks: 4 });
        let s = group.device.statistics[0];
        // The update lies where the gradient was: its four bytes come back only if it is evicted before the next step
        // overwrites it.
        let touched = per_element(s.distinct_loaded_bytes + s.distinct_stored_bytes);
        assert!((once..once + 4.0 + slack).contains(&touched), "{touched}");
    }
}

#[test]
fn an_overflow_skips_the_step_on_the_device() {
    let config = Config::default();
    let mut tensors = owned(&config, &[4096, 6000], f16::from_f32);
    let mut group = Group::new(&[config; 2], &tensors, PLAIN);
    let scale = group.device.put(&[1024.0f32, 1.0 / 1024.0, 0.0]);
    let overflow = group.device.put(&[0u32]);
    group.addresses.inverse_scale = scale.offset(4);
    group.addresses.overflow = overflow;
    let gates = Gates { warm_up: 1.0, phase: 1.0, orthogonal: 1.0 };
    let before = group.everything();
    tensors[1].gradient[5999] = f16::INFINITY;
    let step = |group: &mut Group<f16>, tensors: &[Owned<f16>], form| {
        group.set(&gates, 0.1, &tensors.iter().map(|t| t.gradient.clone()).collect::<Vec<_>>());
        let find = group.tables.find_overflow(&group.addresses, overflow).unwrap();
        group.device.run(&find);
        group.step(form);
        group.device.run(&rescale(scale, overflow, 2.0, 0.5, 2.0));
    };
    for form in [Form::Fused { blocks: 2 }, Form::Sweeps] {
        step(&mut group, &tensors, form);
        assert!(group.everything() == before, "{form:?}");
    }
    assert_eq!(group.device.get::<f32>(scale, 2), [256.0, 1.0 / 256.0]);
    // Two clean steps later the scale has grown again, and the gradient was divided by what it was multiplied by.
    tensors[1].gradient[5999] = f16::from_f32(0.01);
    let mut plain = reference::State::new(wide(&tensors[1].parameter));
    for t in 0..2 {
        step(&mut group, &tensors, Form::Fused { blocks: 2 });
        let gradient: Vec<f64> = wide(&tensors[1].gradient).iter().map(|g| g / 256.0).collect();
        reference::step(&config, &Inputs { gates, ..Inputs::new(0.1, t) }, &mut plain, &gradient);
        plain.parameter = plain.parameter.iter().map(|x| f16::from_f64(*x).to_f64()).collect();
    }
    assert_close("after the skipped steps", &wide(&group.parameter(1)), &plain.parameter, 1e-6, 1.0 / 1024.0);
    assert_eq!(group.device.get::<f32>(scale, 2), [512.0, 1.0 / 512.0]);
    assert_eq!(group.device.get::<i64>(group.addresses.step, 1), [2]);
}

#[test]
fn a_scale_ends_neither_in_zero_nor_in_infinity() {
    let mut device = Device::new(Schedule::InOrder);
    let scale = device.put(&[1.0f32, 1.0, 0.0]);
    let overflow = device.put(&[0u32]);
    for (found, end) in [(0u32, 2f32.powi(126)), (1, 2f32.powi(-126))] {
        for _ in 0..5 {
            device.memory.write(overflow.0, &[found]).unwrap();
            device.run(&rescale(scale, overflow, 2f32.powi(60), 2f32.powi(-60), 1.0));
        }
        assert_eq!(device.get::<f32>(scale, 2), [end, 1.0 / end]);
    }
}
