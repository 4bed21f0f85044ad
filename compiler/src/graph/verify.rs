//! Checks that a graph is what every other part takes it to be.

use super::{AttributeValue, DType, Graph, Model, Node, Payload, Tensor};
use rustc_hash::FxHashSet;

/// What is wrong with a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A cycle.
    #[error("node '{0}' lies on a cycle")]
    Cyclic(String),
    /// A value nobody provides.
    #[error("node '{node}' reads '{value}', which nothing provides")]
    Unsourced {
        /// Reader.
        node: String,
        /// Value.
        value: String,
    },
    /// An output nobody computes.
    #[error("the output '{0}' is computed by nothing")]
    Output(String),
    /// A value that two nodes compute, or that is a node's output and an input or initializer too.
    #[error("'{0}' is provided more than once")]
    Provided(String),
    /// Too few or too many inputs.
    #[error("node '{node}' ({op}) has {count} inputs, which the operator does not take")]
    Arity {
        /// Node.
        node: String,
        /// Operator.
        op: String,
        /// Inputs it has.
        count: usize,
    },
    /// Inputs whose element types must agree and do not.
    #[error("node '{node}' ({op}) reads inputs of different element types, {first} and {second}")]
    DType {
        /// Node.
        node: String,
        /// Operator.
        op: String,
        /// Element type of the first input.
        first: DType,
        /// Element type of the second input.
        second: DType,
    },
    /// An elementwise operator whose inputs do not fit each other, or whose result is declared with another shape.
    #[error("node '{node}' ({op}) {what}; export the model again")]
    Shape {
        /// Node.
        node: String,
        /// Operator.
        op: String,
        /// What does not fit.
        what: String,
    },
    /// A tensor whose data does not fit its shape.
    #[error("the tensor '{0}' does not have the data its shape asks for")]
    Tensor(String),
}

/// Verifies a model: its graph, all sub-graphs, the bodies of its functions and its training graphs. Each must be acyclic,
/// have exactly one source for every value that is read or given out, initializers that fit their shapes, and, for
/// the common operators, as many inputs as the operator takes, of agreeing element types, and for elementwise ones,
/// shapes that agree as far as they are known.
///
/// # Errors
/// The first violation.
pub fn verify(model: &Model) -> Result<(), VerifyError> {
    let none = FxHashSet::default();
    graph(&model.graph, &none)?;
    for function in &model.functions {
        graph(&function.body, &none)?;
    }
    // A training algorithm reads the initializers and outputs of the main graph by name.
    let main: FxHashSet<&str> = model.graph.value_ids().map(|v| model.graph.name_of(v)).collect();
    for info in &model.training {
        info.initialization.iter().chain(&info.algorithm).try_for_each(|g| graph(g, &main))?;
    }
    Ok(())
}

fn graph(g: &Graph, outer: &FxHashSet<&str>) -> Result<(), VerifyError> {
    let name = |node: &Node| {
        if node.name.is_empty() {
            node.output(0).map_or_else(String::new, |v| g.name_of(v).to_string())
        } else {
            node.name.clone()
        }
    };
    g.order().map_err(|cycle| VerifyError::Cyclic(cycle.first().map_or_else(String::new, |n| name(g.node(*n)))))?;
    let sourced = |v| {
        let value = g.value(v);
        let here = value.producer.is_some() || value.is_input || value.initializer.is_some();
        // A sparse initializer is a source whose content the IR carries verbatim.
        here || outer.contains(value.name.as_str()) || !g.unknown.is_empty()
    };
    for id in g.node_ids() {
        let node = g.node(id);
        let mut reads = node.inputs.iter().flatten().chain(&node.captures);
        if let Some(value) = reads.find(|v| !sourced(**v)) {
            return Err(VerifyError::Unsourced { node: name(node), value: g.name_of(*value).to_string() });
        }
        for (slot, value) in node.outputs.iter().enumerate().filter_map(|(slot, v)| Some((slot, (*v)?))) {
            let info = g.value(value);
            if info.producer != Some((id, slot)) || info.is_input || info.initializer.is_some() {
                return Err(VerifyError::Provided(g.name_of(value).to_string()));
            }
        }
        operator(g, node, &name)?;
        attributes(g, node, &name)?;
    }
    if let Some(value) = g.outputs.iter().find(|v| !sourced(**v)) {
        return Err(VerifyError::Output(g.name_of(*value).to_string()));
    }
    match g.initializers().find(|(_, tensor)| !fits(tensor)) {
        Some((id, _)) => Err(VerifyError::Tensor(g.name_of(id).to_string())),
        None => Ok(()),
    }
}

/// Fewest and most inputs over all versions of an operator, and whether the first two must share their element type.
fn signature(op: &str) -> Option<(usize, usize, bool)> {
    Some(match op {
        "Add" | "Sub" | "Mul" | "Div" | "MatMul" | "Equal" | "Less" | "Greater" => (2, 2, true),
        "Gemm" | "Conv" => (2, 3, true),
        "Pow" | "Gather" | "GatherElements" | "Expand" => (2, 2, false),
        "Where" => (3, 3, false),
        "Abs" | "Cast" | "Exp" | "Identity" | "Log" | "Neg" | "Not" | "Relu" | "Sigmoid" | "Sqrt" | "Tanh"
        | "Transpose" | "Softmax" | "LogSoftmax" | "Flatten" | "Shape" | "Size" | "Sign" | "Reciprocal" => {
            (1, 1, false)
        }
        _ => return None,
    })
}

fn operator(g: &Graph, node: &Node, name: &impl Fn(&Node) -> String) -> Result<(), VerifyError> {
    let Some((least, most, same)) = signature(&node.op_type).filter(|_| node.domain.is_empty()) else { return Ok(()) };
    let count = node.inputs.len();
    if !(least..=most).contains(&count) || node.inputs[..least].contains(&None) {
        return Err(VerifyError::Arity {
            node: name(node),
            op: node.op_type.clone(),
            count: node.inputs.iter().flatten().count(),
        });
    }
    let dtype = |slot| g.value(node.input(slot)?).dtype();
    match (dtype(0), dtype(1)) {
        (Some(first), Some(second)) if same && first != second => {
            Err(VerifyError::DType { node: name(node), op: node.op_type.clone(), first, second })
        }
        _ => shapes(g, node).map_err(|what| VerifyError::Shape { node: name(node), op: node.op_type.clone(), what }),
    }
}

/// Checks an elementwise operator whose shapes are all made of numbers.
fn shapes(g: &Graph, node: &Node) -> Result<(), String> {
    let elementwise = "Add Sub Mul Div Pow Abs Exp Log Neg Relu Sigmoid Sqrt Tanh Sign Reciprocal Identity";
    let known = node.inputs.iter().flatten().all(|v| g.value(*v).has_dims());
    let Some(result) = node.output(0).filter(|v| known && g.value(*v).has_dims()) else { return Ok(()) };
    if !elementwise.split(' ').any(|op| op == node.op_type) {
        return Ok(());
    }
    let inputs: Vec<Vec<usize>> = node.inputs.iter().flatten().filter_map(|v| g.value(*v).dims()).collect();
    let mut shape = vec![1; inputs.iter().map(Vec::len).max().unwrap_or(0)];
    for dims in &inputs {
        for (all, one) in shape.iter_mut().rev().zip(dims.iter().rev()) {
            match (*all, *one) {
                (1, n) => *all = n,
                (n, m) if m == n || m == 1 => {}
                _ => return Err(format!("reads shapes that do not fit each other: {inputs:?}")),
            }
        }
    }
    let declared = g.value(result).dims().unwrap_or_default();
    if declared == shape {
        return Ok(());
    }
    Err(format!("computes the shape {shape:?}, but its result '{}' is declared as {declared:?}", g.name_of(result)))
}

fn attributes(g: &Graph, node: &Node, name: &impl Fn(&Node) -> String) -> Result<(), VerifyError> {
    let captured = || node.captures.iter().map(|v| g.name_of(*v)).collect::<FxHashSet<&str>>();
    for attribute in &node.attributes {
        let bad = match &attribute.value {
            AttributeValue::Graph(inner) => {
                graph(inner, &captured())?;
                false
            }
            AttributeValue::Graphs(list) => {
                list.iter().try_for_each(|inner| graph(inner, &captured()))?;
                false
            }
            AttributeValue::Tensor(tensor) => !fits(tensor),
            AttributeValue::Tensors(list) => !list.iter().all(fits),
            _ => false,
        };
        if bad {
            return Err(VerifyError::Tensor(format!("{}.{}", name(node), attribute.name)));
        }
    }
    Ok(())
}

fn fits(tensor: &Tensor) -> bool {
    let Some(len) = tensor.dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)) else { return false };
    match &tensor.payload {
        Payload::Raw(bytes) => tensor.dtype.byte_len(len) == Some(bytes.len()),
        Payload::Strings(list) => list.len() == len,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ValueType;
    use super::*;

    fn model(build: impl FnOnce(&mut Graph)) -> Result<(), String> {
        let mut graph = Graph::new("g");
        build(&mut graph);
        verify(&Model { graph, ..Model::default() }).map_err(|e| e.to_string())
    }

    fn said(text: &str) -> Result<(), String> {
        Err(text.to_string())
    }

    fn branch(reads: &str) -> Graph {
        let mut inner = Graph::new("branch");
        let x = inner.intern(reads);
        let [y] = inner.add(Node::new("Neg", [x]), ["y"]);
        inner.outputs.push(y);
        inner
    }

    #[test]
    fn every_model_is_in_order() {
        for path in crate::onnx::all_models() {
            verify(&crate::onnx::load(&path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    #[test]
    fn values_have_exactly_one_source() {
        let nothing = model(|g| {
            let x = g.intern("x");
            g.add(Node::new("Neg", [x]), ["y"]);
        });
        assert_eq!(nothing, said("node 'y' reads 'x', which nothing provides"));
        let output = model(|g| {
            let y = g.intern("y");
            g.outputs.push(y);
        });
        assert_eq!(output, said("the output 'y' is computed by nothing"));
        let twice = model(|g| {
            let x = g.add_input("x", ValueType::tensor(DType::F32, &[]));
            let [y] = g.add(Node::new("Neg", [x]), ["y"]);
            g.add_node(Node { outputs: vec![Some(y)], ..Node::new("Abs", [x]) });
        });
        assert_eq!(twice, said("'y' is provided more than once"));
        let input = model(|g| {
            let x = g.add_input("x", ValueType::tensor(DType::F32, &[]));
            let y = g.add_input("y", ValueType::tensor(DType::F32, &[]));
            g.add_node(Node { outputs: vec![Some(y)], ..Node::new("Abs", [x]) });
        });
        assert_eq!(input, said("'y' is provided more than once"));
    }

    #[test]
    fn cycles_are_named() {
        let cyclic = model(|g| {
            let b = g.add_value("b", None);
            let [a] = g.add(Node::new("Neg", [b]), ["a"]);
            g.add_node(Node { outputs: vec![Some(b)], ..Node::new("Neg", [a]) });
        });
        assert_eq!(cyclic, said("node 'a' lies on a cycle"));
    }

    #[test]
    fn operators_take_what_they_take() {
        let arity = model(|g| {
            let x = g.add_input("x", ValueType::tensor(DType::F32, &[]));
            g.add(Node::new("Add", [x]), ["y"]);
        });
        assert_eq!(arity, said("node 'y' (Add) has 1 inputs, which the operator does not take"));
        let dtype = model(|g| {
            let x = g.add_input("x", ValueType::tensor(DType::F32, &[]));
            let n = g.add_input("n", ValueType::tensor(DType::I64, &[]));
            g.add(Node::new("Mul", [x, n]), ["y"]);
        });
        assert!(dtype.unwrap_err().starts_with("node 'y' (Mul) reads inputs of different element types"));
        let foreign = model(|g| {
            let x = g.add_input("x", ValueType::tensor(DType::F32, &[]));
            g.add(Node::new("Add", [x]).in_domain("elsewhere"), ["y"]);
        });
        assert_eq!(foreign, Ok(()));
    }

    #[test]
    fn elementwise_results_have_the_shape_of_their_operands() {
        let add = |a: &[usize], b: &[usize], result: &[usize]| {
            model(|g| {
                let a = g.add_input("a", ValueType::tensor(DType::F32, a));
                let b = g.add_input("b", ValueType::tensor(DType::F32, b));
                let [y] = g.add(Node::new("Add", [a, b]), ["y"]);
                g.value_mut(y).ty = Some(ValueType::tensor(DType::F32, result));
            })
        };
        assert_eq!(add(&[4, 1, 3], &[2, 3], &[4, 2, 3]), Ok(()));
        assert_eq!(add(&[], &[0, 3], &[0, 3]), Ok(()));
        let declared = add(&[4], &[4], &[5]).unwrap_err();
        assert!(
            declared.contains("'y' (Add) computes the shape [4], but its result 'y' is declared as [5]"),
            "{declared}"
        );
        assert!(add(&[4], &[3], &[4]).unwrap_err().contains("do not fit each other: [[4], [3]]"));
    }

    #[test]
    fn sub_graphs_see_what_their_node_captures_and_no_more() {
        let build = |reads: &str| {
            model(|g| {
                let c = g.add_input("c", ValueType::tensor(DType::BOOL, &[]));
                let x = g.add_input("x", ValueType::tensor(DType::F32, &[]));
                let node = Node::new("If", [c]).with("then_branch", branch("x")).with("else_branch", branch(reads));
                g.add(Node { captures: vec![x], ..node }, ["out"]);
            })
        };
        assert_eq!(build("x"), Ok(()));
        assert_eq!(build("z"), said("node 'y' reads 'z', which nothing provides"));
    }

    #[test]
    fn tensors_have_the_data_their_shapes_ask_for() {
        let short = model(|g| {
            g.add_initializer("w", Tensor::raw(DType::F32, [2], vec![0u8; 7]));
        });
        assert_eq!(short, said("the tensor 'w' does not have the data its shape asks for"));
        let huge = model(|g| {
            g.add_initializer("w", Tensor::raw(DType::F32, [1usize << 32, 1usize << 32], Vec::<u8>::new()));
        });
        assert_eq!(huge, said("the tensor 'w' does not have the data its shape asks for"));
        let attribute = model(|g| {
            g.add(Node::new("Constant", []).with("value", Tensor::raw(DType::F32, [3], vec![0u8; 4])), ["k"]);
        });
        assert_eq!(attribute, said("the tensor 'k.value' does not have the data its shape asks for"));
    }
}
