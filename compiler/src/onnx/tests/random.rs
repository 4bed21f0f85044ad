//! Random models survive being written and read; random damage never panics.

use super::{all_models, parse, to_bytes};
use crate::graph::{Attribute, AttributeValue, DType, Dim, Graph, Model, Node, Opset, Payload, Tensor, ValueType};
use crate::graph::{Function, TrainingInfo};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// How to build a graph; indices refer to whatever values exist by then.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    inputs: Vec<ValueType>,
    constants: Vec<(Tensor, bool)>,
    nodes: Vec<NodePlan>,
    outputs: Vec<Index>,
    note: String,
}

#[derive(Clone, Debug)]
struct NodePlan {
    op: (String, String),
    inputs: Vec<Option<Index>>,
    outputs: Vec<Option<Option<ValueType>>>,
    attributes: Vec<AttributeValue>,
    sub_graphs: Vec<Plan>,
    note: String,
}

fn tensor() -> impl Strategy<Value = Tensor> {
    (1i32..=27, vec(0usize..4, 0..4), any::<u8>(), note()).prop_map(|(dtype, dims, seed, note)| {
        let dtype = DType(dtype);
        let count = dims.iter().product();
        let payload = match dtype {
            DType::STRING => Payload::Strings((0..count).map(|i| vec![seed; i % 3]).collect()),
            _ => {
                let bytes = dtype.byte_len(count).unwrap_or(count * 3);
                Payload::Raw((0..bytes).map(|i| seed.wrapping_mul(i as u8 | 1)).collect::<Vec<u8>>().into())
            }
        };
        let metadata = vec![(note.clone(), "m".to_string())];
        Tensor { dtype, dims, payload, name: note.clone(), doc: note.clone(), metadata, unknown: unknown(&note) }
    })
}

/// Well-formed fields that no ONNX version knows.
fn unknown(note: &str) -> Vec<u8> {
    if note.is_empty() { Vec::new() } else { vec![0xfa, 0x3e, 1, note.len() as u8, 0xf0, 0x3e, 0x96, 0x01] }
}

fn note() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => "[a-zé→ ]{1,200}"]
}

fn value_type() -> impl Strategy<Value = ValueType> {
    let dim =
        prop_oneof![(0usize..1 << 40).prop_map(Dim::Known), "[a-z]{1,5}".prop_map(Dim::Symbol), Just(Dim::Unknown)];
    prop_oneof![
        4 => (0i32..30, proptest::option::of(vec(dim, 0..5)))
            .prop_map(|(dtype, shape)| ValueType::Tensor { dtype: DType(dtype), shape }),
        // sequence(tensor(float)), and a tensor with a denotation
        1 => Just(ValueType::Other(vec![0x22, 6, 0x0a, 4, 0x0a, 2, 0x08, 1])),
        1 => Just(ValueType::Other(vec![0x0a, 2, 0x08, 1, 0x32, 3, b'N', b'C', b'H'])),
    ]
}

fn float() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("NaN is not equal to itself", |x| !x.is_nan())
}

fn attribute() -> impl Strategy<Value = AttributeValue> {
    let bytes = || vec(any::<u8>(), 0..300);
    prop_oneof![
        float().prop_map(AttributeValue::Float),
        any::<i64>().prop_map(AttributeValue::Int),
        bytes().prop_map(AttributeValue::String),
        tensor().prop_map(AttributeValue::Tensor),
        vec(float(), 0..40).prop_map(AttributeValue::Floats),
        vec(any::<i64>(), 0..40).prop_map(AttributeValue::Ints),
        vec(bytes(), 0..4).prop_map(AttributeValue::Strings),
        vec(tensor(), 0..3).prop_map(AttributeValue::Tensors),
        ("[a-z]{1,4}", 0i32..15).prop_map(|(name, kind)| AttributeValue::Ref { name, kind }),
        // name, type_proto, type TYPE_PROTO
        Just(AttributeValue::Other(vec![0x0a, 1, b'a', 0x72, 4, 0x0a, 2, 0x08, 1, 0xa0, 0x01, 13])),
    ]
}

pub(crate) fn plan(depth: u32) -> BoxedStrategy<Plan> {
    let sub_graphs = if depth == 0 { Just(Vec::new()).boxed() } else { vec(plan(depth - 1), 0..2).boxed() };
    let node = (
        prop_oneof![Just(""), Just("com.microsoft"), Just("local")],
        "[A-Z][a-z]{1,6}",
        vec(proptest::option::weighted(0.9, any::<Index>()), 0..4),
        vec(proptest::option::weighted(0.9, proptest::option::of(value_type())), 1..4),
        vec(attribute(), 0..3),
        sub_graphs,
        note(),
    )
        .prop_map(|(domain, op, inputs, outputs, attributes, sub_graphs, note)| NodePlan {
            op: (domain.to_string(), op),
            inputs,
            outputs,
            attributes,
            sub_graphs,
            note,
        });
    let constants = vec((tensor(), any::<bool>()), 0..4);
    (vec(value_type(), 0..3), constants, vec(node, 0..6), vec(any::<Index>(), 0..3), note())
        .prop_map(|(inputs, constants, nodes, outputs, note)| Plan { inputs, constants, nodes, outputs, note })
        .boxed()
}

/// Builds the plan; names start with `prefix`, and `outer` names may be read from outside.
fn build(plan: &Plan, prefix: &str, outer: &[String]) -> Graph {
    let mut graph = Graph::new(&format!("{prefix}graph"));
    (graph.doc, graph.unknown) = (plan.note.clone(), unknown(&plan.note));
    graph.metadata = vec![(plan.note.clone(), plan.note.clone())];
    let mut names: Vec<String> = outer.to_vec();
    for (i, ty) in plan.inputs.iter().enumerate() {
        let id = graph.add_input(&format!("{prefix}x{i}"), ty.clone());
        graph.value_mut(id).declared = true;
        graph.value_mut(id).doc = plan.note.clone();
        names.push(graph.name_of(id).to_string());
    }
    for (i, (tensor, is_input)) in plan.constants.iter().enumerate() {
        let tensor = Tensor { name: String::new(), ..tensor.clone() };
        let id = graph.add_initializer(&format!("{prefix}c{i}"), tensor);
        if *is_input {
            graph.value_mut(id).declared = true;
            graph.make_input(id);
        }
        names.push(graph.name_of(id).to_string());
    }
    for (n, plan) in plan.nodes.iter().enumerate() {
        let inputs = plan.inputs.iter().map(|input| {
            let name = &names.get(input.as_ref()?.index(names.len().max(1)))?;
            Some(graph.intern(name))
        });
        let mut node = Node::new(&plan.op.1, []).in_domain(&plan.op.0);
        node.inputs = inputs.collect();
        node.name = plan.note.clone();
        node.doc = plan.note.clone();
        node.overload = plan.note.clone();
        node.metadata = vec![(plan.note.clone(), plan.note.clone())];
        node.unknown = unknown(&plan.note);
        for (i, value) in plan.attributes.iter().enumerate() {
            let mut attribute = Attribute::new(&format!("a{i}"), value.clone());
            if matches!(value, AttributeValue::Other(_)) {
                attribute.name = "a".into();
            } else {
                attribute.doc = plan.note.clone();
                attribute.unknown = unknown(&plan.note);
            }
            node.attributes.push(attribute);
        }
        let inner: Vec<Graph> = (plan.sub_graphs.iter().enumerate())
            .map(|(i, plan)| build(plan, &format!("{prefix}n{n}s{i}."), &names))
            .collect();
        for free in inner.iter().flat_map(free_names) {
            let id = graph.intern(&free);
            if !node.captures.contains(&id) {
                node.captures.push(id);
            }
        }
        match inner.len() {
            0 => {}
            1 => node.attributes.push(Attribute::new("body", inner.into_iter().next().unwrap())),
            _ => node.attributes.push(Attribute::new("bodies", AttributeValue::Graphs(inner))),
        }
        for (i, output) in plan.outputs.iter().enumerate() {
            let id = output.as_ref().map(|ty| {
                let id = graph.add_value(&format!("{prefix}v{n}.{i}"), ty.clone());
                graph.value_mut(id).declared = ty.is_some();
                names.push(graph.name_of(id).to_string());
                id
            });
            node.outputs.push(id);
        }
        graph.add_node(node);
    }
    for output in &plan.outputs {
        if !names.is_empty() {
            let id = graph.intern(&names[output.index(names.len())]);
            graph.value_mut(id).declared = true;
            graph.outputs.push(id);
        }
    }
    graph
}

fn free_names(graph: &Graph) -> Vec<String> {
    let free = |v: &crate::graph::ValueId| {
        let value = graph.value(*v);
        value.producer.is_none() && !value.is_input && value.initializer.is_none()
    };
    graph.value_ids().filter(free).map(|v| graph.name_of(v).to_string()).collect()
}

pub(crate) fn model(plan: &Plan, other: &Plan) -> Model {
    let mut body = build(&Plan { constants: Vec::new(), ..other.clone() }, "f.", &[]);
    let formal = |v: &mut crate::graph::Value| (v.ty, v.doc, v.declared) = (None, String::new(), false);
    for id in body.inputs.clone().iter().chain(&body.outputs.clone()) {
        formal(body.value_mut(*id));
    }
    (body.name, body.doc) = ("f".into(), String::new());
    (body.metadata, body.unknown) = (Vec::new(), Vec::new());
    let opset = |domain: &str, version| Opset { domain: domain.into(), version };
    let function = Function {
        domain: "local".into(),
        name: "f".into(),
        overload: other.note.clone(),
        attributes: vec!["alpha".into()],
        defaults: vec![Attribute::new("beta", 1.0f32)],
        opsets: vec![opset("", 18)],
        body,
        doc: other.note.clone(),
        metadata: vec![("k".into(), other.note.clone())],
        unknown: unknown(&other.note),
    };
    let training = TrainingInfo {
        initialization: Some(build(other, "i.", &[])),
        algorithm: Some(build(other, "t.", &["outside".to_string()])),
        initialization_binding: vec![("a".into(), "b".into())],
        update_binding: vec![("w".into(), "w.next".into())],
        unknown: unknown(&other.note),
    };
    Model {
        ir_version: 11,
        opsets: vec![opset("", 20), opset("local", 1)],
        producer_name: plan.note.clone(),
        producer_version: "1".into(),
        domain: other.note.clone(),
        model_version: -3,
        doc: plan.note.clone(),
        graph: build(plan, "", &[]),
        functions: vec![function],
        training: vec![training],
        metadata: vec![("k".into(), plan.note.clone())],
        unknown: unknown(&plan.note),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_models_survive_save_and_load(plan in plan(2), other in plan(1)) {
        let model = model(&plan, &other);
        let bytes = to_bytes(&model).unwrap();
        let again = parse(bytes.clone(), None).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(&again, &model);
        prop_assert!(to_bytes(&again).unwrap() == bytes, "the second file differs from the first");
    }

    #[test]
    fn damage_to_random_models_never_panics(
        plan in plan(1),
        flips in vec((any::<Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<Index>()),
    ) {
        damage(to_bytes(&model(&plan, &plan)).unwrap(), &flips, cut);
    }

    #[test]
    fn damage_to_real_models_never_panics(
        file in any::<Index>(),
        flips in vec((any::<Index>(), any::<u8>()), 1..20),
        cut in proptest::option::of(any::<Index>()),
    ) {
        let files = all_models();
        damage(std::fs::read(file.get(&files)).unwrap(), &flips, cut);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = parse(bytes, None);
    }
}

/// Either an error or a model that can be written and read again.
fn damage(mut bytes: Vec<u8>, flips: &[(Index, u8)], cut: Option<Index>) {
    for (at, value) in flips {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    if let Ok(model) = parse(bytes, None) {
        let once = to_bytes(&model).unwrap();
        let again = parse(once.clone(), None).unwrap();
        assert!(to_bytes(&again).unwrap() == once);
    }
}
