//! Every model of `tests/data/ops` on a device, against what onnxruntime computed for it; values and parameters of 16 bits
//! against the CPU engine.

use super::device::{Device, Scalars, Session};
use super::testing::Reference;
use super::{PlanError, PlanOptions, Task};
use crate::HostTensor;
use crate::cpu::ops::tests::{archive, folder, names};
use crate::cpu::{Program, ProgramOptions};
use npc_compiler::bindings::Bindings;
use npc_compiler::graph::{DType as ModelType, Graph, Model, Node, Opset, Tensor as Constant, ValueType};
use npc_compiler::neuroplastic::{HybridBase, Settings, step_model};
use npc_compiler::{Emit, onnx};
use std::collections::HashMap;

/// Bindings of a model that nothing is fed back in.
fn plain() -> Bindings {
    Bindings {
        version: 1,
        optimizer: "keep".into(),
        inputs: Vec::new(),
        learning_rate: None,
        step: None,
        gates: None,
        outputs: Default::default(),
        parameters: Vec::new(),
        state: Vec::new(),
        settings: Settings::default(),
    }
}

/// Runs every case; gives those that were refused, with the reason.
fn refused_on<D: Device>(device: impl Fn() -> D) -> Vec<(String, String)> {
    let archive = archive();
    let mut refused = Vec::new();
    for name in names() {
        let model = onnx::load(&folder().join(format!("{name}.onnx"))).unwrap();
        let program = Program::new(&model, &ProgramOptions::default()).unwrap();
        let given: Vec<(String, HostTensor)> = (program.inputs())
            .map(|key| (key.to_string(), HostTensor::from(archive[&format!("{name}/in/{key}")].clone())))
            .collect();
        let shapes: Vec<Vec<usize>> = given.iter().map(|(_, t)| t.dims().to_vec()).collect();
        let mut device = device();
        let plan =
            program.graph_for(&shapes).and_then(|graph| graph.plan(&plain(), &PlanOptions::default(), &mut device));
        let plan = match plan {
            Ok(plan) => plan,
            Err(PlanError::Unsupported { op, why, .. }) => {
                refused.push((name, format!("{op}{why}")));
                continue;
            }
            Err(PlanError::Type { dtype, .. }) => {
                refused.push((name, dtype));
                continue;
            }
            Err(other) => panic!("{name}: {other}"),
        };
        let mut session = Session::new(plan, device, &Scalars::default()).unwrap();
        for (key, tensor) in &given {
            session.set(key, tensor).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        session.step().unwrap();
        session.check().unwrap_or_else(|e| panic!("{name}: {e}"));
        for key in program.outputs() {
            let want = HostTensor::from(archive[&format!("{name}/out/{key}")].clone());
            let got = session.get(key, None).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_near(&format!("{name}: {key}"), &got, &want);
        }
    }
    refused
}

fn assert_near(what: &str, got: &HostTensor, want: &HostTensor) {
    assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{what}");
    let largest = want.to_f64().iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
    for (i, (got, want)) in got.to_f64().iter().zip(want.to_f64()).enumerate() {
        let same = *got == want || (got.is_nan() && want.is_nan());
        let near = (got - want).abs() <= 2e-6 + 2e-5 * want.abs() + 2e-6 * largest;
        assert!(same || near, "{what}[{i}] is {got}, onnxruntime has {want}");
    }
}

#[test]
fn the_cpu_engine_agrees_with_onnxruntime() {
    let archive = archive();
    for name in names() {
        let model = onnx::load(&folder().join(format!("{name}.onnx"))).unwrap();
        let mut program = Program::new(&model, &ProgramOptions::default()).unwrap();
        let given = (program.inputs())
            .map(|key| (key.to_string(), HostTensor::from(archive[&format!("{name}/in/{key}")].clone())))
            .collect();
        for (key, got) in program.run(given).unwrap_or_else(|e| panic!("{name}: {e}")) {
            let want = HostTensor::from(archive[&format!("{name}/out/{key}")].clone());
            assert_near(&format!("{name}: {key}"), &got, &want);
        }
    }
}

/// A number in the 16 bits of a type.
fn narrow(dtype: ModelType, x: f32) -> [u8; 2] {
    match dtype {
        ModelType::BF16 => half::bf16::from_f32(x).to_le_bytes(),
        _ => half::f16::from_f32(x).to_le_bytes(),
    }
}

fn narrow_tensor(dtype: ModelType, dims: &[usize], value: impl Fn(usize) -> f32) -> HostTensor {
    let bytes: Vec<u8> = (0..dims.iter().product()).flat_map(|i| narrow(dtype, value(i))).collect();
    HostTensor::from_constant(&Constant::raw(dtype, dims, bytes)).unwrap()
}

fn session<D: Device>(mut device: D, program: &Program, shapes: &[Vec<usize>], bindings: &Bindings) -> Session<D> {
    let graph = program.graph_for(shapes);
    let plan = graph.and_then(|graph| graph.plan(bindings, &PlanOptions::default(), &mut device)).unwrap();
    Session::new(plan, device, &Scalars::of(bindings)).unwrap()
}

/// Parameters of 16 bits: the state as the CPU has it, the parameter but for roundings to the other neighbour.
fn steps_narrow_parameters_on(device: impl Device, dtype: ModelType, settings: &Settings) {
    let shape = vec![300];
    let mut compiled = step_model(std::slice::from_ref(&shape), settings, Emit::Functions).unwrap();
    let (graph, bindings) = (&mut compiled.model.graph, &compiled.bindings);
    let p = bindings.parameters[0].clone();
    for name in ["p0", "g0", p.next.as_str()] {
        let value = graph.value_named(name).unwrap();
        graph.value_mut(value).ty = Some(ValueType::tensor(dtype, &shape));
    }
    let mut program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
    let wave = |k: f32| move |i: usize| (i as f32 * k).sin() * 0.3;
    let mut feeds: HashMap<String, HostTensor> = HashMap::from([
        ("p0".to_string(), narrow_tensor(dtype, &shape, wave(0.37))),
        ("g0".into(), narrow_tensor(dtype, &shape, wave(0.91))),
        ("learning_rate".into(), HostTensor::f32(&[], &[0.1]).unwrap()),
        ("step".into(), HostTensor::i64(&[], &[0]).unwrap()),
        ("gates".into(), HostTensor::f32(&[3], &[1.0; 3]).unwrap()),
    ]);
    for state in &p.states {
        feeds.insert(state.name.clone(), HostTensor::zeros(ModelType::F32, &shape).unwrap());
    }
    let shapes: Vec<Vec<usize>> = program.inputs().map(|name| feeds[name].dims().to_vec()).collect();
    let mut session = session(device, &program, &shapes, bindings);
    feeds.iter().for_each(|(name, tensor)| session.set(name, tensor).unwrap());
    for step in 0..3 {
        session.step().unwrap();
        feeds.insert("step".into(), HostTensor::i64(&[], &[step]).unwrap());
        for (output, want) in program.run(feeds.clone().into_iter().collect()).unwrap() {
            let states = p.states.iter().map(|s| (&s.next, &s.name));
            let Some((_, input)) = states.chain([(&p.next, &p.name)]).find(|(next, _)| **next == output) else {
                continue;
            };
            let got = session.get(input, Some(&shape)).unwrap();
            assert_eq!(got.dtype(), want.dtype(), "{output}");
            let unit = if output != p.next {
                1e-5
            } else if dtype == ModelType::BF16 {
                1.0 / 128.0
            } else {
                1.0 / 1024.0
            };
            let pairs: Vec<(f64, f64)> = got.to_f64().into_iter().zip(want.to_f64()).collect();
            let near = |(a, b): &&(f64, f64)| (a - b).abs() > 1e-7 + unit * b.abs();
            assert_eq!(pairs.iter().filter(near).count(), 0, "{output} at step {step}");
            if output == p.next {
                assert!(pairs.iter().filter(|(a, b)| a != b).count() <= 3, "{output} at step {step}");
            }
            // Both go on from the same numbers.
            session.set(input, &want).unwrap();
            feeds.insert(input.clone(), want);
        }
    }
}

/// What a product, a transposition and a multiplication of 16 bits give, and their result fed back.
fn computes_narrow_values_on(device: impl Device, dtype: ModelType) {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", ValueType::tensor(dtype, &[2, 3]));
    let kept = graph.add_input("kept", ValueType::tensor(dtype, &[2, 2]));
    let weights: Vec<u8> = [0.1, 0.7, -0.3, 0.9, 0.2, 0.6].iter().flat_map(|w| narrow(dtype, *w)).collect();
    let w = graph.add_initializer("w", Constant::raw(dtype, [3, 2], weights));
    let [y] = graph.add(Node::new("MatMul", [x, w]), ["y"]);
    let [t] = graph.add(Node::new("Transpose", [y]), ["t"]);
    let [z] = graph.add(Node::new("Mul", [t, kept]), ["z"]);
    let [wide] = graph.add(Node::new("Cast", [z]).with("to", i64::from(ModelType::F32.0)), ["wide"]);
    graph.value_mut(z).ty = Some(ValueType::tensor(dtype, &[2, 2]));
    graph.outputs.extend([z, wide]);
    let opsets = vec![Opset { domain: String::new(), version: 17 }];
    let model = Model { ir_version: 8, opsets, graph, ..Model::default() };
    let mut program = Program::new(&model, &ProgramOptions::default()).unwrap();
    let mut bindings = plain();
    bindings.state = vec![serde_json::from_value(serde_json::json!({
        "name": "kept", "next": "z", "role": "other", "dtype": if dtype == ModelType::BF16 { "bf16" } else { "f16" }, "shape": [2, 2]
    }))
    .unwrap()];
    let mut feeds = vec![
        ("x".to_string(), narrow_tensor(dtype, &[2, 3], |i| [0.3, -0.11, 0.77, 1.3, 0.21, -0.4][i])),
        ("kept".to_string(), narrow_tensor(dtype, &[2, 2], |i| [1.1, -0.7, 0.9, 1.9][i])),
    ];
    let mut session = session(device, &program, &[vec![2, 3], vec![2, 2]], &bindings);
    feeds.iter().for_each(|(name, tensor)| session.set(name, tensor).unwrap());
    for _ in 0..2 {
        session.step().unwrap();
        let results: HashMap<String, HostTensor> = program.run(feeds.clone()).unwrap().into_iter().collect();
        let next = session.get("kept", Some(&[2, 2])).unwrap();
        assert_eq!(next.dtype(), dtype);
        // bfloat16 is rounded after every operator; float16 only where it is stored.
        let unit = if dtype == ModelType::BF16 { 0.0 } else { 1.0 / 1024.0 };
        for (got, want) in [(session.get("wide", None).unwrap(), &results["wide"]), (next.clone(), &results["z"])] {
            for (a, b) in got.to_f64().iter().zip(want.to_f64()) {
                assert!((a - b).abs() <= unit * b.abs(), "{a} for {b}");
            }
        }
        feeds[1].1 = next;
    }
}

#[test]
fn values_of_16_bits_are_the_cpus() {
    for dtype in [ModelType::BF16, ModelType::F16] {
        computes_narrow_values_on(Reference::default(), dtype);
    }
}

#[test]
fn parameters_of_16_bits_are_stepped() {
    for dtype in [ModelType::BF16, ModelType::F16] {
        steps_narrow_parameters_on(Reference::default(), dtype, &Settings::default());
        let settings = Settings { hybrid_base: HybridBase::AdamW, max_update_norm: 1e9, ..Settings::default() };
        steps_narrow_parameters_on(Reference::default(), dtype, &settings);
    }
}

#[test]
#[ignore = "needs a GPU: tests/gpu.sh"]
fn on_a_gpu_values_of_16_bits_are_the_cpus() {
    let gpu = || crate::cuda::Gpu::new(0).unwrap();
    for dtype in [ModelType::BF16, ModelType::F16] {
        computes_narrow_values_on(gpu(), dtype);
        steps_narrow_parameters_on(gpu(), dtype, &Settings::default());
    }
}

/// Both triangles, every diagonal, one matrix and many, every type: what is not kept is zero whatever it was.
#[test]
fn triangles_are_those_of_the_cpu_engine() {
    let dims = [2usize, 3, 4, 6];
    let opsets = vec![Opset { domain: String::new(), version: 18 }];
    for (case, (upper, k)) in
        [(1, 0), (1, 2), (1, -3), (1, 9), (0, 0), (0, 3), (0, -1), (0, -9)].into_iter().enumerate()
    {
        for dtype in [ModelType::F32, ModelType::I64, ModelType::I32, ModelType::BOOL] {
            let dims = &dims[case % 3..];
            let mut graph = Graph::new("triangle");
            let x = graph.add_input("x", ValueType::tensor(dtype, dims));
            let k = graph.add_initializer("k", Constant::i64(vec![], &[k]));
            let [y] = graph.add(Node::new("Trilu", [x, k]).with("upper", i64::from(upper)), ["y"]);
            graph.value_mut(y).ty = Some(ValueType::tensor(dtype, dims));
            graph.outputs.push(y);
            let model = Model { ir_version: 8, graph, opsets: opsets.clone(), ..Model::default() };
            let mut program = Program::new(&model, &ProgramOptions::default()).unwrap();
            let count = dims.iter().product::<usize>();
            let numbers: Vec<f32> = (0..count).map(|i| if i % 5 == 0 { f32::NAN } else { i as f32 - 7.5 }).collect();
            let given = match dtype {
                ModelType::F32 => HostTensor::f32(dims, &numbers).unwrap(),
                ModelType::BOOL => HostTensor::from_constant(&Constant::raw(dtype, dims, vec![1u8; count])).unwrap(),
                _ => HostTensor::i64(dims, &(1..=count as i64).collect::<Vec<_>>()).unwrap().cast(dtype).unwrap(),
            };
            let mut session = session(Reference::default(), &program, &[dims.to_vec()], &plain());
            session.set("x", &given).unwrap();
            session.step().unwrap();
            let got = session.get("y", None).unwrap();
            let (_, want) = program.run([("x".to_string(), given)].into()).unwrap().into_iter().next().unwrap();
            assert_near(&format!("{dtype:?} upper={upper} {case}"), &got, &want);
            // The third diagonal below the main one leaves nothing out of four rows.
            assert_eq!(got.to_f64().contains(&0.0), (upper, case) != (1, 2), "{case}");
        }
    }
}

#[test]
fn a_triangle_of_a_computed_diagonal_is_refused_by_name() {
    let mut graph = Graph::new("triangle");
    let x = graph.add_input("x", ValueType::tensor(ModelType::F32, &[4, 4]));
    let k = graph.add_input("k", ValueType::tensor(ModelType::I64, &[]));
    let [y] = graph.add(Node::new("Trilu", [x, k]), ["y"]);
    graph.value_mut(y).ty = Some(ValueType::tensor(ModelType::F32, &[4, 4]));
    graph.outputs.push(y);
    let opsets = vec![Opset { domain: String::new(), version: 18 }];
    let model = Model { ir_version: 8, graph, opsets, ..Model::default() };
    let program = Program::new(&model, &ProgramOptions::default()).unwrap();
    let graph = program.graph_for(&[vec![4, 4], vec![]]);
    let plan = graph.and_then(|graph| graph.plan(&plain(), &PlanOptions::default(), &mut Reference::default()));
    let error = plan.unwrap_err().to_string();
    assert!(error.contains("Trilu") && error.contains("constant"), "{error}");
}

/// Cases that no kernel runs: each is refused by name.
const REFUSED: &[&str] = &["cumsum", "topk"];

#[test]
fn operators_agree_with_onnxruntime() {
    // By our own kernels, and by a library that has whole convolutions.
    for convolutions in [false, true] {
        let refused = refused_on(|| {
            let mut device = Reference::default();
            device.convolutions = convolutions;
            device
        });
        let found: Vec<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, REFUSED, "{refused:#?}");
    }
}

/// A `SoftmaxCrossEntropyLoss` is the kernel, whatever its weights, axes and ignored label.
#[test]
fn losses_of_scores_are_the_kernel() {
    let (archive, mut cases) = (archive(), 0);
    for name in names().iter().filter(|name| name.starts_with("sce_")) {
        let model = onnx::load(&folder().join(format!("{name}.onnx"))).unwrap();
        let program = Program::new(&model, &ProgramOptions::default()).unwrap();
        let shapes: Vec<Vec<usize>> =
            program.inputs().map(|key| archive[&format!("{name}/in/{key}")].shape().to_vec()).collect();
        let graph = program.graph_for(&shapes).unwrap();
        let plan = graph.plan(&plain(), &PlanOptions::default(), &mut Reference::default()).unwrap();
        let is_kernel = |w: &&super::Work| matches!(w.task, Task::CrossEntropy { gradient: None, .. });
        assert_eq!(plan.work.iter().filter(is_kernel).count(), 1, "{name}");
        assert!(!plan.work.iter().any(|w| matches!(w.task, Task::Softmax { .. })), "{name}");
        cases += 1;
    }
    assert!(cases >= 10);
}

/// What `GroupNormalization` or `InstanceNormalization` of (2, 6, 4, 5) is in float64: scale and bias are by group until opset 20,
/// by channel from 21 on.
fn group_normalised(x: &[f32], [scale, bias]: [&[f32]; 2], groups: usize) -> Vec<f64> {
    let own = 6 / groups * 20;
    let mut y = Vec::new();
    for (row, x) in x.chunks_exact(own).enumerate() {
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / own as f64;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / own as f64;
        for (i, x) in x.iter().enumerate() {
            let at = if scale.len() == groups { row % groups } else { row % groups * (6 / groups) + i / 20 };
            let normal = (f64::from(*x) - mean) / (variance + 1e-5).sqrt();
            y.push(normal * f64::from(scale[at]) + f64::from(bias[at]));
        }
    }
    y
}

#[test]
fn group_and_instance_normalisation_are_the_definition() {
    for (op, groups, opset, sizes) in [
        ("GroupNormalization", 3, 18, 3),
        ("GroupNormalization", 3, 21, 6),
        ("GroupNormalization", 1, 21, 6),
        ("InstanceNormalization", 6, 17, 6),
    ] {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", ValueType::tensor(ModelType::F32, &[2, 6, 4, 5]));
        let [s, b] = ["s", "b"].map(|name| graph.add_input(name, ValueType::tensor(ModelType::F32, &[sizes])));
        let mut node = Node::new(op, [x, s, b]);
        if op == "GroupNormalization" {
            node = node.with("num_groups", groups as i64);
        }
        let [y] = graph.add(node, ["y"]);
        graph.outputs.push(y);
        let opsets = vec![Opset { domain: String::new(), version: opset }];
        let model = Model { ir_version: 8, opsets, graph, ..Model::default() };
        let mut program = Program::new(&model, &ProgramOptions::default()).unwrap();
        let wave = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin() + 0.3).collect::<Vec<f32>>();
        let (x, s, b) = (wave(240, 0.71), wave(sizes, 0.9), wave(sizes, 1.7));
        let shapes = [vec![2, 6, 4, 5], vec![sizes], vec![sizes]];
        let want = group_normalised(&x, [&s, &b], groups);
        let given = [x, s, b];
        let tensors = given.iter().zip(&shapes).map(|(v, shape)| HostTensor::f32(shape, v).unwrap());
        let feeds: Vec<(String, HostTensor)> = ["x", "s", "b"].map(String::from).into_iter().zip(tensors).collect();
        let mut session = session(Reference::default(), &program, &shapes, &plain());
        feeds.iter().for_each(|(name, tensor)| session.set(name, tensor).unwrap());
        session.step().unwrap();
        let results = program.run(feeds).unwrap();
        for (what, got) in [("CPU", results[0].1.clone()), ("plan", session.get("y", None).unwrap())] {
            let far = |(a, b): (f64, &f64)| (a - b).abs() > 1e-5;
            assert_eq!(got.to_f64().into_iter().zip(&want).filter(|p| far(*p)).count(), 0, "{op} {groups} {what}");
        }
    }
}

#[test]
#[ignore = "needs a GPU: tests/gpu.sh"]
fn on_a_gpu_operators_agree_with_onnxruntime() {
    let refused = refused_on(|| crate::cuda::Gpu::new(0).unwrap());
    assert_eq!(refused.len(), REFUSED.len(), "{refused:#?}");
}
