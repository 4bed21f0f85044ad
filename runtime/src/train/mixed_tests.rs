//! Training with a loss scale on the reference device.

use super::engine::{Engine, Epoch, OnDevice};
use super::engine_tests::{Case, case, options};
use super::state::State;
use super::{Mixed, TrainOptions};
use crate::plan::scaling::SCALE;
use crate::plan::testing::Reference;
use crate::plan::{LossScale, LossScaling, Precision};
use npc_compiler::Optimizer;
use std::collections::BTreeMap;

/// With float16 factors a scale of 2⁴⁰ overflows; after the first step it is 2¹⁰, and doubles every other step.
const RULE: LossScale = LossScale { initial: 1_099_511_627_776.0, growth: 2.0, backoff: 9.313_226e-10, interval: 2.0 };

fn engine(case: &Case, loss_scale: Option<LossScale>) -> OnDevice<Reference> {
    engine_of(case, Precision::F16, loss_scale)
}

fn engine_of(case: &Case, precision: Precision, loss_scale: Option<LossScale>) -> OnDevice<Reference> {
    let (model, bindings) = (&case.compiled.model, &case.compiled.bindings);
    let mixed = Mixed { precision, loss_scale, ..Mixed::default() };
    // Convolutions by a library, which takes less long than our kernels in the interpreter.
    let mut device = Reference::default();
    device.convolutions = true;
    OnDevice::new(device, &case.program, model, bindings, &case.dataset.train, case.batch, &mixed).unwrap()
}

fn initial(case: &Case, engine: &dyn Engine) -> State {
    let mut state = State::initial(&case.compiled.model, &case.compiled.bindings, &options()).unwrap();
    engine.extend(&mut state).unwrap();
    state
}

fn run(case: &Case, engine: &mut dyn Engine, state: &mut State, until: usize) {
    let b = &case.compiled.bindings;
    let order = super::shuffled(case.dataset.train.len, 5, 1);
    let split = &case.dataset.train;
    let epoch = Epoch { number: 1, split, order: &order, batch: case.batch, lr: 0.01, gates: b.settings.gates(1, 2) };
    while state.batch < until {
        assert_eq!(engine.advance(state, b, &epoch, until).unwrap(), None);
    }
    engine.fetch(state).unwrap();
}

fn bytes(state: &State) -> BTreeMap<String, Vec<u8>> {
    let own = state.tensors().filter(|(name, _)| *name != SCALE);
    own.map(|(name, tensor)| (name.to_string(), tensor.bytes().to_vec())).collect()
}

fn scale(state: &State) -> Vec<f64> {
    state.tensor(SCALE).unwrap().to_f64()
}

#[test]
fn an_overflow_changes_nothing_but_the_scale() {
    let case = case("pytorch-train-step/mlp_adamw.onnx", Optimizer::NeuroPlastic);
    let mut scaled = engine(&case, Some(RULE));
    let mut state = initial(&case, &scaled);
    let before = bytes(&state);
    run(&case, &mut scaled, &mut state, 1);
    assert!(bytes(&state) == before);
    assert_eq!((state.steps, state.skipped), (1, 1));
    assert_eq!(scale(&state), [1024.0, 1.0 / 1024.0, 0.0]);
    // Two good steps, and the scale grows.
    run(&case, &mut scaled, &mut state, 3);
    assert_eq!((state.steps, state.skipped), (3, 1));
    assert_eq!(scale(&state), [2048.0, 1.0 / 2048.0, 0.0]);
    // The same as a run that never saw the first batch, Adam's count of steps included.
    let mut plain = engine(&case, Some(LossScale { initial: 1024.0, ..RULE }));
    let mut other = initial(&case, &plain);
    other.batch = 1;
    run(&case, &mut plain, &mut other, 3);
    assert!(bytes(&state) == bytes(&other) && bytes(&state) != before);
}

/// A power of two changes no bit of a float32 step; with float16 factors one of 2⁴⁰ overflows, and the step does nothing.
#[test]
fn a_convolutional_network_is_scaled_and_its_overflows_skipped() {
    let case = case("cnn-train-step/cnn_adamw.onnx", Optimizer::NeuroPlastic);
    let stepped = |precision, loss_scale| {
        let mut engine = engine_of(&case, precision, loss_scale);
        let mut state = initial(&case, &engine);
        let before = bytes(&state);
        run(&case, &mut engine, &mut state, 1);
        (before, state)
    };
    let (before, plain) = stepped(Precision::F32, None);
    let (_, scaled) = stepped(Precision::F32, Some(LossScale { initial: 1024.0, interval: 1.0, ..RULE }));
    assert!(bytes(&scaled) == bytes(&plain) && bytes(&plain) != before);
    assert_eq!((scale(&scaled), scaled.skipped), (vec![2048.0, 1.0 / 2048.0, 0.0], 0));
    let (before, overflown) = stepped(Precision::F16, Some(RULE));
    assert!(bytes(&overflown) == before);
    assert_eq!((scale(&overflown), overflown.skipped), (vec![1024.0, 1.0 / 1024.0, 0.0], 1));
}

#[test]
fn a_scaled_run_goes_on_bit_for_bit() {
    let case = case("pytorch-train-step/mlp_adamw.onnx", Optimizer::NeuroPlastic);
    let (model, b) = (&case.compiled.model, &case.compiled.bindings);
    let mut whole = engine(&case, Some(RULE));
    let mut state = initial(&case, &whole);
    run(&case, &mut whole, &mut state, 4);
    let folder = tempfile::tempdir().unwrap();
    let mut first = engine(&case, Some(RULE));
    let mut half = initial(&case, &first);
    run(&case, &mut first, &mut half, 2);
    half.save(folder.path(), model, b).unwrap();
    let mut second = engine(&case, Some(RULE));
    let mut rest = State::resume(folder.path(), initial(&case, &second), b).unwrap();
    assert_eq!((rest.steps, rest.skipped), (2, 1));
    run(&case, &mut second, &mut rest, 4);
    assert!(bytes(&rest) == bytes(&state));
    assert_eq!((scale(&rest), rest.skipped), (scale(&state), state.skipped));
    // Neither a run without a scale goes on with one, nor the other way round.
    let without = initial(&case, &engine(&case, None));
    let error = State::resume(folder.path(), without, b).err().unwrap().to_string();
    assert!(error.contains(SCALE) && error.contains("--loss-scale"), "{error}");
    let without = initial(&case, &engine(&case, None));
    without.save(folder.path(), model, b).unwrap();
    let error = State::resume(folder.path(), initial(&case, &second), b).err().unwrap().to_string();
    assert!(error.contains(SCALE) && error.contains("--loss-scale"), "{error}");
}

#[test]
fn a_kept_optimizer_is_not_scaled() {
    let case = case("pytorch-train-step/mlp_adamw.onnx", Optimizer::Keep);
    let (model, b) = (&case.compiled.model, &case.compiled.bindings);
    let mixed = Mixed { loss_scale: Some(LossScale::DYNAMIC), ..Mixed::default() };
    let refused = OnDevice::new(Reference::default(), &case.program, model, b, &case.dataset.train, case.batch, &mixed);
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("kept optimizer") && error.contains("--loss-scale off"), "{error}");
    // Without a word about it float16 products do without.
    let f16 = TrainOptions { precision: Precision::F16, ..options() };
    assert_eq!(Mixed::of(&f16, model, b).loss_scale, None);
}

#[test]
fn float16_is_scaled_unless_it_is_told_not_to() {
    let case = case("pytorch-train-step/mlp_sgd.onnx", Optimizer::NeuroPlastic);
    let mixed = |precision, loss_scale| {
        let options = TrainOptions { precision, loss_scale, ..options() };
        Mixed::of(&options, &case.compiled.model, &case.compiled.bindings).loss_scale
    };
    assert_eq!(mixed(Precision::F16, None), Some(LossScale::DYNAMIC));
    assert_eq!(mixed(Precision::F16, Some(LossScaling::Off)), None);
    assert_eq!(mixed(Precision::Bf16, None), None);
    assert_eq!(mixed(Precision::F32, Some(LossScaling::Fixed(8.0))), Some(LossScale::fixed(8.0)));
}
