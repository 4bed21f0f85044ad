//! Plans carried out by the reference device, compared with the CPU engine, step by step.

use super::device::{Device, Scalars, Session};
use super::epilogue::Activation;
use super::testing::Reference;
use super::*;
use crate::HostTensor;
use crate::cpu::{Program, ProgramOptions};
use crate::testing::root;
use npc_compiler::graph::DType as ModelType;
use npc_compiler::{CompileOptions, Compiled, Optimizer, compile, onnx};
use std::collections::HashMap;

pub(super) mod gpt;

pub(super) fn compiled(file: &str, optimizer: Optimizer) -> Compiled {
    let path = root().join("models").join(file);
    compile(onnx::load(&path).unwrap(), &CompileOptions { optimizer, ..CompileOptions::default() }).unwrap()
}

fn planned(program: &Program, compiled: &Compiled, batch: usize, device: &mut impl Device) -> Result<Plan, PlanError> {
    program.device_graph(&compiled.model, batch)?.plan(&compiled.bindings, &PlanOptions::default(), device)
}

/// A value for an input, the same in both engines.
pub(super) fn value(name: &str, dtype: ModelType, dims: &[usize], seed: usize) -> HostTensor {
    let count: usize = dims.iter().product();
    match dtype {
        ModelType::I64 => {
            HostTensor::i64(dims, &(0..count).map(|i| ((i * 7 + seed) % 10) as i64).collect::<Vec<_>>()).unwrap()
        }
        _ => {
            let wave = |i: usize| 0.05 * (0.37 * i as f32 + seed as f32).sin();
            let squares = name.contains("variance") || name.starts_with("v.") || name.contains("var");
            let scales = name.contains("ln_") && name.ends_with(".weight") && !name.starts_with("m.");
            let at = |i: usize| match (squares, scales) {
                (true, _) => wave(i).abs() + 1e-3,
                (false, true) => 1.0 + wave(i),
                (false, false) => wave(i),
            };
            HostTensor::f32(dims, &(0..count).map(at).collect::<Vec<_>>()).unwrap()
        }
    }
}

/// A value for every input but the step.
pub(super) fn first_feeds(compiled: &Compiled) -> HashMap<String, HostTensor> {
    let (graph, b) = (&compiled.model.graph, &compiled.bindings);
    let mut feeds: HashMap<String, HostTensor> = HashMap::new();
    for (i, id) in graph.inputs.iter().enumerate() {
        let v = graph.value(*id);
        feeds.insert(v.name.clone(), value(&v.name, v.dtype().unwrap(), &v.dims().unwrap(), i));
    }
    if let Some(rate) = &b.learning_rate {
        feeds.insert(rate.name.clone(), HostTensor::f32(&[], &[0.01]).unwrap());
    }
    if let Some(gates) = &b.gates {
        feeds.insert(gates.clone(), HostTensor::f32(&[3], &[1.0; 3]).unwrap());
    }
    feeds
}

/// Steps a model on the CPU and on the reference device; returns the plan.
fn compare(file: &str, optimizer: Optimizer, steps: usize, tolerance: f64) -> Plan {
    compare_on(Reference::default(), file, optimizer, steps, tolerance)
}

fn compare_on(mut device: impl Device, file: &str, optimizer: Optimizer, steps: usize, tolerance: f64) -> Plan {
    let compiled = compiled(file, optimizer);
    let b = &compiled.bindings;
    let mut program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
    let mut feeds = first_feeds(&compiled);
    let step = b.step.as_ref();
    let set_step = |feeds: &mut HashMap<String, HostTensor>, t: usize| {
        if let Some(step) = step {
            let tensor = HostTensor::f32(&[], &[(step.first + t as f64) as f32]).unwrap();
            let dtype = if step.dtype == "i64" { ModelType::I64 } else { ModelType::F32 };
            feeds.insert(step.name.clone(), tensor.cast(dtype).unwrap());
        }
    };
    set_step(&mut feeds, 0);
    let plan = planned(&program, &compiled, 16, &mut device).unwrap_or_else(|e| panic!("{file}: {e}"));
    let scalars = Scalars::of(b);
    let mut session = Session::new(plan.clone(), device, &scalars).unwrap();
    for (name, tensor) in &feeds {
        session.set(name, tensor).unwrap();
    }
    let fed_back: HashMap<&str, &str> = (b.parameters.iter())
        .flat_map(|p| {
            p.states.iter().map(|s| (s.next.as_str(), s.name.as_str())).chain([(p.next.as_str(), p.name.as_str())])
        })
        .chain(b.state.iter().map(|s| (s.next.as_str(), s.name.as_str())))
        .collect();
    for t in 0..steps {
        set_step(&mut feeds, t);
        if optimizer == Optimizer::Keep
            && let Some(step) = step
        {
            session.set(&step.name, &feeds[&step.name]).unwrap();
        }
        session.step().unwrap();
        session.check().unwrap();
        let known: Vec<String> = program.inputs().map(str::to_string).collect();
        let given = known.iter().map(|n| (n.clone(), feeds[n].clone())).collect();
        for (name, want) in program.run(given).unwrap() {
            let from = fed_back.get(name.as_str()).copied().unwrap_or(&name);
            let got = session.get(from, Some(want.dims())).unwrap();
            let (got, wanted) = (got.to_f64(), want.to_f64());
            let size = wanted.iter().fold(1e-6f64, |m, x| m.max(x.abs()));
            // Where the gradient is nothing but rounding, Adam's direction is too: few elements may differ.
            let far = got
                .iter()
                .zip(&wanted)
                .map(|(a, b)| (a - b).abs())
                .filter(|d| d.is_nan() || *d > tolerance * size)
                .count();
            assert!(far * 1000 <= wanted.len(), "{file} step {t}: {far} of {} elements of {name} differ", wanted.len());
            if let Some(input) = fed_back.get(name.as_str()) {
                feeds.insert((*input).to_string(), want);
            }
        }
    }
    assert!(plan.arena_bytes as f64 <= 1.15 * plan.live_bytes as f64, "{} for {}", plan.arena_bytes, plan.live_bytes);
    plan
}

#[test]
fn an_mlp_steps_as_on_the_cpu() {
    let plan = compare("pytorch-train-step/mlp_adamw.onnx", Optimizer::NeuroPlastic, 3, 1e-4);
    let tasks = |f: fn(&Task) -> bool| plan.work.iter().filter(|w| f(&w.task)).count();
    // One launch steps all six parameters.
    assert_eq!(tasks(|t| matches!(t, Task::NeuroPlastic { .. })), 1);
    assert_eq!(tasks(|t| matches!(t, Task::Copy(_) | Task::Assign)), 0);
    // The loss comes with its gradient.
    let loss = |t: &Task| matches!(t, Task::CrossEntropy { gradient: Some(Factors::Each), logarithm: false, .. });
    assert_eq!(tasks(loss), 1);
    assert_eq!(tasks(|t| matches!(t, Task::Softmax { .. } | Task::Gather { .. } | Task::ScatterElements { .. })), 0);
    assert!(
        tasks(|t| matches!(t, Task::Expression(_))) <= 9,
        "{:#?}",
        plan.work.iter().map(|w| &w.name).collect::<Vec<_>>()
    );
    // Biases, ReLUs, their gradients and the biases' come with the products.
    let relu = Some(Activation::Relu);
    let count = |wanted: Epilogue| {
        plan.work.iter().filter(|w| matches!(w.task, Task::ProductWith { epilogue, .. } if epilogue == wanted)).count()
    };
    assert_eq!(count(Epilogue::Bias { activation: relu, keeps: true }), 2);
    assert_eq!(count(Epilogue::Bias { activation: None, keeps: false }), 1);
    assert_eq!(count(Epilogue::Gradient { activation: Activation::Relu, sums: true }), 2);
    // A library without them changes the plan, not the numbers.
    let mut plain = Reference::default();
    plain.epilogues = false;
    let plan = compare_on(plain, "pytorch-train-step/mlp_adamw.onnx", Optimizer::NeuroPlastic, 1, 1e-4);
    assert!(!plan.work.iter().any(|w| matches!(w.task, Task::ProductWith { .. })));
}

/// However an exporter spells the loss of class ids, the plan has it and its gradient as one piece of work. Those of JAX have no
/// ids: targets are rows of numbers.
#[test]
fn losses_of_exported_steps_are_one_piece_of_work() {
    for (file, wanted) in [
        ("pytorch-train-step/mlp_adamw.onnx", 1),
        ("pytorch-train-step/mlp_adamw_unoptimized.onnx", 1),
        ("pytorch-train-step/mlp_sgd.onnx", 1),
        ("pytorch-train-step/transformer_adamw.onnx", 1),
        ("cnn-train-step/cnn_adamw.onnx", 1),
        ("cnn-train-step/cnn_norm_adamw.onnx", 1),
        ("gpt-train-step/gpt_adamw.onnx", 1),
        ("jax-train-step/mlp_optax_sgd.onnx", 0),
    ] {
        let compiled = compiled(file, Optimizer::NeuroPlastic);
        let program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
        let plan = planned(&program, &compiled, 16, &mut Reference::default()).unwrap();
        let is_loss = |w: &&Work| matches!(w.task, Task::CrossEntropy { gradient: Some(_), logarithm: false, .. });
        assert_eq!(plan.work.iter().filter(is_loss).count(), wanted, "{file}");
    }
}

#[test]
fn kept_optimizers_and_jax_steps_run() {
    compare("pytorch-train-step/mlp_momentum.onnx", Optimizer::Keep, 2, 1e-4);
    compare("jax-train-step/mlp_optax_sgd.onnx", Optimizer::NeuroPlastic, 2, 1e-4);
}

#[test]
fn a_transformer_steps_as_on_the_cpu() {
    let plan = compare("pytorch-train-step/transformer_adamw.onnx", Optimizer::NeuroPlastic, 1, 2e-4);
    let tasks = |f: fn(&Task) -> bool| plan.work.iter().filter(|w| f(&w.task)).count();
    assert_eq!(tasks(|t| matches!(t, Task::LayerNormGradient { .. })), 5);
    assert_eq!(tasks(|t| matches!(t, Task::SoftmaxGradient { .. })), 2);
    assert_eq!(tasks(|t| matches!(t, Task::CrossEntropy { gradient: Some(_), logarithm: false, .. })), 1);
}

/// The method's vectors through a plan on a device; returns how many cases it took.
fn golden_on<D: Device>(device: impl Fn() -> D) -> usize {
    use npc_compiler::Emit;
    use npc_compiler::neuroplastic::{Settings, step_model};
    let folder = std::env::var_os("NPC_GOLDEN_DIR").map(std::path::PathBuf::from);
    let folder = folder.unwrap_or_else(|| root().join("tests/golden"));
    let mut cases = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let case: serde_json::Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let settings: Settings = serde_json::from_value(case["settings"].clone()).unwrap();
        let shapes: Vec<Vec<usize>> = serde_json::from_value(case["shapes"].clone()).unwrap();
        let compiled = step_model(&shapes, &settings, Emit::Functions).unwrap();
        let program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
        let mut device = device();
        let plan = planned(&program, &compiled, 1, &mut device).unwrap_or_else(|e| panic!("{}: {e}", case["case"]));
        let mut session = Session::new(plan, device, &Scalars::of(&compiled.bindings)).unwrap();
        let floats = |v: &serde_json::Value| {
            v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect::<Vec<_>>()
        };
        for (i, shape) in shapes.iter().enumerate() {
            session
                .set(&format!("p{i}"), &HostTensor::f32(shape, &floats(&case["initial_params"][i])).unwrap())
                .unwrap();
        }
        session.set("learning_rate", &HostTensor::f32(&[], &[settings.lr as f32]).unwrap()).unwrap();
        let epochs = case["total_epochs"].as_u64().unwrap() as u32;
        for step in case["steps"].as_array().unwrap() {
            let gates = settings.gates(step["epoch"].as_u64().unwrap() as u32, epochs);
            session.set("gates", &HostTensor::f32(&[3], &gates).unwrap()).unwrap();
            for (i, shape) in shapes.iter().enumerate() {
                session.set(&format!("g{i}"), &HostTensor::f32(shape, &floats(&step["grads"][i])).unwrap()).unwrap();
            }
            session.step().unwrap();
            for (i, shape) in shapes.iter().enumerate() {
                let got = session.get(&format!("p{i}"), Some(shape)).unwrap();
                for (a, b) in got.to_f64().iter().zip(step["params"][i].as_array().unwrap()) {
                    let b = b.as_f64().unwrap();
                    assert!((a - b).abs() <= 2e-6 + 2e-5 * b.abs(), "{} p{i}: {a} for {b}", case["case"]);
                }
            }
        }
        cases += 1;
    }
    cases
}

#[test]
fn golden_vectors_through_plans() {
    assert!(golden_on(Reference::default) >= 25);
}

#[test]
fn an_index_out_of_range_is_an_error() {
    let compiled = compiled("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
    let program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
    let mut device = Reference::default();
    let plan = planned(&program, &compiled, 16, &mut device).unwrap();
    let mut session = Session::new(plan, device, &Scalars::of(&compiled.bindings)).unwrap();
    // One past the classes, one from the end, and one beside the label that the step leaves out.
    for wrong in [10, -1, -99] {
        session.set("labels", &HostTensor::i64(&[16], &[wrong; 16]).unwrap()).unwrap();
        session.step().unwrap();
        let error = session.check().unwrap_err().to_string();
        assert!(error.contains("labels"), "{error}");
    }
    let mut some = [3; 16];
    some[5] = -100;
    session.set("labels", &HostTensor::i64(&[16], &some).unwrap()).unwrap();
    session.step().unwrap();
    session.check().unwrap();
    session.set("labels", &HostTensor::i64(&[16], &[9; 16]).unwrap()).unwrap();
    session.step().unwrap();
    session.check().unwrap();
    let wrong = session.set("labels", &HostTensor::i64(&[4], &[1; 4]).unwrap()).unwrap_err().to_string();
    assert!(wrong.contains("'labels'") && wrong.contains("16"), "{wrong}");
}

/// A step of a tensor whose elements are all equal gives what the method's equations say, at both ends and in the middle.
fn uniform_step(device: impl Device, elements: usize) {
    use npc_compiler::Emit;
    use npc_compiler::neuroplastic::{Settings, step_model};
    let settings = Settings::default();
    fn open<D: Device>(mut device: D, settings: &Settings, elements: usize) -> Session<D> {
        let compiled = step_model(&[vec![elements]], settings, Emit::Functions).unwrap();
        let program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
        let plan = planned(&program, &compiled, 1, &mut device).unwrap();
        Session::new(plan, device, &Scalars::of(&compiled.bindings)).unwrap()
    }
    fn step<D: Device>(mut session: Session<D>, elements: usize, at: &[usize]) -> Vec<f64> {
        for (name, value) in [("p0", 0.5f32), ("g0", 0.25)] {
            let part = vec![value; elements.min(1 << 22)];
            for first in (0..elements).step_by(part.len()) {
                let values = &part[..part.len().min(elements - first)];
                session.set_part(name, first, &HostTensor::f32(&[values.len()], values).unwrap()).unwrap();
            }
        }
        session.set("learning_rate", &HostTensor::f32(&[], &[0.1]).unwrap()).unwrap();
        session.set("gates", &HostTensor::f32(&[3], &[1.0; 3]).unwrap()).unwrap();
        session.step().unwrap();
        at.iter().map(|i| session.get_part("p0", *i, 1).unwrap().to_f64()[0]).collect()
    }
    let found = step(open(device, &settings, elements), elements, &[0, elements / 2, elements - 1]);
    let n = elements as f64;
    // α = clip(1, 0.2, 2) = 1 for uniform gradients; u is scaled to the norm 1 at most, then by the homeostatic gain.
    let norm = 0.25 * n.sqrt();
    let u = if norm > 1.0 { 0.25 / (norm + 1e-8) } else { 0.25 };
    let gain = (1.0 + 0.01 * (0.02 - (u * u + 1e-8).sqrt())).clamp(0.5, 1.5);
    for x in found {
        let want = 0.5 - 0.1 * gain * u;
        assert!((x - want).abs() <= 2e-6 + 2e-5 * want, "{x} for {want}");
    }
}

#[test]
fn a_uniform_tensor_steps_by_the_formula() {
    for elements in [1, 3, 5000, 70_001] {
        uniform_step(Reference::default(), elements);
    }
}

/// What `tests/gpu.sh` runs where there is a GPU.
mod on_a_gpu {
    use super::*;
    use crate::cuda::Gpu;

    fn gpu() -> Gpu {
        Gpu::new(0).unwrap()
    }

    /// As many steps as asked for, or fewer where a stand-in for the GPU is slow.
    fn steps(wanted: usize) -> usize {
        std::env::var("NPC_TEST_STEPS").map_or(wanted, |most| wanted.min(most.parse().unwrap()))
    }

    #[test]
    #[ignore = "needs a GPU: tests/gpu.sh"]
    fn golden_vectors() {
        assert!(golden_on(gpu) >= 25);
    }

    #[test]
    #[ignore = "needs a GPU: tests/gpu.sh"]
    fn models_step_as_on_the_cpu() {
        compare_on(gpu(), "pytorch-train-step/mlp_adamw.onnx", Optimizer::NeuroPlastic, steps(20), 1e-4);
        compare_on(gpu(), "pytorch-train-step/mlp_momentum.onnx", Optimizer::Keep, steps(20), 1e-4);
        compare_on(gpu(), "pytorch-train-step/mlp_adamw_unoptimized.onnx", Optimizer::NeuroPlastic, steps(5), 1e-4);
        compare_on(gpu(), "jax-train-step/mlp_optax_sgd.onnx", Optimizer::NeuroPlastic, steps(20), 1e-4);
        compare_on(gpu(), "pytorch-train-step/transformer_adamw.onnx", Optimizer::NeuroPlastic, steps(3), 2e-4);
        compare_on(gpu(), gpt::STEP, Optimizer::NeuroPlastic, steps(3), 2e-4);
    }

    #[test]
    #[ignore = "needs a GPU: tests/gpu.sh"]
    fn models_step_in_bfloat16_products() {
        gpt::rounded_on(gpu(), Precision::Bf16, 0.03);
        gpt::rounded_on(gpu(), Precision::Tf32, 0.004);
    }

    #[test]
    #[ignore = "needs a GPU: tests/gpu.sh"]
    fn a_convolutional_network_steps_as_on_the_cpu() {
        compare_on(gpu(), "cnn-train-step/cnn_adamw.onnx", Optimizer::NeuroPlastic, steps(5), 2e-4);
        compare_on(gpu(), NORMALISED, Optimizer::NeuroPlastic, steps(5), 2e-4);
    }

    #[test]
    #[ignore = "needs a GPU and 44 GB of its memory: tests/gpu.sh"]
    fn a_tensor_of_more_elements_than_31_bits_count() {
        uniform_step(gpu(), (1 << 31) + 17);
    }

    /// Two runs of a step give the same bits, and the second time it is the same graph again.
    #[test]
    #[ignore = "needs a GPU: tests/gpu.sh"]
    fn a_step_is_repeatable() {
        let compiled = compiled("pytorch-train-step/transformer_adamw.onnx", Optimizer::NeuroPlastic);
        let program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
        let run = || {
            let mut device = gpu();
            let plan = planned(&program, &compiled, 8, &mut device).unwrap();
            let mut session = Session::new(plan, device, &Scalars::of(&compiled.bindings)).unwrap();
            for (i, id) in compiled.model.graph.inputs.iter().enumerate() {
                let v = compiled.model.graph.value(*id);
                session.set(&v.name, &value(&v.name, v.dtype().unwrap(), &v.dims().unwrap(), i)).unwrap();
            }
            (0..steps(5)).for_each(|_| session.step().unwrap());
            let bytes =
                |p: &npc_compiler::bindings::Parameter| session.get(&p.name, Some(&p.shape)).unwrap().bytes().to_vec();
            compiled.bindings.parameters.iter().map(bytes).collect::<Vec<_>>()
        };
        assert!(run() == run());
    }
}

#[test]
fn a_convolutional_network_steps_as_on_the_cpu() {
    let plan = compare("cnn-train-step/cnn_adamw.onnx", Optimizer::NeuroPlastic, 1, 2e-4);
    let loss = |w: &&Work| matches!(w.task, Task::CrossEntropy { gradient: Some(_), logarithm: false, .. });
    assert_eq!(plan.work.iter().filter(loss).count(), 1);
}

const NORMALISED: &str = "cnn-train-step/cnn_norm_adamw.onnx";

#[test]
fn a_network_with_batch_normalisation_steps_as_on_the_cpu() {
    let plan = compare(NORMALISED, Optimizer::NeuroPlastic, 1, 2e-4);
    let count = |f: fn(&Task) -> bool| plan.work.iter().filter(|w| f(&w.task)).count();
    assert_eq!(count(|t| matches!(t, Task::BatchNorm { .. })), 2);
    assert_eq!(count(|t| matches!(t, Task::BatchNormGradient { .. })), 2);
    assert_eq!(count(|t| matches!(t, Task::CrossEntropy { gradient: Some(_), .. })), 1);
}

#[test]
fn a_convolutional_network_steps_with_a_library_of_convolutions() {
    let mut device = Reference::default();
    device.convolutions = true;
    let plan = compare_on(device, "cnn-train-step/cnn_adamw.onnx", Optimizer::NeuroPlastic, 1, 2e-4);
    let count = |f: fn(&Task) -> bool| plan.work.iter().filter(|w| f(&w.task)).count();
    // Two layers forward, both weights' gradients, one layer's data; nothing is copied for them.
    assert_eq!(count(|t| matches!(t, Task::Convolution(_))), 5);
    assert_eq!(count(|t| matches!(t, Task::Columns { .. } | Task::DataFromColumns { .. } | Task::Copy(_))), 0);
}

#[test]
fn what_has_no_kernel_is_refused_by_name() {
    let mut compiled = compiled("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
    let graph = &mut compiled.model.graph;
    let relu = graph.node_ids().into_iter().find(|id| graph.node(*id).op_type == "Relu").unwrap();
    graph.node_mut(relu).op_type = "Asinh".into();
    let name = graph.node(relu).name.clone();
    let program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
    let error = planned(&program, &compiled, 128, &mut Reference::default()).unwrap_err().to_string();
    assert!(error.contains("Asinh") && error.contains(&name) && error.contains("--device cpu"), "{error}");
}
