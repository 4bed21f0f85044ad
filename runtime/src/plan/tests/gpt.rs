//! The GPT-2-like step: its plan, and what products of rounded factors change.

use super::*;

pub const STEP: &str = "gpt-train-step/gpt_adamw.onnx";

#[test]
fn a_language_model_steps_as_on_the_cpu() {
    let plan = compare(STEP, Optimizer::NeuroPlastic, 2, 2e-4);
    let count = |wanted: fn(&Task) -> bool| plan.work.iter().filter(|w| wanted(&w.task)).count();
    let updates = |t: &Task| matches!(t, Task::NeuroPlastic { updates, .. } if updates.len() == 28);
    assert_eq!((count(|t| matches!(t, Task::NeuroPlastic { .. })), count(updates)), (1, 1));
    assert_eq!(count(|t| matches!(t, Task::Assign)), 0);
    // Two attentions; the loss with its gradient; two norms a block and the last; the embedding's rows once.
    assert_eq!(count(|t| matches!(t, Task::Softmax { .. })), 2);
    let loss = |t: &Task| matches!(t, Task::CrossEntropy { gradient: Some(Factors::Shared), logarithm: false, .. });
    assert_eq!(count(loss), 1);
    assert_eq!(count(|t| matches!(t, Task::LayerNorm { .. })), 5);
    assert_eq!(count(|t| matches!(t, Task::LayerNormGradient { .. })), 5);
    assert_eq!(count(|t| matches!(t, Task::SoftmaxGradient { logarithm: false, .. })), 2);
    assert_eq!(count(|t| matches!(t, Task::ScatterRows { add: true, .. })), 1);
    // They are added to the head's gradient, where it lies.
    let in_place = |w: &Work| matches!(w.task, Task::ScatterRows { .. }) && w.reads[0] == w.writes[0];
    assert!(plan.work.iter().any(in_place));
    // GELU, its gradient and the sums for its bias come with the products.
    let gelu = Activation::Gelu;
    let with = |wanted: Epilogue| {
        plan.work.iter().filter(|w| matches!(w.task, Task::ProductWith { epilogue, .. } if epilogue == wanted)).count()
    };
    assert_eq!(with(Epilogue::Bias { activation: Some(gelu), keeps: true }), 2);
    assert_eq!(with(Epilogue::Gradient { activation: gelu, sums: true }), 2);
    assert_eq!(with(Epilogue::Bias { activation: None, keeps: false }), 6);
    // The gradients of queries, keys and values are computed where their layer's gradient lies.
    assert_eq!(count(|t| matches!(t, Task::Place(_))), 0);
    // There are no one-hot targets.
    let is_one_hot = |id: &BufferId| plan.buffers[*id].name == "one_hot" && plan.buffers[*id].elements == 64 * 64;
    assert!(!plan.work.iter().any(|w| w.writes.iter().any(is_one_hot)));
    // The mask is computed once, for all layers and steps.
    let is_whole_mask = |b: &Buffer| b.dtype == DType::Bool && b.elements == 16 * 16;
    assert!(plan.buffers.iter().all(|b| !is_whole_mask(b) || matches!(b.source, Source::Constant(_))));
}

#[test]
fn a_kept_optimizer_steps_it_too() {
    compare(STEP, Optimizer::Keep, 1, 2e-4);
}

/// A step with rounded factors beside the CPU's, which rounds none: loss and first moments (which hold a tenth of the gradient)
/// within `tolerance` of each tensor's largest element, and not the same.
pub fn rounded_on(mut device: impl Device, precision: Precision, tolerance: f64) {
    let compiled = compiled(STEP, Optimizer::NeuroPlastic);
    let (model, b) = (&compiled.model, &compiled.bindings);
    let mut program = Program::new(model, &ProgramOptions::default()).unwrap();
    let options = PlanOptions { precision, ..PlanOptions::default() };
    let plan = program.device_graph(model, 4).unwrap().plan(b, &options, &mut device).unwrap();
    let mut feeds = first_feeds(&compiled);
    // The moments are to show nothing but this step's gradient.
    let states: HashMap<&str, &str> = (b.parameters.iter().flat_map(|p| &p.states))
        .filter(|s| s.name.ends_with(".base_momentum"))
        .map(|s| (s.next.as_str(), s.name.as_str()))
        .collect();
    assert_eq!(states.len(), 28);
    for name in states.values() {
        let zeros = HostTensor::zeros(ModelType::F32, feeds[*name].dims()).unwrap();
        feeds.insert((*name).to_string(), zeros);
    }
    let mut session = Session::new(plan, device, &Scalars::of(b)).unwrap();
    feeds.iter().for_each(|(name, tensor)| session.set(name, tensor).unwrap());
    session.step().unwrap();
    session.check().unwrap();
    let known: Vec<String> = program.inputs().map(str::to_string).collect();
    let given = known.iter().map(|name| (name.clone(), feeds[name].clone())).collect();
    let mut largest = 0f64;
    for (name, want) in program.run(given).unwrap() {
        let Some(from) = states.get(name.as_str()).copied().or((name == "loss").then_some("loss")) else { continue };
        let (got, want) = (session.get(from, Some(want.dims())).unwrap().to_f64(), want.to_f64());
        let size = want.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
        let worst = got.iter().zip(&want).fold(0f64, |m, (a, b)| m.max((a - b).abs() / size));
        assert!(worst <= tolerance, "{precision:?} {name}: {worst:.1e} of the largest element");
        largest = largest.max(worst);
    }
    assert!(largest > tolerance / 100.0, "{precision:?} rounds nothing: {largest:.1e}");
}

#[test]
fn products_of_rounded_factors_stay_near() {
    rounded_on(Reference::default(), Precision::Bf16, 0.03);
    rounded_on(Reference::default(), Precision::Tf32, 0.004);
}
