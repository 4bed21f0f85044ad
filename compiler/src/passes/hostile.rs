//! Whatever stands in a file, compiling it ends: with an error, or with a valid model. Nothing panics, nothing hangs.

use crate::graph::{DType, Graph, Model, Node, Opset, Tensor, ValueType};
use crate::{CompileOptions, Emit, Optimizer, compile, onnx};
use onnx_protobuf as pb;
use onnx_protobuf::Message as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use std::time::{Duration, Instant};

/// The longest that one of these small models may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(10);

/// Loads and compiles in every form; what comes out must be a model again.
fn endure(bytes: &[u8]) {
    let start = Instant::now();
    let forms = [
        (Optimizer::NeuroPlastic, Emit::Functions),
        (Optimizer::NeuroPlastic, Emit::Inline),
        (Optimizer::Keep, Emit::TrainingInfo),
    ];
    for (optimizer, emit) in forms {
        let Ok(model) = onnx::parse(bytes.to_vec(), None) else { return };
        let options = CompileOptions { optimizer, emit, ..CompileOptions::default() };
        let Ok(compiled) = compile(model, &options) else { continue };
        let again = match onnx::to_bytes(&compiled.model) {
            Ok(bytes) => onnx::parse(bytes, None).unwrap(),
            // A few bytes may ask for gigabytes of zeros; only external data could hold them.
            Err(onnx::SaveError::TooLarge(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        crate::graph::verify::verify(&again).unwrap();
    }
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
}

/// One change to a graph: what is done, where, and with what.
type Change = (u8, Index, Index, Index);

const OPERATORS: [&str; 20] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Sqrt",
    "Max",
    "Clip",
    "Where",
    "ReduceSum",
    "ReduceL2",
    "Reshape",
    "Expand",
    "Cast",
    "Constant",
    "ConstantOfShape",
    "Shape",
    "SequenceAt",
    "Adam",
    "AdamWOptimizer",
];
const NUMBERS: [i64; 9] = [0, 1, -1, 2, 7, 64, 1 << 31, i64::MAX, i64::MIN];

fn change(model: &mut pb::ModelProto, (what, a, b, c): &Change) {
    let number = NUMBERS[c.index(NUMBERS.len())];
    let Some(g) = model.graph.as_mut() else { return };
    if g.node.is_empty() || g.input.is_empty() || g.output.is_empty() {
        return;
    }
    let named = |g: &pb::GraphProto| {
        let outputs = g.node.iter().flat_map(|n| &n.output);
        let inputs = g.input.iter().map(|v| &v.name).chain(g.initializer.iter().map(|t| &t.name));
        let names: Vec<String> = outputs.chain(inputs).cloned().collect();
        names[c.index(names.len())].clone()
    };
    let (at, name) = (a.index(g.node.len()), named(g));
    let attributes = g.node[b.index(g.node.len())].attribute.clone();
    let count = g.initializer.len();
    let node = &mut g.node[at];
    let slot = b.index(node.input.len().max(1));
    match what % 18 {
        0 | 1 if slot < node.input.len() => node.input[slot] = name,
        2 => node.input.truncate(slot),
        3 => node.input.push(name),
        4 => node.op_type = OPERATORS[b.index(OPERATORS.len())].into(),
        5 => node.domain = ["", "com.microsoft", "ai.onnx.preview.training", "elsewhere"][b.index(4)].into(),
        6 => node.attribute = attributes,
        7 => node.attribute.clear(),
        8 => node.attribute.iter_mut().for_each(|x| (x.i, x.f, x.ints) = (number, f32::NAN, vec![number; slot])),
        9 => drop(g.output.swap_remove(b.index(g.output.len()))),
        10 => g.output.push(pb::ValueInfoProto { name, ..pb::ValueInfoProto::new() }),
        11 if count > 0 => g.initializer[b.index(count)].dims = vec![number; slot],
        12 if count > 0 => g.initializer[b.index(count)].data_type = number as i32,
        13 if count > 0 => g.initializer[b.index(count)].raw_data.truncate(slot),
        14 => drop(g.node.remove(at)),
        15 => model.opset_import.iter_mut().for_each(|o| o.version = number % 30),
        16 | 17 => {
            let lists = [&mut g.input, &mut g.output, &mut g.value_info];
            let list = lists.into_iter().nth(a.index(3)).filter(|list| !list.is_empty());
            let info = list.map(|list| {
                let at = b.index(list.len());
                &mut list[at]
            });
            if let Some(info) = info
                && let Some(ty) = info.type_.as_mut()
                && ty.has_tensor_type()
            {
                let tensor = ty.mut_tensor_type();
                if what % 2 == 0 {
                    tensor.elem_type = number as i32 % 24;
                } else if let Some(shape) = tensor.shape.as_mut() {
                    shape.dim.iter_mut().for_each(|d| d.set_dim_value(number));
                }
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 700, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn models_with_a_few_things_changed(
        file in any::<Index>(),
        changes in vec((any::<u8>(), any::<Index>(), any::<Index>(), any::<Index>()), 1..8),
    ) {
        let files = onnx::all_models();
        let mut model = pb::ModelProto::parse_from_bytes(&std::fs::read(file.get(&files)).unwrap()).unwrap();
        changes.iter().for_each(|c| change(&mut model, c));
        endure(&model.write_to_bytes().unwrap());
    }

    #[test]
    fn files_with_a_few_bytes_changed(
        file in any::<Index>(),
        flips in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in proptest::option::weighted(0.1, any::<Index>()),
    ) {
        let files = onnx::all_models();
        let mut bytes = std::fs::read(file.get(&files)).unwrap();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        endure(&bytes);
    }
}

/// A step whose learning rate, and whose update, go through `depth` operators one after the other.
fn long(depth: usize, update: bool) -> Model {
    let scalar = || ValueType::tensor(DType::F32, &[]);
    let matrix = || ValueType::tensor(DType::F32, &[2, 2]);
    let mut g = Graph::new("long");
    let (mut lr, w, x) = (g.add_input("lr", scalar()), g.add_input("w", matrix()), g.add_input("x", matrix()));
    let one = g.add_initializer("one", Tensor::f32([], &[1.0]));
    let [grad] = g.add(Node::new("MatMul", [x, w]), ["grad"]);
    g.value_mut(grad).ty = Some(matrix());
    let mut step = grad;
    for _ in 0..depth {
        let at = if update { &mut step } else { &mut lr };
        [*at] = g.add(Node::new("Mul", [*at, one]), ["v"]);
    }
    let [step] = g.add(Node::new("Mul", [lr, step]), ["step"]);
    let [next] = g.add(Node::new("Sub", [w, step]), ["w.next"]);
    g.value_mut(next).ty = Some(matrix());
    let [count] = g.add(Node::new("Identity", [lr]), ["lr.next"]);
    g.outputs = vec![next, count];
    Model { ir_version: 8, opsets: vec![Opset { domain: String::new(), version: 17 }], graph: g, ..Model::default() }
}

#[test]
fn long_chains_end() {
    for update in [false, true] {
        for depth in [100, 5_000, 100_000] {
            let start = Instant::now();
            let compiled = compile(long(depth, update), &CompileOptions::default());
            assert!(start.elapsed() < PATIENCE, "{depth}: {:?}", start.elapsed());
            if depth == 100 {
                assert_eq!(compiled.unwrap().report.parameters.len(), 1);
            }
        }
    }
}

#[test]
fn a_long_sequence_is_followed() {
    let mut g = Graph::new("sequence");
    let lr = g.add_input("lr", ValueType::tensor(DType::F32, &[]));
    let [mut list] = g.add(Node::new("SequenceEmpty", []), ["list"]);
    for _ in 0..100_000 {
        [list] = g.add(Node::new("SequenceInsert", [list, lr]), ["list"]);
    }
    let node = Node::new("SGDOptimizerV2", [lr, list, list]).in_domain("com.microsoft");
    let [done, next] = g.add(node, ["done", "next"]);
    g.outputs = vec![done, next];
    let opset = |domain: &str, version| Opset { domain: domain.into(), version };
    let opsets = vec![opset("", 17), opset("com.microsoft", 1)];
    let error = compile(Model { ir_version: 8, opsets, graph: g, ..Model::default() }, &CompileOptions::default());
    assert!(error.unwrap_err().to_string().contains("graph output"));
}
