use super::*;
use crate::graph::{Attribute, DType, Opset, Tensor, ValueId, ValueType};
use crate::onnx::{parse, to_bytes};

fn standard(version: i64) -> Vec<Opset> {
    vec![Opset { domain: String::new(), version }]
}

fn function(name: &str, body: Graph) -> Function {
    Function {
        domain: "local".into(),
        name: name.into(),
        overload: String::new(),
        attributes: Vec::new(),
        defaults: Vec::new(),
        opsets: standard(18),
        body,
        doc: String::new(),
        metadata: Vec::new(),
        unknown: Vec::new(),
    }
}

fn f32() -> ValueType {
    ValueType::tensor(DType::F32, &[])
}

/// `y = op(x)` in a graph with that input and that output.
fn unary(op: Node) -> Graph {
    let mut body = Graph::new("body");
    let x = body.add_value("x", None);
    body.make_input(x);
    let [y] = body.add(Node { inputs: vec![Some(x)], ..op }, ["y"]);
    body.outputs.push(y);
    body
}

fn call(name: &str) -> Node {
    Node { name: format!("call_{name}"), ..Node::new(name, []).in_domain("local") }
}

fn model(graph: Graph, functions: Vec<Function>) -> Model {
    let mut opsets = standard(18);
    opsets.push(Opset { domain: "local".into(), version: 1 });
    Model { ir_version: 10, opsets, graph, functions, ..Model::default() }
}

fn inlined(mut model: Model) -> Model {
    inline_functions(&mut model, |_| false).unwrap();
    assert!(model.functions.is_empty());
    // What comes out can be written and read: one source for each value, no cycle.
    parse(to_bytes(&model).unwrap(), None).unwrap()
}

fn ops(graph: &Graph) -> Vec<String> {
    graph.order().unwrap().iter().map(|n| graph.node(*n).op_type.clone()).collect()
}

fn producer(graph: &Graph, value: ValueId) -> &Node {
    graph.producer(value).unwrap().1
}

#[test]
fn nested_calls_get_names_of_their_own() {
    let inner = function("inner", unary(Node::new("Neg", [])));
    let mut body = Graph::new("outer");
    let x = body.add_value("x", None);
    body.make_input(x);
    let [a] = body.add(Node { inputs: vec![Some(x)], ..call("inner") }, ["a"]);
    let [b] = body.add(Node { inputs: vec![Some(a)], ..call("inner") }, ["b"]);
    body.value_mut(a).ty = Some(ValueType::tensor(DType::F32, &[3]));
    body.value_mut(a).declared = true;
    body.outputs.push(b);
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", f32());
    // A name that the expansion would like to use.
    let [taken] = graph.add(Node::new("Relu", [x]), ["call_outer/a"]);
    let [p] = graph.add(Node { inputs: vec![Some(taken)], ..call("outer") }, ["p"]);
    let [q] = graph.add(Node { inputs: vec![Some(p)], ..call("outer") }, ["q"]);
    graph.outputs.push(q);
    let result = inlined(model(graph, vec![function("outer", body), inner]));
    assert_eq!(ops(&result.graph), ["Relu", "Neg", "Neg", "Neg", "Neg"]);
    let mut value = result.graph.outputs[0];
    for _ in 0..4 {
        value = producer(&result.graph, value).input(0).unwrap();
    }
    assert_eq!(result.graph.name_of(value), "call_outer/a");
    let typed = result.graph.value_ids().filter(|v| result.graph.value(*v).dims() == Some(vec![3])).count();
    assert_eq!(typed, 2, "the body's types are kept");
}

#[test]
fn attribute_references_take_the_call_then_the_default_then_nothing() {
    let mut body = Graph::new("body");
    let x = body.add_value("x", None);
    body.make_input(x);
    let refer = |name: &str, kind| Attribute::new(name, AttributeValue::Ref { name: name.into(), kind });
    let mut node = Node::new("LeakyRelu", [x]);
    node.attributes = vec![refer("alpha", 1), refer("beta", 1), refer("gamma", 1)];
    let [y] = body.add(node, ["y"]);
    body.outputs.push(y);
    let mut f = function("f", body);
    f.attributes = vec!["gamma".into()];
    f.defaults = vec![Attribute::new("alpha", 0.5f32), Attribute::new("beta", 0.25f32)];
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", f32());
    let [y] = graph.add(Node { inputs: vec![Some(x)], ..call("f") }.with("alpha", 2.0f32), ["y"]);
    graph.outputs.push(y);
    let result = inlined(model(graph, vec![f]));
    let node = producer(&result.graph, result.graph.outputs[0]);
    assert_eq!((node.float("alpha"), node.float("beta"), node.attribute("gamma")), (Some(2.0), Some(0.25), None));
}

#[test]
fn a_constant_without_its_value_is_refused() {
    let mut body = Graph::new("body");
    let mut node = Node::new("Constant", []);
    node.attributes = vec![Attribute::new("value_float", AttributeValue::Ref { name: "c".into(), kind: 1 })];
    let [y] = body.add(node, ["y"]);
    body.outputs.push(y);
    let mut graph = Graph::new("g");
    let [y] = graph.add(call("f"), ["y"]);
    graph.outputs.push(y);
    let error = inline_functions(&mut model(graph, vec![function("f", body)]), |_| false).unwrap_err();
    assert_eq!(error.to_string(), "a call of the function f lacks the attribute c; export the model again");
}

/// `if c then op(x) else x` reading `c` and `x` from outside.
fn branches(op: Node, x: &str) -> Node {
    let mut then = Graph::new("then");
    let outer = then.add_value(x, None);
    let [t] = then.add(Node { inputs: vec![Some(outer)], ..op }, ["t"]);
    then.outputs.push(t);
    let mut other = Graph::new("else");
    let outer = other.add_value(x, None);
    let [e] = other.add(Node::new("Identity", [outer]), ["e"]);
    other.outputs.push(e);
    Node::new("If", []).with("then_branch", then).with("else_branch", other)
}

#[test]
fn sub_graphs_of_bodies_follow_the_new_names_and_attributes() {
    let mut body = Graph::new("body");
    let [c, x] = ["c", "x"].map(|name| body.add_value(name, None));
    body.make_input(c);
    body.make_input(x);
    let [local] = body.add(Node::new("Neg", [x]), ["local"]);
    let mut leaky = Node::new("LeakyRelu", []);
    leaky.attributes = vec![Attribute::new("alpha", AttributeValue::Ref { name: "a".into(), kind: 1 })];
    let node = Node { inputs: vec![Some(c)], captures: vec![local], ..branches(leaky, "local") };
    let [y] = body.add(node, ["y"]);
    body.outputs.push(y);
    let mut graph = Graph::new("g");
    let c = graph.add_input("cond", ValueType::tensor(DType::BOOL, &[]));
    // The caller has values called like those of the body and of its branches.
    let x = graph.add_input("local", f32());
    let [t] = graph.add(Node::new("Abs", [x]), ["t"]);
    let mut value = t;
    for name in ["y", "z"] {
        let node = Node { inputs: vec![Some(c), Some(value)], ..call("f") }.with("a", 0.5f32);
        [value] = graph.add(node, [name]);
    }
    graph.outputs.push(value);
    let result = inlined(model(graph, vec![function("f", body)])).graph;
    assert_eq!(ops(&result), ["Abs", "Neg", "If", "Neg", "If"]);
    let mut seen = FxHashSet::default();
    for id in result.node_ids().filter(|n| result.node(*n).op_type == "If") {
        let node = result.node(id);
        assert_eq!(node.captures.len(), 1);
        assert_eq!(producer(&result, node.captures[0]).op_type, "Neg");
        for branch in sub_graphs(node) {
            let (_, inner) = branch.producer(branch.outputs[0]).unwrap();
            assert_eq!(branch.name_of(inner.input(0).unwrap()), result.name_of(node.captures[0]));
            assert!(inner.op_type != "LeakyRelu" || inner.float("alpha") == Some(0.5));
            let name = branch.name_of(branch.outputs[0]).to_string();
            assert!(result.value_named(&name).is_none() && seen.insert(name), "names are unique over all scopes");
        }
    }
}

#[test]
fn calls_inside_sub_graphs_are_expanded() {
    let mut graph = Graph::new("g");
    let c = graph.add_input("c", ValueType::tensor(DType::BOOL, &[]));
    let x = graph.add_input("x", f32());
    let node = Node { inputs: vec![Some(c)], captures: vec![x], ..branches(call("f"), "x") };
    let [y] = graph.add(node, ["y"]);
    graph.outputs.push(y);
    let result = inlined(model(graph, vec![function("f", unary(Node::new("Neg", [])))])).graph;
    let node = producer(&result, result.outputs[0]);
    assert_eq!(sub_graphs(node).map(ops).collect::<Vec<_>>(), [["Neg"], ["Identity"]]);
}

#[test]
fn outputs_that_are_inputs_and_outputs_that_stand_twice_are_carried_over() {
    let mut body = Graph::new("body");
    let x = body.add_value("x", None);
    body.make_input(x);
    let [y] = body.add(Node::new("Neg", [x]), ["y"]);
    body.outputs = vec![x, y, y];
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", f32());
    let outputs = graph.add(Node { inputs: vec![Some(x)], ..call("f") }, ["a", "b", "c"]);
    graph.outputs = outputs.to_vec();
    let result = inlined(model(graph, vec![function("f", body)])).graph;
    let made = result.outputs.iter().map(|v| producer(&result, *v).op_type.as_str()).collect::<Vec<_>>();
    assert_eq!(made, ["Identity", "Neg", "Identity"]);
    assert_eq!(producer(&result, result.outputs[0]).input(0), Some(result.inputs[0]));
    assert_eq!(producer(&result, result.outputs[2]).input(0), Some(result.outputs[1]));
}

#[test]
fn omitted_inputs_stay_omitted() {
    let mut body = Graph::new("body");
    let [x, low, high] = ["x", "low", "high"].map(|name| body.add_value(name, None));
    [x, low, high].into_iter().for_each(|v| body.make_input(v));
    let [y] = body.add(Node::new("Clip", [x, low, high]), ["y"]);
    body.outputs.push(y);
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", f32());
    let one = graph.add_initializer("one", Tensor::f32([], &[1.0]));
    let [y] = graph.add(Node { inputs: vec![Some(x), None, Some(one)], ..call("f") }, ["y"]);
    graph.outputs.push(y);
    let result = inlined(model(graph, vec![function("f", body)])).graph;
    let node = producer(&result, result.outputs[0]);
    assert_eq!(node.inputs.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn kept_calls_keep_their_functions_and_what_those_call() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", f32());
    let [a] = graph.add(Node { inputs: vec![Some(x)], ..call("outer") }, ["a"]);
    let [b] = graph.add(Node { inputs: vec![Some(a)], ..call("other") }, ["b"]);
    graph.outputs.push(b);
    let functions = vec![
        function("outer", unary(call("inner"))),
        function("inner", unary(Node::new("Neg", []))),
        function("other", unary(Node::new("Abs", []))),
    ];
    let mut model = model(graph, functions);
    inline_functions(&mut model, |node| node.op_type == "outer").unwrap();
    assert_eq!(model.functions.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["outer", "inner"]);
    assert_eq!(ops(&model.graph), ["outer", "Abs"]);
}

#[test]
fn recursion_growth_arity_and_versions_are_refused() {
    let one_call = |functions: Vec<Function>| {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", f32());
        let [y] = graph.add(Node { inputs: vec![Some(x)], ..call("f0") }, ["y"]);
        graph.outputs.push(y);
        inline_functions(&mut model(graph, functions), |_| false).unwrap_err().to_string()
    };
    let around = vec![function("f0", unary(call("f1"))), function("f1", unary(call("f0")))];
    assert!(one_call(around).contains("calls itself"));
    let doubling = |i: usize| {
        let mut body = Graph::new("body");
        let x = body.add_value("x", None);
        body.make_input(x);
        let callee = format!("f{}", i + 1);
        let [y] = body.add(Node { inputs: vec![Some(x)], ..call(&callee) }, ["y"]);
        let [z] = body.add(Node { inputs: vec![Some(y)], ..call(&callee) }, ["z"]);
        body.outputs.push(z);
        function(&format!("f{i}"), body)
    };
    let mut doublings: Vec<Function> = (0..40).map(doubling).collect();
    doublings.push(function("f40", unary(Node::new("Neg", []))));
    assert!(one_call(doublings).contains("1099511627776 nodes"));
    let chain = (0..100_000).map(|i| function(&format!("f{i}"), unary(call(&format!("f{}", i + 1))))).collect();
    assert!(one_call(chain).contains("200 deep"));
    let mut empty = Graph::new("body");
    let [y] = empty.add(Node::new("Constant", []).with("value_float", 1.0f32), ["y"]);
    empty.outputs.push(y);
    assert!(one_call(vec![function("f0", empty)]).contains("more inputs or outputs"));
    let old = Function { opsets: standard(13), ..function("f0", unary(Node::new("Neg", []))) };
    assert!(one_call(vec![old]).contains("version 13 of the operator set 'ai.onnx', the model for version 18"));
}
