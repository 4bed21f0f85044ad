//! Scaled steps and float32 copies on the reference device.

use super::device::{Scalars, Session};
use super::scaling::{LossScale, MASTER, SCALE};
use super::testing::Reference;
use super::tests::{compiled, value};
use super::*;
use crate::HostTensor;
use crate::cpu::{Program, ProgramOptions};
use npc_compiler::analysis::loss_scale;
use npc_compiler::graph::{DType as ModelType, Model, Node, Tensor as Constant, ValueType};
use npc_compiler::neuroplastic::{Settings, step_model};
use npc_compiler::{Compiled, Emit, Optimizer};

fn session(model: &Model, bindings: &Bindings, options: &PlanOptions) -> Session<Reference> {
    let mut device = Reference::default();
    let program = Program::new(model, &ProgramOptions::default()).unwrap();
    let graph = program.device_graph(model, 16).unwrap();
    let plan = graph.plan(bindings, options, &mut device).unwrap();
    Session::new(plan, device, &Scalars::of(bindings)).unwrap()
}

/// Everything that a step of a model leaves behind, with a loss scale and without.
fn after_a_step(step: &Compiled, scale: Option<LossScale>) -> Vec<Vec<u8>> {
    let mut model = step.model.clone();
    if scale.is_some() {
        loss_scale::insert(&mut model).unwrap();
    }
    let options = PlanOptions { loss_scale: scale, ..PlanOptions::default() };
    let mut session = session(&model, &step.bindings, &options);
    for (i, id) in step.model.graph.inputs.iter().enumerate() {
        let v = step.model.graph.value(*id);
        session.set(&v.name, &value(&v.name, v.dtype().unwrap(), &v.dims().unwrap(), i)).unwrap();
    }
    session.set("gates", &HostTensor::f32(&[3], &[1.0; 3]).unwrap()).unwrap();
    session.step().unwrap();
    let parameters = step.bindings.parameters.iter();
    let names = parameters.flat_map(|p| p.states.iter().map(|s| s.name.clone()).chain([p.name.clone()]));
    let mut all: Vec<Vec<u8>> = names.map(|name| session.get(&name, None).unwrap().bytes().to_vec()).collect();
    all.push(session.get(step.bindings.outputs.loss.as_ref().unwrap(), None).unwrap().bytes().to_vec());
    all
}

/// A power of two moves exponents only.
#[test]
fn a_scaled_step_gives_the_same_bits() {
    for file in [
        "pytorch-train-step/mlp_adamw.onnx",
        "pytorch-train-step/transformer_adamw.onnx",
        "jax-train-step/mlp_optax_sgd.onnx",
        "gpt-train-step/gpt_adamw.onnx",
    ] {
        let step = compiled(file, Optimizer::NeuroPlastic);
        assert!(after_a_step(&step, Some(LossScale::DYNAMIC)) == after_a_step(&step, None), "{file}");
    }
}

/// The loss's kernel takes the scale as a factor of its gradient.
#[test]
fn a_scaled_loss_is_one_piece_of_work_with_its_gradient() {
    for file in ["pytorch-train-step/mlp_adamw.onnx", "cnn-train-step/cnn_adamw.onnx", "gpt-train-step/gpt_adamw.onnx"]
    {
        let mut step = compiled(file, Optimizer::NeuroPlastic);
        loss_scale::insert(&mut step.model).unwrap();
        let program = Program::new(&step.model, &ProgramOptions::default()).unwrap();
        let graph = program.device_graph(&step.model, 16).unwrap();
        let options = PlanOptions { loss_scale: Some(LossScale::DYNAMIC), ..PlanOptions::default() };
        let plan = graph.plan(&step.bindings, &options, &mut Reference::default()).unwrap();
        let is_loss = |w: &&Work| matches!(w.task, Task::CrossEntropy { gradient: Some(_), logarithm: false, .. });
        assert_eq!(plan.work.iter().filter(is_loss).count(), 1, "{file}");
    }
}

fn narrow_step(dtype: ModelType, elements: usize) -> Compiled {
    let mut step = step_model(&[vec![elements]], &Settings::default(), Emit::Functions).unwrap();
    let next = step.bindings.parameters[0].next.clone();
    for name in ["p0", "g0", next.as_str()] {
        let graph = &mut step.model.graph;
        let value = graph.value_named(name).unwrap();
        graph.value_mut(value).ty = Some(ValueType::tensor(dtype, &[elements]));
    }
    step
}

fn narrow(dtype: ModelType, values: &[f32]) -> HostTensor {
    HostTensor::f32(&[values.len()], values).unwrap().cast(dtype).unwrap()
}

fn start(session: &mut Session<Reference>, rate: f32) {
    session.set("learning_rate", &HostTensor::f32(&[], &[rate]).unwrap()).unwrap();
    session.set("gates", &HostTensor::f32(&[3], &[1.0; 3]).unwrap()).unwrap();
}

/// A gradient of 2⁻²⁸ is 0 in float16, and is there when it is computed 2¹⁶ times as large.
#[test]
fn what_underflows_in_float16_is_kept_by_a_scale() {
    let f16 = ModelType::F16;
    let mut step = narrow_step(f16, 40);
    let graph = &mut step.model.graph;
    let gradient = graph.value_named("g0").unwrap();
    let tiny = |x: f32| Constant::raw(f16, [], half::f16::from_f32(x).to_le_bytes().to_vec());
    let [one, other] = [2f32.powi(-14), 2f32.powi(-10)].map(|x| graph.add_initializer("tiny", tiny(x)));
    let readers = graph.value(gradient).consumers.clone();
    let [error] = graph.add(Node::new("Neg", [gradient]), ["error"]);
    let [smaller] = graph.add(Node::new("Mul", [error, one]), ["smaller"]);
    let [small] = graph.add(Node::new("Mul", [smaller, other]), ["small"]);
    for value in [error, smaller, small] {
        graph.value_mut(value).ty = Some(ValueType::tensor(f16, &[40]));
    }
    readers.iter().for_each(|reader| graph.set_input(*reader, 4, small));
    let momentum = |scale: Option<LossScale>| {
        let mut model = step.model.clone();
        if scale.is_some() {
            assert_eq!(loss_scale::insert(&mut model).unwrap(), "error");
        }
        let options = PlanOptions { loss_scale: scale, ..PlanOptions::default() };
        let mut session = session(&model, &step.bindings, &options);
        start(&mut session, 0.1);
        session.set("g0", &narrow(f16, &[1.0 / 16.0; 40])).unwrap();
        session.step().unwrap();
        session.get(&step.bindings.parameters[0].states[1].name, None).unwrap().to_f64()
    };
    assert!(momentum(None).iter().all(|m| *m == 0.0));
    let want = -0.1 * 2f64.powi(-28);
    assert!(momentum(Some(LossScale::DYNAMIC)).iter().all(|m| (m - want).abs() <= 1e-6 * want.abs()));
}

/// Updates below half a unit of bfloat16 are lost without a float32 copy, and add up in it.
#[test]
fn a_float32_copy_adds_up_what_rounding_would_lose() {
    let bf16 = ModelType::BF16;
    let (elements, steps) = (50, 12);
    let gradient: Vec<f32> = (0..elements).map(|i| 0.125 + i as f32 / 1024.0).collect();
    let run = |step: &Compiled, dtype: ModelType, master_weights: bool| {
        let options = PlanOptions { master_weights, ..PlanOptions::default() };
        let mut session = session(&step.model, &step.bindings, &options);
        start(&mut session, 0.004);
        session.set("p0", &narrow(dtype, &vec![1.0; elements])).unwrap();
        session.set("g0", &narrow(bf16, &gradient).cast(dtype).unwrap()).unwrap();
        (0..steps).for_each(|_| session.step().unwrap());
        session
    };
    let step = narrow_step(bf16, elements);
    let lost = run(&step, bf16, false).get("p0", None).unwrap();
    assert!(lost.to_f64().iter().all(|x| *x == 1.0));
    let mut with = run(&step, bf16, true);
    let (parameter, copy) = (with.get("p0", None).unwrap(), with.get(&format!("{MASTER}p0"), None).unwrap());
    assert_eq!((parameter.dtype(), copy.dtype()), (bf16, ModelType::F32));
    assert!(copy.cast(bf16).unwrap().bytes() == parameter.bytes());
    assert!(parameter.to_f64().iter().all(|x| *x < 1.0));
    // The copy goes where a float32 parameter with the same gradients goes.
    let wide = step_model(&[vec![elements]], &Settings::default(), Emit::Functions).unwrap();
    let wide = run(&wide, ModelType::F32, true).get("p0", None).unwrap();
    for (a, b) in copy.to_f64().iter().zip(wide.to_f64()) {
        assert!((a - b).abs() <= 1e-6, "{a} for {b}");
    }
}

#[test]
fn a_plan_without_a_place_for_the_scale_is_refused() {
    let step = compiled("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
    let program = Program::new(&step.model, &ProgramOptions::default()).unwrap();
    let options = PlanOptions { loss_scale: Some(LossScale::DYNAMIC), ..PlanOptions::default() };
    let graph = program.device_graph(&step.model, 16).unwrap();
    let error = graph.plan(&step.bindings, &options, &mut Reference::default()).unwrap_err().to_string();
    assert!(error.contains(SCALE), "{error}");
}

#[test]
fn scales_are_read() {
    assert_eq!("off".parse(), Ok(LossScaling::Off));
    assert_eq!("dynamic".parse(), Ok(LossScaling::Dynamic));
    assert_eq!("1024".parse(), Ok(LossScaling::Fixed(1024.0)));
    for wrong in ["0", "-2", "inf", "NaN", "1e-40", "much"] {
        assert!(wrong.parse::<LossScaling>().is_err(), "{wrong}");
    }
}
