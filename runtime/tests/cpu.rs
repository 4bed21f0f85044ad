//! The CPU engine against ONNX Runtime's results and the method's golden vectors.

#[path = "cpu/gpt.rs"]
mod gpt;

use half::bf16;
use npc_compiler::graph::{DType, Model, Tensor as Constant, ValueId, ValueType};
use npc_compiler::neuroplastic::{Settings, step_model};
use npc_compiler::{CompileOptions, Emit, Optimizer, compile, onnx};
use npc_runtime::HostTensor;
use npc_runtime::cpu::{Program, ProgramOptions};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden_files() -> Vec<PathBuf> {
    let folder = std::env::var_os("NPC_GOLDEN_DIR").map_or_else(|| root().join("../shared/golden"), PathBuf::from);
    let folder = if folder.is_dir() { folder } else { root().join("tests/golden") };
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> =
        files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    assert!(files.len() >= 25, "{} holds {} golden files", folder.display(), files.len());
    files
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// The formula of tests/reference_steps.py.
fn feed(model: &Model, file: &str) -> Vec<(String, HostTensor)> {
    let graph = &model.graph;
    let inputs = graph.inputs.iter().enumerate().map(|(index, id)| {
        let value = graph.value(*id);
        let dims = value.dims().unwrap();
        let count: usize = dims.iter().product();
        let tensor = match value.dtype().unwrap() {
            DType::I64 => HostTensor::i64(&dims, &(0..count as i64).map(|i| i % 10).collect::<Vec<_>>()),
            DType::I32 => HostTensor::i32(&dims, &(0..count as i32).map(|i| i % 10).collect::<Vec<_>>()),
            _ => {
                let squares = value.name.contains("var")
                    || value.name.starts_with("v.")
                    || (file.contains("optax_adam") && (10..=14).contains(&index));
                let at = |i: usize| match value.name.as_str() {
                    "step" => 1.0,
                    "lr" => 0.01,
                    _ => {
                        let x = 0.05 * (0.37 * i as f64 + index as f64).sin();
                        if squares { x.abs() + 0.001 } else { x }
                    }
                };
                HostTensor::f32(&dims, &(0..count).map(|i| at(i) as f32).collect::<Vec<_>>())
            }
        };
        (value.name.clone(), tensor.unwrap())
    });
    inputs.collect()
}

#[test]
fn original_steps_give_what_onnx_runtime_gives() {
    let text = std::fs::read_to_string(root().join("tests/data/reference_steps.json")).unwrap();
    let reference: HashMap<String, HashMap<String, Value>> = serde_json::from_str(&text).unwrap();
    assert_eq!(reference.len(), 11);
    for (file, outputs) in reference {
        let model = onnx::load(&root().join("models").join(&file)).unwrap();
        let mut program = Program::new(&model, &ProgramOptions::default()).unwrap_or_else(|e| panic!("{file}: {e}"));
        let results = program.run(feed(&model, &file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (name, tensor) in results {
            let (digest, values) = (&outputs[&name], tensor.to_f64());
            let finite: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
            // A 0/0 of an update without epsilon may be finite in one engine only.
            let expected = digest["finite"].as_u64().unwrap() as usize;
            assert!(finite.len().abs_diff(expected) * 1000 <= values.len(), "{file} {name}");
            let rms = (finite.iter().map(|x| x * x).sum::<f64>() / finite.len().max(1) as f64).sqrt();
            let wanted = digest["rms"].as_f64().unwrap();
            assert!((rms - wanted).abs() <= 1e-4 * wanted.abs() + 1e-6, "{file} {name}: rms {rms} against {wanted}");
            let stride = (values.len() / 7).max(1);
            let near =
                values.iter().step_by(stride).zip(digest["sample"].as_array().unwrap()).filter(|(x, y)| {
                    y.as_f64().is_none_or(|y| (**x - y).abs() <= 1e-4 * y.abs() + 1e-4 * wanted + 1e-7)
                });
            let samples = digest["sample"].as_array().unwrap().len();
            assert!(near.count() + usize::from(samples > 4) >= samples, "{file} {name}: {values:?}");
        }
    }
}

/// Steps a golden case; returns the largest |Δ| / (2e-6 + 2e-5·|ref|).
fn golden(case: &Value, emit: Emit, threads: usize) -> f64 {
    let settings: Settings = serde_json::from_value(case["settings"].clone()).unwrap();
    let shapes: Vec<Vec<usize>> = serde_json::from_value(case["shapes"].clone()).unwrap();
    let compiled = step_model(&shapes, &settings, emit).unwrap();
    let mut program = Program::new(&compiled.model, &ProgramOptions { threads, outputs: None }).unwrap();
    let epochs = case["total_epochs"].as_u64().unwrap() as u32;
    let mut kept: HashMap<String, HostTensor> = HashMap::new();
    for (i, p) in compiled.bindings.parameters.iter().enumerate() {
        kept.insert(p.name.clone(), HostTensor::f32(&p.shape, &floats(&case["initial_params"][i])).unwrap());
        for s in &p.states {
            kept.insert(s.name.clone(), HostTensor::zeros(DType::F32, &s.shape).unwrap());
        }
    }
    let mut worst = 0.0f64;
    let mut compare = |got: &HostTensor, want: &Value| {
        for (a, b) in got.to_f64().iter().zip(want.as_array().unwrap()) {
            let b = b.as_f64().unwrap();
            let misfit = (a - b).abs() / (2e-6 + 2e-5 * b.abs());
            worst = if misfit.is_nan() { f64::INFINITY } else { worst.max(misfit) };
        }
    };
    for (t, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let gates = settings.gates(step["epoch"].as_u64().unwrap() as u32, epochs);
        let mut feeds: Vec<(String, HostTensor)> = kept.drain().collect();
        for (i, shape) in shapes.iter().enumerate() {
            feeds.push((format!("g{i}"), HostTensor::f32(shape, &floats(&step["grads"][i])).unwrap()));
        }
        feeds.push(("learning_rate".into(), HostTensor::f32(&[], &[settings.lr as f32]).unwrap()));
        feeds.push(("step".into(), HostTensor::i64(&[], &[t as i64]).unwrap()));
        feeds.push(("gates".into(), HostTensor::f32(&[3], &gates).unwrap()));
        // What an input is not needed for (the step, say) the inlined model does not have.
        let known: Vec<String> = program.inputs().map(str::to_string).collect();
        feeds.retain(|(name, _)| known.contains(name));
        let mut results: HashMap<String, HostTensor> = program.run(feeds).unwrap().into_iter().collect();
        for (i, p) in compiled.bindings.parameters.iter().enumerate() {
            compare(&results[&p.next], &step["params"][i]);
            kept.insert(p.name.clone(), results.remove(&p.next).unwrap());
            for s in &p.states {
                kept.insert(s.name.clone(), results.remove(&s.next).unwrap());
            }
        }
    }
    for (i, p) in compiled.bindings.parameters.iter().enumerate() {
        for s in &p.states {
            compare(&kept[&s.name], &case["final_state"][i][&s.role]);
        }
    }
    worst
}

#[test]
fn golden_vectors_through_the_fused_operator_and_the_function_body() {
    for path in golden_files() {
        let case: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for emit in [Emit::Functions, Emit::Inline] {
            let worst = golden(&case, emit, 1);
            assert!(worst <= 1.0, "{} {emit:?}: {worst:.2} of the tolerance", path.display());
        }
    }
}

/// The tensors of a test vector, in order: `input_0.pb`, `input_1.pb`, …
fn tensors(folder: &Path, kind: &str) -> Vec<HostTensor> {
    let files = (0..).map(|i| folder.join(format!("{kind}_{i}.pb"))).take_while(|p| p.exists());
    files.map(|p| HostTensor::from_constant(&onnx::parse_tensor(std::fs::read(p).unwrap()).unwrap()).unwrap()).collect()
}

/// ONNX's own vectors of its training operators, as they come and after `--optimizer keep`.
#[test]
fn vectors_of_the_training_operators() {
    let mut compared = 0;
    for entry in std::fs::read_dir(root().join("models/onnx-testvectors")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.to_string_lossy().contains("gradient") {
            continue;
        }
        let mut original = onnx::load(&folder.join("model.onnx")).unwrap();
        if folder.ends_with("test_adam_multiple") {
            // Its outputs were made with an epsilon that its node lacks (ONNX's own reference fails it too).
            let node = original.graph.node_ids().next().unwrap();
            assert!(original.graph.node(node).attribute("epsilon").is_none());
            let whole = original.graph.node_mut(node);
            *whole = whole.clone().with("epsilon", 1e-2f32);
        }
        let name_of = |v: &ValueId| original.graph.name_of(*v).to_string();
        let (names, outputs): (Vec<_>, Vec<_>) =
            (original.graph.inputs.iter().map(name_of).collect(), original.graph.outputs.iter().map(name_of).collect());
        let keep = CompileOptions { optimizer: Optimizer::Keep, ..CompileOptions::default() };
        let kept = compile(original.clone(), &keep).unwrap();
        assert!(kept.report.unmatched.is_empty(), "{}", folder.display());
        let data = folder.join("test_data_set_0");
        let (inputs, wanted) = (tensors(&data, "input"), tensors(&data, "output"));
        assert!(!wanted.is_empty() && wanted.len() == outputs.len() && inputs.len() == names.len());
        for model in [&original, &kept.model] {
            let mut program = Program::new(model, &ProgramOptions::default()).unwrap();
            let results: HashMap<_, _> =
                program.run(names.iter().cloned().zip(inputs.iter().cloned()).collect()).unwrap().into_iter().collect();
            for (name, want) in outputs.iter().zip(&wanted) {
                let got = &results[name];
                assert_eq!(got.dims(), want.dims());
                for (a, b) in got.to_f64().iter().zip(want.to_f64()) {
                    assert!((a - b).abs() <= 1e-7 + 1e-5 * b.abs(), "{} {name}: {a} for {b}", folder.display());
                    compared += 1;
                }
            }
        }
    }
    assert!(compared >= 60, "{compared} numbers");
}

#[test]
fn parameters_and_states_are_updated_in_place() {
    let model = onnx::load(&root().join("models/pytorch-train-step/mlp_adamw_unoptimized.onnx")).unwrap();
    let compiled = compile(model, &CompileOptions::default()).unwrap();
    let b = &compiled.bindings;
    let mut program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
    let mut feeds: Vec<(String, HostTensor)> = Vec::new();
    for p in &b.parameters {
        let n: usize = p.shape.iter().product();
        feeds.push((
            p.name.clone(),
            HostTensor::f32(&p.shape, &(0..n).map(|i| (i as f32).sin() * 0.05).collect::<Vec<_>>()).unwrap(),
        ));
        feeds.extend(p.states.iter().map(|s| (s.name.clone(), HostTensor::zeros(DType::F32, &s.shape).unwrap())));
    }
    let pointers: HashMap<String, *const f32> =
        feeds.iter().map(|(n, t)| (n.clone(), t.as_f32().unwrap().as_ptr())).collect();
    for input in &b.inputs {
        let value = compiled.model.graph.value(compiled.model.graph.value_named(&input.name).unwrap());
        feeds.push((input.name.clone(), HostTensor::zeros(value.dtype().unwrap(), &value.dims().unwrap()).unwrap()));
    }
    feeds.push((b.learning_rate.as_ref().unwrap().name.clone(), HostTensor::f32(&[], &[0.01]).unwrap()));
    feeds.push(("step".into(), HostTensor::i64(&[], &[0]).unwrap()));
    feeds.push(("gates".into(), HostTensor::f32(&[3], &[1.0; 3]).unwrap()));
    let results: HashMap<String, HostTensor> = program.run(feeds).unwrap().into_iter().collect();
    for p in &b.parameters {
        assert_eq!(results[&p.next].as_f32().unwrap().as_ptr(), pointers[&p.name], "{} was copied", p.name);
        for s in &p.states {
            assert_eq!(results[&s.next].as_f32().unwrap().as_ptr(), pointers[&s.name], "{} was copied", s.name);
        }
    }
}

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|x| bf16::from_f32(*x)).collect()
}

fn half_tensor(dims: &[usize], values: &[bf16]) -> HostTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    HostTensor::from_constant(&Constant::raw(DType::BF16, dims, bytes)).unwrap()
}

/// A bfloat16 parameter through the fused operator: the kernel's own bfloat16 step, bit for bit.
#[test]
fn bfloat16_parameters_are_stepped_as_the_kernel_steps_them() {
    use npc_kernels::neuroplastic::{Config, Inputs, Tensors, Workspace, step};
    let n = 300;
    let shape = vec![n];
    let wave = |k: f32| (0..n).map(|i| (i as f32 * k).sin() * 0.3).collect::<Vec<f32>>();
    let (mut theta, gradient) = (narrow(&wave(0.37)), narrow(&wave(0.91)));
    let mut compiled = step_model(std::slice::from_ref(&shape), &Settings::default(), Emit::Functions).unwrap();
    let graph = &mut compiled.model.graph;
    let p = compiled.bindings.parameters[0].clone();
    for name in ["p0", "g0", p.next.as_str()] {
        let value = graph.value_named(name).unwrap();
        graph.value_mut(value).ty = Some(ValueType::tensor(DType::BF16, &shape));
    }
    let mut program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
    let mut feeds = vec![
        ("p0".to_string(), half_tensor(&shape, &theta)),
        ("g0".into(), half_tensor(&shape, &gradient)),
        ("learning_rate".into(), HostTensor::f32(&[], &[0.1]).unwrap()),
        ("step".into(), HostTensor::i64(&[], &[0]).unwrap()),
        ("gates".into(), HostTensor::f32(&[3], &[1.0; 3]).unwrap()),
    ];
    feeds.extend(p.states.iter().map(|s| (s.name.clone(), HostTensor::zeros(DType::F32, &shape).unwrap())));
    let results: HashMap<String, HostTensor> = program.run(feeds).unwrap().into_iter().collect();
    let mut states = [vec![0.0f32; n], vec![0.0; n], vec![0.0; n]];
    let [activity_trace, momentum, variance] = &mut states;
    let tensors = Tensors {
        parameter: &mut theta,
        gradient: &gradient,
        activity_trace,
        momentum,
        variance,
        base_momentum: &mut [],
        base_variance: &mut [],
    };
    step(&Config::default(), &Inputs::new(0.1, 0), tensors, &Workspace::new(), None).unwrap();
    assert_eq!(results[&p.next].dtype(), DType::BF16);
    let bytes: Vec<u8> = theta.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(results[&p.next].bytes(), bytes);
    for (s, want) in p.states.iter().zip(&states) {
        assert_eq!(results[&s.next].as_f32().unwrap(), want);
    }
}

/// What a bfloat16 operator gives is its float32 result rounded once.
#[test]
fn bfloat16_operators_round_their_results() {
    use npc_compiler::graph::{Graph, Node, Opset};
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", ValueType::tensor(DType::BF16, &[2, 3]));
    let w = graph.add_initializer(
        "w",
        Constant::raw(
            DType::BF16,
            [3, 2],
            narrow(&[0.1, 0.7, -0.3, 0.9, 0.2, 0.6]).iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(),
        ),
    );
    let [y] = graph.add(Node::new("MatMul", [x, w]), ["y"]);
    let [t] = graph.add(Node::new("Transpose", [y]), ["t"]);
    let [z] = graph.add(Node::new("Mul", [t, t]), ["z"]);
    let [wide] = graph.add(Node::new("Cast", [z]).with("to", i64::from(DType::F32.0)), ["wide"]);
    graph.value_mut(z).ty = Some(ValueType::tensor(DType::BF16, &[2, 2]));
    graph.outputs.extend([z, wide]);
    let model =
        Model { ir_version: 8, opsets: vec![Opset { domain: String::new(), version: 17 }], graph, ..Model::default() };
    let numbers = narrow(&[0.3, -0.11, 0.77, 1.3, 0.21, -0.4]);
    let mut program = Program::new(&model, &ProgramOptions::default()).unwrap();
    let results: HashMap<String, HostTensor> =
        program.run(vec![("x".into(), half_tensor(&[2, 3], &numbers))]).unwrap().into_iter().collect();
    let round = |x: f64| bf16::from_f64(x).to_f64();
    let weights: Vec<f64> = narrow(&[0.1, 0.7, -0.3, 0.9, 0.2, 0.6]).iter().map(|x| x.to_f64()).collect();
    for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let y = round((0..3).map(|k| numbers[3 * i + k].to_f64() * weights[2 * k + j]).sum());
        assert_eq!(results["z"].to_f64()[2 * j + i], round(y * y));
        assert_eq!(results["wide"].to_f64()[2 * j + i], round(y * y));
    }
    assert_eq!((results["z"].dtype(), results["wide"].dtype()), (DType::BF16, DType::F32));
}

#[test]
fn unknown_operators_are_refused_by_name() {
    use npc_compiler::graph::{Graph, Node, Opset};
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", ValueType::tensor(DType::F32, &[2]));
    let mut node = Node::new("Frobnicate", [x]).in_domain("com.example");
    node.name = "frob".into();
    let [y] = graph.add(node, ["y"]);
    graph.outputs.push(y);
    let model =
        Model { ir_version: 8, opsets: vec![Opset { domain: String::new(), version: 17 }], graph, ..Model::default() };
    let error = Program::new(&model, &ProgramOptions::default()).err().unwrap().to_string();
    assert!(error.contains("com.example::Frobnicate") && error.contains("'frob'"), "{error}");
}
