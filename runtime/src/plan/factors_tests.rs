//! Steps whose products read 16 bits give the bits of those whose products round float32 factors themselves.

use super::device::{Scalars, Session};
use super::factors::narrow;
use super::maps::{Map, Operand as Value, What};
use super::testing::Reference;
use super::tests::{compiled, first_feeds, gpt};
use super::*;
use super::{arena, fuse, schedule};
use crate::HostTensor;
use crate::cpu::{Program, ProgramOptions};
use npc_compiler::{Compiled, Optimizer};
use npc_kernels::cpu::contraction::Operand as Matrix;
use npc_kernels::elementwise::Operation;

const BOTH: [Precision; 2] = [Precision::Bf16, Precision::F16];

fn device(narrow: bool, narrow_results: bool) -> Reference {
    let mut device = Reference::default();
    device.convolutions = true;
    (device.narrow, device.narrow_results) = (narrow, narrow_results);
    device
}

/// A plan, and everything that a step of it leaves behind.
fn after_a_step(step: &Compiled, batch: usize, precision: Precision, mut device: Reference) -> (Plan, Vec<Vec<u8>>) {
    let program = Program::new(&step.model, &ProgramOptions::default()).unwrap();
    let options = PlanOptions { precision, ..PlanOptions::default() };
    let graph = program.device_graph(&step.model, batch).unwrap();
    let plan = graph.plan(&step.bindings, &options, &mut device).unwrap();
    let mut session = Session::new(plan.clone(), device, &Scalars::of(&step.bindings)).unwrap();
    first_feeds(step).iter().for_each(|(name, tensor)| session.set(name, tensor).unwrap());
    session.step().unwrap();
    session.check().unwrap();
    let kept = plan.inputs.iter().filter(|(_, id)| plan.buffers[*id].source == Source::Kept).map(|(name, _)| name);
    let names: Vec<&String> = kept.chain(plan.outputs.iter().map(|(name, _, _)| name)).collect();
    let all = names.into_iter().map(|name| session.get(name, None).unwrap().bytes().to_vec()).collect();
    (plan, all)
}

/// How many pieces of work multiply float32 factors and ones of 16 bits, and how many write 16 bits.
fn counts(plan: &Plan) -> [usize; 3] {
    let is_product = |w: &&Work| matches!(w.task, Task::Products(_) | Task::ProductWith { .. });
    let is_narrow = |id: BufferId| Some(plan.buffers[id].dtype) == plan.precision.narrow();
    let products: Vec<&Work> = plan.work.iter().filter(is_product).collect();
    let narrow = products.iter().filter(|w| is_narrow(w.reads[0]) && is_narrow(w.reads[1])).count();
    [products.len() - narrow, narrow, products.iter().filter(|w| is_narrow(w.writes[0])).count()]
}

/// The counts with 16-bit factors, after the bits were compared with those of float32 ones.
fn same_bits(file: &str, batch: usize, precisions: &[Precision]) -> [usize; 3] {
    let step = compiled(file, Optimizer::NeuroPlastic);
    let mut found = Vec::new();
    for &precision in precisions {
        let (plan, ours) = after_a_step(&step, batch, precision, device(true, true));
        let (plain, wanted) = after_a_step(&step, batch, precision, device(false, false));
        assert!(ours == wanted, "{file} in {precision:?}");
        assert_eq!(counts(&plain)[1..], [0, 0]);
        assert!(plan.buffers.iter().all(|b| b.dtype != DType::BF16 || precision == Precision::Bf16));
        // No more is rounded than what a product reads.
        let is_read = |id: BufferId| plan.work.iter().any(|w| w.reads.contains(&id));
        for work in &plan.work {
            let narrow = work.writes.iter().filter(|id| Some(plan.buffers[**id].dtype) == precision.narrow());
            assert!(narrow.into_iter().all(|id| is_read(*id)), "{}", work.name);
        }
        found.push(counts(&plan));
    }
    assert!(found.iter().all(|counts| counts == &found[0]));
    found[0]
}

#[test]
fn an_mlp_gives_the_same_bits() {
    assert_eq!(same_bits("pytorch-train-step/mlp_adamw.onnx", 16, &BOTH), [0, 8, 0]);
}

#[test]
fn a_transformer_gives_the_same_bits() {
    let [wide, narrow, results] = same_bits("pytorch-train-step/transformer_adamw.onnx", 16, &BOTH[..1]);
    assert!(wide == 0 && narrow > 20 && results > 0, "{wide} {narrow} {results}");
}

#[test]
fn a_language_model_gives_the_same_bits() {
    let [wide, narrow, results] = same_bits(gpt::STEP, 4, &BOTH);
    assert!(wide == 0 && narrow > 20 && results > 0, "{wide} {narrow} {results}");
}

/// No kernel of its own reads an attention's matrix or a normalised row to round it.
#[test]
fn kernels_of_rows_round_their_own_results() {
    let step = compiled(gpt::STEP, Optimizer::NeuroPlastic);
    let program = Program::new(&step.model, &ProgramOptions::default()).unwrap();
    let options = PlanOptions { precision: Precision::Bf16, ..PlanOptions::default() };
    let graph = program.device_graph(&step.model, 4).unwrap();
    let plan = graph.plan(&step.bindings, &options, &mut Reference::default()).unwrap();
    let narrow = |wanted: fn(&Task) -> bool| {
        let work = plan.work.iter().filter(move |w| wanted(&w.task));
        let writes = |w: &Work| w.writes.iter().map(|id| plan.buffers[*id].dtype).collect::<Vec<_>>();
        work.map(writes).filter(|types| types.contains(&DType::BF16)).collect::<Vec<_>>()
    };
    // Probabilities are read again by their gradient, what is normalised by products only.
    let probabilities = narrow(|t| matches!(t, Task::Softmax { .. }));
    assert_eq!(probabilities, vec![vec![DType::F32, DType::BF16]; 2]);
    let normal = narrow(|t| matches!(t, Task::LayerNorm { .. }));
    assert_eq!(normal, vec![vec![DType::BF16, DType::F32, DType::F32]; 5]);
    let is_rows = |t: &Task| {
        matches!(t, Task::Softmax { .. } | Task::SoftmaxGradient { .. })
            || matches!(t, Task::LayerNorm { .. } | Task::LayerNormGradient { .. })
    };
    let of_rows: Vec<BufferId> = plan.work.iter().filter(|w| is_rows(&w.task)).flat_map(|w| w.writes.clone()).collect();
    let only_rounds = |w: &&Work| is_cast(w) && of_rows.contains(&w.reads[0]);
    assert_eq!(plan.work.iter().filter(only_rounds).count(), 0);
}

/// Convolutions stay as they are, a library's and products over columns.
#[test]
fn a_convolutional_network_gives_the_same_bits() {
    let file = "cnn-train-step/cnn_adamw.onnx";
    let step = compiled(file, Optimizer::NeuroPlastic);
    let program = Program::new(&step.model, &ProgramOptions::default()).unwrap();
    let options = PlanOptions { precision: Precision::Bf16, ..PlanOptions::default() };
    let graph = program.device_graph(&step.model, 16).unwrap();
    let plan = graph.plan(&step.bindings, &options, &mut Reference::default()).unwrap();
    let columns = plan.work.iter().filter(|w| matches!(w.task, Task::Columns { .. })).map(|w| w.writes[0]);
    let columns: Vec<BufferId> = columns.collect();
    let over_columns = plan.work.iter().filter(|w| w.reads.iter().any(|id| columns.contains(id))).count();
    let [wide, narrow, _] = counts(&plan);
    assert!(wide == over_columns && wide > 0 && narrow > 0, "{wide} {narrow}");
    let [wide, narrow, _] = same_bits(file, 16, &BOTH[..1]);
    assert!(wide == 0 && narrow > 0, "{wide} {narrow}");
}

#[test]
fn other_precisions_stay_as_they_are() {
    let step = compiled("pytorch-train-step/mlp_adamw.onnx", Optimizer::NeuroPlastic);
    for precision in [Precision::F32, Precision::Tf32] {
        let (plan, _) = after_a_step(&step, 16, precision, device(true, true));
        assert_eq!(counts(&plan), [8, 0, 0]);
        assert!(plan.buffers.iter().all(|b| !matches!(b.dtype, DType::BF16 | DType::F16)));
    }
}

const N: usize = 4;

/// A draft whose values are all `[N, N]`.
struct Step {
    draft: Draft,
}

impl Step {
    fn new() -> Self {
        Step { draft: Draft::default() }
    }

    fn input(&mut self, name: &str) -> BufferId {
        let id = self.draft.buffer(name, DType::F32, N * N, Source::Fed);
        self.draft.inputs.push((name.into(), id));
        id
    }

    fn work(&mut self, task: Task, reads: &[BufferId]) -> BufferId {
        let id = self.draft.buffer("work", DType::F32, N * N, Source::Computed);
        self.draft.push("work", task, reads.to_vec(), vec![id]);
        id
    }

    fn product(&mut self, a: BufferId, b: BufferId) -> BufferId {
        self.work(Task::Products(vec![one(false)]), &[a, b])
    }

    fn tanh(&mut self, x: BufferId) -> BufferId {
        let output = self.draft.buffer("tanh", DType::F32, N * N, Source::Computed);
        let operands = vec![Value::View(View::dense(x, &[N, N]))];
        let map = Map { shape: vec![N, N], operands, what: What::Apply(Operation::Tanh), output };
        self.draft.work.push(Node { name: "tanh".into(), kind: Kind::Map(map) });
        output
    }

    fn output(&mut self, name: &str, id: BufferId) {
        self.draft.outputs.push((name.into(), id, vec![N, N]));
    }

    fn plan(&self, precision: Precision, mut device: Reference) -> (Plan, Vec<Vec<u8>>) {
        let draft = Draft {
            buffers: self.draft.buffers.clone(),
            work: self.draft.work.iter().map(|n| Node { name: n.name.clone(), kind: n.kind.clone() }).collect(),
            inputs: self.draft.inputs.clone(),
            outputs: self.draft.outputs.clone(),
            scaling: None,
        };
        let draft = narrow(fuse::fuse(draft).unwrap(), precision, &mut device).unwrap();
        let mut plan = schedule::schedule(draft).unwrap();
        plan.precision = precision;
        arena::place(&mut plan);
        let mut session = Session::new(plan.clone(), device, &Scalars::default()).unwrap();
        for (seed, (name, _)) in plan.inputs.iter().enumerate() {
            let values: Vec<f32> = (0..N * N).map(|i| (0.7 * i as f32 + 1.3 * seed as f32).sin()).collect();
            session.set(name, &HostTensor::f32(&[N * N], &values).unwrap()).unwrap();
        }
        session.step().unwrap();
        let outputs =
            plan.outputs.iter().map(|(name, _, _)| session.get(name, None).unwrap().bytes().to_vec()).collect();
        (plan, outputs)
    }

    /// The plan with narrow factors, which gives the bits of the one without.
    fn run_on(&self, device: fn() -> Reference) -> Plan {
        let mut plain = device();
        plain.narrow = false;
        let ((plan, ours), (_, wanted)) = (self.plan(Precision::Bf16, device()), self.plan(Precision::Bf16, plain));
        assert!(ours == wanted);
        plan
    }

    fn run(&self) -> Plan {
        self.run_on(Reference::default)
    }
}

fn one(accumulate: bool) -> Product {
    let place = Matrix { start: 0, batch: 0, down: N, along: 1 };
    Product { rows: N, columns: N, inner: N, batch: 1, a: place, b: place, c: place, accumulate }
}

/// An expression that only rounds.
fn is_cast(work: &Work) -> bool {
    let rounds = |e: &Expression| e.instructions().iter().all(|i| matches!(i.operation, Operation::Cast(_)));
    matches!(&work.task, Task::Expression(e) if e.reduction().is_none() && rounds(e))
}

fn casts(plan: &Plan) -> usize {
    plan.work.iter().filter(|w| is_cast(w)).count()
}

/// `(x · w) · w`, and what `between` does with the first result.
fn chain(between: fn(&mut Step, BufferId) -> BufferId) -> Step {
    let mut step = Step::new();
    let (x, w) = (step.input("x"), step.input("w"));
    let first = step.product(x, w);
    let factor = between(&mut step, first);
    let second = step.product(factor, w);
    step.output("y", second);
    step
}

#[test]
fn a_result_for_products_alone_is_rounded_by_its_product() {
    let plan = chain(|_, first| first).run();
    assert_eq!(counts(&plan), [0, 2, 1]);
    // x and w are cast once each, however many read them.
    assert_eq!(casts(&plan), 2);
    // A copy moves 16 bits.
    let plan = chain(|step, first| step.work(Task::Copy(View::dense(first, &[N, N]).moved(0, 1)), &[first])).run();
    assert_eq!((counts(&plan), casts(&plan)), ([0, 2, 1], 2));
    // Parts of a larger value are each product's own, or moved.
    let mut step = Step::new();
    let (x, w) = (step.input("x"), step.input("w"));
    let first = step.product(x, w);
    let whole = step.draft.buffer("whole", DType::F32, 2 * N * N, Source::Computed);
    for (part, id) in [first, w].into_iter().enumerate() {
        let view = View::dense(whole, &[2 * N, N]).sliced(0, part * N, (part + 1) * N);
        step.draft.push("place", Task::Place(view), vec![id], vec![whole]);
    }
    let y = step.product(whole, w);
    step.output("y", y);
    let plan = step.run();
    assert_eq!((counts(&plan), casts(&plan)), ([0, 2, 1], 2));
}

#[test]
fn an_expression_rounds_its_own_result() {
    let plan = chain(Step::tanh).run();
    assert_eq!((counts(&plan), casts(&plan)), ([0, 2, 0], 2));
    let tanh = plan.work.iter().find(|w| w.name == "tanh").unwrap();
    assert_eq!(tanh.writes.iter().map(|id| plan.buffers[*id].dtype).collect::<Vec<_>>(), [DType::BF16]);
}

/// Everything that keeps a value in float32 beside, or instead of, its rounding.
#[test]
fn near_misses_stay_float32() {
    // Somebody reads it in float32.
    let read = chain(|step, first| {
        let y = step.tanh(first);
        step.output("tanh", y);
        first
    });
    let plan = read.run();
    assert_eq!(counts(&plan), [0, 2, 0]);
    assert_eq!(casts(&plan), 2, "the tanh rounds what it reads anyway");
    // It is an output of the graph.
    let plan = chain(|step, first| {
        step.output("first", first);
        first
    })
    .run();
    assert_eq!((counts(&plan), casts(&plan)), ([0, 2, 0], 3));
    // A copy of it is.
    let plan = chain(|step, first| {
        let copy = step.work(Task::Copy(View::dense(first, &[N, N]).moved(0, 1)), &[first]);
        step.output("copy", copy);
        copy
    })
    .run();
    assert_eq!((counts(&plan), casts(&plan)), ([0, 2, 0], 3));
    // Another product is added to it.
    let mut step = Step::new();
    let (x, w) = (step.input("x"), step.input("w"));
    let sum = step.work(Task::Products(vec![one(false), one(true)]), &[x, w]);
    let y = step.product(sum, w);
    step.output("y", y);
    let plan = step.run();
    assert_eq!((counts(&plan), casts(&plan)), ([0, 2, 0], 3));
    // The library writes no such results, or multiplies no such factors.
    let plan = chain(|_, first| first).run_on(|| device(true, false));
    assert_eq!((counts(&plan), casts(&plan)), ([0, 2, 0], 3));
    let plan = chain(|_, first| first).run_on(|| device(false, true));
    assert_eq!((counts(&plan), casts(&plan)), ([2, 0, 0], 0));
    // A factor that is float32 keeps the other one so.
    let mut step = Step::new();
    let (x, w) = (step.input("x"), step.input("w"));
    let geometry = npc_kernels::cpu::Geometry::new(&[N], &[N], &[1], &[1], &[1], &[0]).unwrap();
    let planes = npc_kernels::cuda::window::Planes::dense(1, N as u64, N as u64);
    let columns = step.work(Task::Columns { geometry, planes }, &[x]);
    let y = step.product(w, columns);
    step.output("y", y);
    let plan = step.run();
    assert_eq!((counts(&plan), casts(&plan)), ([1, 0, 0], 0));
    // A bias that is a factor elsewhere stays for its epilogue.
    let mut step = Step::new();
    let (x, w) = (step.input("x"), step.input("w"));
    let epilogue = Epilogue::Bias { activation: None, keeps: false };
    let z = step.input("z");
    let bias = step.tanh(z);
    let first = step.work(Task::ProductWith { product: one(false), epilogue }, &[x, w, bias]);
    let y = step.product(bias, first);
    step.output("y", y);
    let plan = step.run();
    assert_eq!(counts(&plan), [0, 2, 0]);
    let tanh = plan.work.iter().find(|w| w.name == "tanh").unwrap();
    assert_eq!(tanh.writes.iter().map(|id| plan.buffers[*id].dtype).collect::<Vec<_>>(), [DType::F32, DType::BF16]);
    // Sums of a factor's elements are of what it was before it was rounded.
    let mut step = Step::new();
    let (x, w) = (step.input("x"), step.input("w"));
    let y = step.draft.buffer("y", DType::F32, N * N, Source::Computed);
    let sums = step.draft.buffer("sums", DType::F32, N, Source::Computed);
    let task = Task::ProductWith { product: one(false), epilogue: Epilogue::Sums { of_right: true } };
    step.draft.push("sums", task, vec![x, w], vec![y, sums]);
    step.output("y", y);
    step.draft.outputs.push(("sums".into(), sums, vec![N]));
    assert_eq!(counts(&step.run()), [1, 0, 0]);
}

/// What the model has in 16 bits is a factor as it is.
#[test]
fn values_of_16_bits_are_factors_themselves() {
    let mut step = Step::new();
    let w = step.input("w");
    let narrow = step.draft.buffer("narrow", DType::BF16, N * N, Source::Constant([0x80, 0x3f].repeat(N * N)));
    let wide = step.draft.buffer("wide", DType::F32, N * N, Source::Computed);
    let operands = vec![Value::View(View::dense(narrow, &[N, N]))];
    let map = Map { shape: vec![N, N], operands, what: What::Apply(Operation::Cast(DType::F32)), output: wide };
    step.draft.work.push(Node { name: "widen".into(), kind: Kind::Map(map) });
    let y = step.product(wide, w);
    step.output("y", y);
    let plan = step.run();
    assert_eq!((counts(&plan), casts(&plan)), ([0, 1, 0], 1));
    assert!(plan.work.iter().any(|w| w.reads.first() == Some(&narrow) && matches!(w.task, Task::Products(_))));
    // A constant is rounded on the host.
    let mut step = Step::new();
    let w = step.input("w");
    let bytes = (0..N * N).flat_map(|i| (1.0 + i as f32 / 300.0).to_le_bytes()).collect();
    let constant = step.draft.buffer("constant", DType::F32, N * N, Source::Constant(bytes));
    let y = step.product(constant, w);
    step.output("y", y);
    let plan = step.run();
    assert_eq!((counts(&plan), casts(&plan)), ([0, 1, 0], 1));
}
