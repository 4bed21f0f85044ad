//! Training on the reference device beside the CPU engine.

use super::engine::{Engine, Epoch, OnDevice};
use super::evaluate::Evaluator;
use super::state::State;
use super::{Mixed, TrainOptions};
use crate::cpu::{Program, ProgramOptions};
use crate::data::{self, Dataset};
use crate::plan::Precision;
use crate::plan::device::Device;
use crate::plan::testing::Reference;
use crate::testing::root;
use npc_compiler::{CompileOptions, Compiled, Optimizer, compile, onnx};

pub(super) fn options() -> TrainOptions {
    TrainOptions { epochs: 2, seed: 3, ..TrainOptions::default() }
}

pub(super) struct Case {
    pub compiled: Compiled,
    pub program: Program,
    pub dataset: Dataset,
    pub batch: usize,
}

pub(super) fn case(file: &str, optimizer: Optimizer) -> Case {
    let model = onnx::load(&root().join("models").join(file)).unwrap();
    let compiled = compile(model, &CompileOptions { optimizer, ..CompileOptions::default() }).unwrap();
    let program = Program::new(&compiled.model, &ProgramOptions::default()).unwrap();
    let dataset = data::load(root().join("models/fashion-mnist").to_str().unwrap(), &compiled.bindings).unwrap();
    let batch = data::batch_size(&compiled.bindings).unwrap();
    Case { compiled, program, dataset, batch }
}

/// Runs `batches` batches of each of two epochs; gives each epoch's mean loss and accuracy, and the state.
fn run(case: &Case, engine: &mut dyn Engine, batches: usize) -> (Vec<(f64, Option<f64>)>, State) {
    let b = &case.compiled.bindings;
    let mut state = State::initial(&case.compiled.model, b, &options()).unwrap();
    let mut scores = Vec::new();
    for number in 1..=2 {
        let order = super::shuffled(case.dataset.train.len, 5, number);
        let gates = b.settings.gates(number, 2);
        let epoch = Epoch { number, split: &case.dataset.train, order: &order, batch: case.batch, lr: 0.01, gates };
        while state.batch < batches {
            assert_eq!(engine.advance(&mut state, b, &epoch, batches).unwrap(), None);
        }
        assert_eq!(state.batch, batches);
        engine.fetch(&mut state).unwrap();
        scores.push((state.score.loss(), state.score.accuracy()));
        state.next_epoch();
    }
    assert_eq!(state.steps, 2 * batches as u64);
    (scores, state)
}

fn engine<D: Device>(case: &Case, device: D, precision: Precision) -> OnDevice<D> {
    let (model, bindings) = (&case.compiled.model, &case.compiled.bindings);
    OnDevice::new(
        device,
        &case.program,
        model,
        bindings,
        &case.dataset.train,
        case.batch,
        &Mixed { precision, ..Mixed::default() },
    )
    .unwrap()
}

/// The same losses, hits and weights as the CPU engine.
fn agrees(case: &mut Case, device: impl Device, is_resident: bool) {
    let mut engine = engine(case, device, Precision::F32);
    assert_eq!(engine.is_resident(), is_resident);
    let (scores, state) = run(case, &mut engine, 3);
    let mut program = Program::new(&case.compiled.model, &ProgramOptions::default()).unwrap();
    let (wanted, reference) = run(case, &mut program, 3);
    for ((loss, accuracy), (wanted, right)) in scores.iter().zip(&wanted) {
        assert!((loss - wanted).abs() <= 1e-4 * wanted, "{loss} for {wanted}");
        assert_eq!(accuracy, right);
    }
    for (name, tensor) in reference.tensors() {
        let got = state.tensors().find(|(n, _)| *n == name).unwrap().1.to_f64();
        let wanted = tensor.to_f64();
        let size = wanted.iter().fold(1e-6f64, |m, x| m.max(x.abs()));
        let far =
            got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).filter(|d| d.is_nan() || *d > 2e-3 * size).count();
        assert!(far * 200 <= wanted.len(), "{name}: {far} of {} differ", wanted.len());
    }
}

/// Batches go through pinned memory, on a stream of their own; more of them than there are slots.
#[test]
#[ignore = "needs a GPU: tests/gpu.sh"]
fn on_a_gpu_a_dataset_that_does_not_fit_is_fed_beside_the_work() {
    let gpu = crate::cuda::Gpu::new(0).unwrap().with_free_limit(64 << 20);
    agrees(&mut case("pytorch-train-step/mlp_adamw_unoptimized.onnx", Optimizer::NeuroPlastic), gpu, false);
}

/// A hundred steps: the same losses as the CPU engine.
#[test]
#[ignore = "needs a GPU: tests/gpu.sh"]
fn on_a_gpu_losses_follow_the_cpus() {
    for (file, optimizer) in [
        ("pytorch-train-step/mlp_adamw.onnx", Optimizer::NeuroPlastic),
        ("pytorch-train-step/mlp_adamw.onnx", Optimizer::Keep),
        ("cnn-train-step/cnn_adamw.onnx", Optimizer::NeuroPlastic),
    ] {
        let mut case = case(file, optimizer);
        // Few samples, so that the mean loss of both epochs covers every step.
        let rest = 50 * case.batch.min(case.dataset.train.len / 50);
        case.dataset.train.split_off(rest);
        let (model, b) = (&case.compiled.model, &case.compiled.bindings);
        let gpu = crate::cuda::Gpu::new(0).unwrap();
        let mut engine =
            OnDevice::new(gpu, &case.program, model, b, &case.dataset.train, case.batch, &Mixed::default()).unwrap();
        let batches = case.dataset.train.len / case.batch;
        let (scores, _) = run(&case, &mut engine, batches);
        let mut program = Program::new(model, &ProgramOptions::default()).unwrap();
        let (wanted, _) = run(&case, &mut program, batches);
        for ((loss, _), (want, _)) in scores.iter().zip(&wanted) {
            assert!((loss - want).abs() <= 1e-4 * want, "{file}: {loss} for {want}");
        }
    }
}

#[test]
fn a_dataset_on_the_device_trains_as_on_the_cpu() {
    agrees(&mut case("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic), Reference::default(), true);
}

#[test]
fn a_dataset_that_does_not_fit_is_fed_batch_by_batch() {
    let mut device = Reference::default();
    device.free = 4 << 20;
    agrees(&mut case("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic), device, false);
}

#[test]
fn a_kept_optimizer_gets_its_step_number_from_the_host() {
    agrees(&mut case("pytorch-train-step/mlp_adamw.onnx", Optimizer::Keep), Reference::default(), true);
}

#[test]
fn a_step_without_a_loss_is_judged_by_its_logits() {
    let mut case = case("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
    let loss = case.compiled.bindings.outputs.loss.take().unwrap();
    let graph = &mut case.compiled.model.graph;
    let value = graph.value_named(&loss).unwrap();
    graph.outputs.retain(|id| *id != value);
    case.program = Program::new(&case.compiled.model, &ProgramOptions::default()).unwrap();
    agrees(&mut case, Reference::default(), false);
}

#[test]
fn a_loss_that_is_no_number_is_reported_with_its_batch() {
    let case = case("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
    let b = &case.compiled.bindings;
    let split = &case.dataset.train;
    let mut engine = engine(&case, Reference::default(), Precision::F32);
    let mut state = State::initial(&case.compiled.model, b, &options()).unwrap();
    let order = super::shuffled(split.len, 5, 1);
    let epoch = Epoch { number: 1, split, order: &order, batch: case.batch, lr: f64::from(f32::MAX), gates: [1.0; 3] };
    let bad = loop {
        if let Some(bad) = engine.advance(&mut state, b, &epoch, 8).unwrap() {
            break bad;
        }
        assert!(state.batch < 8);
    };
    assert!(!bad.loss.is_finite() && bad.batch >= 2 && bad.batch <= state.batch, "{bad:?}");
}

/// Lower precisions move the loss, but not far.
#[test]
fn precisions_reach_the_products() {
    let case = case("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
    let loss = |precision| run(&case, &mut engine(&case, Reference::default(), precision), 2).0[1].0;
    let exact = loss(Precision::F32);
    let distance = |precision| (loss(precision) - exact).abs() / exact;
    let (tf32, bf16, f16) = (distance(Precision::Tf32), distance(Precision::Bf16), distance(Precision::F16));
    assert!(tf32 > 0.0 && tf32 < 1e-3 && f16 > 0.0 && f16 < 1e-3 && bf16 > tf32 && bf16 < 1e-2, "{tf32} {bf16} {f16}");
}

/// The graph library joins operators of a forward graph that a training step keeps apart.
#[test]
fn every_forward_graph_moves_to_a_device() {
    for file in [
        "pytorch-train-step/transformer_adamw.onnx",
        "cnn-train-step/cnn_adamw.onnx",
        "jax-train-step/mlp_optax_sgd.onnx",
    ] {
        let model = onnx::load(&root().join("models").join(file)).unwrap();
        let compiled = compile(model, &CompileOptions::default()).unwrap();
        let mut evaluator = Evaluator::new(&compiled.model, &compiled.bindings, 8, 1).unwrap();
        let moved = evaluator.move_to(Reference::default(), &compiled.model, &compiled.bindings, Precision::F32);
        moved.unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}

#[test]
fn the_device_evaluates_as_the_cpu_does() {
    let mut case = case("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
    // Two batches and a part of a third.
    case.dataset.test.split_off(2 * case.batch + 5);
    let (model, b) = (&case.compiled.model, &case.compiled.bindings);
    let state = State::initial(model, b, &options()).unwrap();
    let on_the_cpu = Evaluator::new(model, b, case.batch, 1).unwrap().run(&state, &case.dataset.test).unwrap();
    let mut evaluator = Evaluator::new(model, b, case.batch, 1).unwrap();
    evaluator.move_to(Reference::default(), model, b, Precision::F32).unwrap();
    let on_the_device = evaluator.run(&state, &case.dataset.test).unwrap();
    assert_eq!((on_the_device.right, on_the_device.judged), (on_the_cpu.right, on_the_cpu.judged));
    assert_eq!(on_the_device.judged, (2 * case.batch + 5) as f64);
    assert!((on_the_device.loss() - on_the_cpu.loss()).abs() <= 1e-5 * on_the_cpu.loss());
}
