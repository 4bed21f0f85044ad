//! What differs between two models: nodes matched by what they compute, not by where they stand or how they are called.

use super::text::{node_line, type_text};
use super::{AttributeValue, Graph, Model, NodeId, Payload, Tensor, Value, ValueId};
use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHasher};
use std::fmt;
use std::hash::{Hash, Hasher};

/// The differences between two models.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    /// Lines only the first model has.
    pub removed: Vec<String>,
    /// Lines only the second model has.
    pub added: Vec<String>,
    /// Operator → how often it stands in each model, for operators whose count differs.
    pub operators: IndexMap<String, (usize, usize)>,
}

impl Diff {
    /// True when the models are equal up to node order and the names of inner values.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// Compares two models' graphs and functions.
pub fn diff(a: &Model, b: &Model) -> Diff {
    let mut result = Diff::default();
    graphs(&a.graph, &b.graph, &mut result);
    let functions = |m: &Model| -> Vec<(String, u64)> {
        m.functions
            .iter()
            .map(|f| (format!("function {}::{}", f.domain, f.name), Prints::new(&f.body, None).whole(&f.body)))
            .collect()
    };
    let (left, right) = (functions(a), functions(b));
    result.removed.extend(left.iter().filter(|f| !right.contains(f)).map(|f| f.0.clone()));
    result.added.extend(right.iter().filter(|f| !left.contains(f)).map(|f| f.0.clone()));
    let mut counts: IndexMap<String, (usize, usize)> = IndexMap::new();
    for (side, model) in [a, b].into_iter().enumerate() {
        for id in model.graph.node_ids() {
            let node = model.graph.node(id);
            let name = if node.domain.is_empty() {
                node.op_type.clone()
            } else {
                format!("{}::{}", node.domain, node.op_type)
            };
            let entry = counts.entry(name).or_default();
            *(if side == 0 { &mut entry.0 } else { &mut entry.1 }) += 1;
        }
    }
    counts.retain(|_, (x, y)| x != y);
    counts.sort_keys();
    result.operators = counts;
    result
}

fn graphs(a: &Graph, b: &Graph, result: &mut Diff) {
    let (left, right) = (Prints::new(a, None), Prints::new(b, None));
    let only = |g: &Graph, mine: &Prints, other: &Prints| -> Vec<String> {
        let mut budget = other.count.clone();
        let mut lines = Vec::new();
        for id in g.order().unwrap_or_else(|_| g.node_ids().collect()) {
            match budget.get_mut(&mine.nodes[&id]) {
                Some(n) if *n > 0 => *n -= 1,
                _ => lines.push(node_line(g, id)),
            }
        }
        lines
    };
    let interface = |g: &Graph| -> Vec<(String, u64)> {
        let text =
            |v: &Value| v.ty.as_ref().map_or_else(|| v.name.clone(), |t| format!("{}: {}", v.name, type_text(t)));
        let default = |v: &ValueId| g.value(*v).initializer.as_ref().map_or(0, tensor_print);
        let inputs = g.inputs.iter().map(|v| (format!("input {}", text(g.value(*v))), default(v)));
        // An output that is computed differently shows at the nodes; here only its name and type count.
        let outputs = g.outputs.iter().map(|v| (format!("output {}", text(g.value(*v))), 0));
        inputs.chain(outputs).collect()
    };
    let (x, y) = (interface(a), interface(b));
    let missing = |from: &[(String, u64)], other: &[(String, u64)]| -> Vec<String> {
        let known: rustc_hash::FxHashSet<&(String, u64)> = other.iter().collect();
        from.iter().filter(|line| !known.contains(line)).map(|line| line.0.clone()).collect()
    };
    result.removed.extend(missing(&x, &y));
    result.added.extend(missing(&y, &x));
    for (what, ours, theirs) in [("inputs", &a.inputs, &b.inputs), ("outputs", &a.outputs, &b.outputs)] {
        let names = |g: &Graph, ids: &[ValueId]| ids.iter().map(|v| g.name_of(*v).to_string()).collect::<Vec<_>>();
        let (ours, theirs) = (names(a, ours), names(b, theirs));
        let sorted = |names: &[String]| names.iter().cloned().collect::<std::collections::BTreeSet<_>>();
        if ours != theirs && ours.len() == theirs.len() && sorted(&ours) == sorted(&theirs) {
            result.removed.push(format!("{what} in the order {}", ours.join(", ")));
            result.added.push(format!("{what} in the order {}", theirs.join(", ")));
        }
    }
    let (gone, new) = (only(a, &left, &right), only(b, &right, &left));
    if gone.is_empty() && new.is_empty() {
        // The same nodes may still feed other outputs.
        for v in &a.outputs {
            let name = a.name_of(*v);
            let other = b.value_named(name).filter(|w| b.outputs.contains(w));
            if other.is_some_and(|w| left.values.get(v) != right.values.get(&w)) {
                result.removed.push(format!("output {name}, computed by another node"));
            }
        }
    }
    result.removed.extend(gone);
    result.added.extend(new);
}

fn tensor_print(tensor: &Tensor) -> u64 {
    match &tensor.payload {
        Payload::Raw(bytes) => hashed((tensor.dtype.0, &tensor.dims, &bytes[..])),
        Payload::Strings(strings) => hashed((tensor.dtype.0, &tensor.dims, strings)),
    }
}

/// Fingerprints: of a value, what it is computed from; of a node, its operator, attributes and arguments.
struct Prints {
    values: FxHashMap<ValueId, u64>,
    nodes: FxHashMap<NodeId, u64>,
    count: FxHashMap<u64, usize>,
}

fn hashed(parts: impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    parts.hash(&mut hasher);
    hasher.finish()
}

impl Prints {
    /// `outer` is the graph that a sub-graph stands in, with the fingerprints known there.
    fn new(g: &Graph, outer: Option<(&Graph, &Prints)>) -> Self {
        let mut prints =
            Prints { values: FxHashMap::default(), nodes: FxHashMap::default(), count: FxHashMap::default() };
        for id in g.value_ids().filter(|v| g.value(*v).producer.is_none()) {
            let value = g.value(id);
            let print = match (&value.initializer, value.is_input) {
                (Some(t), false) => tensor_print(t),
                // A sub-graph's inputs are known by their place, a graph's by their names.
                (_, true) if outer.is_some() => hashed(("formal", g.inputs.iter().position(|v| *v == id))),
                _ => {
                    let captured = outer.and_then(|(o, prints)| prints.values.get(&o.value_named(&value.name)?));
                    captured.copied().unwrap_or_else(|| hashed(("input", &value.name)))
                }
            };
            prints.values.insert(id, print);
        }
        for id in g.order().unwrap_or_else(|_| g.node_ids().collect()) {
            let node = g.node(id);
            let arguments: Vec<Option<u64>> =
                node.inputs.iter().map(|v| v.map(|v| prints.values.get(&v).copied().unwrap_or_default())).collect();
            let mut attributes: Vec<u64> =
                node.attributes.iter().map(|a| hashed((&a.name, attribute_print(&a.value, g, &prints)))).collect();
            attributes.sort_unstable();
            let own = hashed((&node.domain, &node.op_type, arguments, attributes));
            for (slot, v) in node.outputs.iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?))) {
                prints.values.insert(v, hashed((own, slot)));
            }
            prints.nodes.insert(id, own);
            *prints.count.entry(own).or_default() += 1;
        }
        prints
    }

    fn whole(&self, g: &Graph) -> u64 {
        let mut nodes: Vec<u64> = self.nodes.values().copied().collect();
        nodes.sort_unstable();
        let outputs: Vec<u64> = g.outputs.iter().map(|v| self.values.get(v).copied().unwrap_or_default()).collect();
        hashed((nodes, outputs))
    }
}

/// An attribute by its content: tensors by their bytes, sub-graphs by what they compute.
fn attribute_print(value: &AttributeValue, outer: &Graph, prints: &Prints) -> u64 {
    let graph = |g: &Graph| Prints::new(g, Some((outer, prints))).whole(g);
    match value {
        AttributeValue::Tensor(t) => tensor_print(t),
        AttributeValue::Tensors(list) => hashed(list.iter().map(tensor_print).collect::<Vec<_>>()),
        AttributeValue::Graph(g) => graph(g),
        AttributeValue::Graphs(list) => hashed(list.iter().map(graph).collect::<Vec<_>>()),
        other => hashed(format!("{other:?}")),
    }
}

/// Most lines shown of each side.
const SHOWN: usize = 400;

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sign, lines) in [('-', &self.removed), ('+', &self.added)] {
            for line in lines.iter().take(SHOWN) {
                writeln!(f, "{sign} {line}")?;
            }
            if lines.len() > SHOWN {
                writeln!(f, "{sign} … and {} more", lines.len() - SHOWN)?;
            }
        }
        if !self.operators.is_empty() {
            writeln!(f, "\n{:<36} {:>7} {:>7} {:>7}", "operator", "before", "after", "change")?;
            for (name, (before, after)) in &self.operators {
                writeln!(f, "{name:<36} {before:>7} {after:>7} {:>+7}", *after as i64 - *before as i64)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DType, Node, Tensor, ValueType};
    use super::*;

    fn model(build: impl FnOnce(&mut Graph, ValueId)) -> Model {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", ValueType::tensor(DType::F32, &[2]));
        build(&mut graph, x);
        Model { ir_version: 8, graph, ..Model::default() }
    }

    fn two_branches(swap: bool, constant: f32) -> Model {
        model(|g, x| {
            let c = g.add_initializer(if swap { "k" } else { "c" }, Tensor::f32([], &[constant]));
            let mut branch = |op: &str| {
                let [a] = g.add(Node::new(op, [x]), [if swap { "p" } else { "q" }]);
                g.add(Node::new("Mul", [a, c]), [op])[0]
            };
            let mut outputs = if swap { ["Neg", "Abs"].map(&mut branch) } else { ["Abs", "Neg"].map(&mut branch) };
            if swap {
                outputs.reverse();
            }
            g.outputs.extend(outputs);
        })
    }

    #[test]
    fn order_and_inner_names_do_not_matter() {
        let (a, b) = (two_branches(false, 2.0), two_branches(true, 2.0));
        assert!(diff(&a, &b).is_empty(), "{}", diff(&a, &b));
        assert!(diff(&a, &a).is_empty());
    }

    #[test]
    fn a_constant_an_operator_and_an_interface_matter() {
        let a = two_branches(false, 2.0);
        assert!(!diff(&a, &two_branches(false, 3.0)).is_empty());
        let relu = model(|g, x| {
            let [y] = g.add(Node::new("Relu", [x]), ["y"]);
            g.outputs.push(y);
        });
        let neg = model(|g, x| {
            let [y] = g.add(Node::new("Neg", [x]), ["y"]);
            g.outputs.push(y);
        });
        let d = diff(&relu, &neg);
        assert_eq!(d.removed, ["y = Relu(x)"]);
        assert_eq!(d.added, ["y = Neg(x)"]);
        assert!(d.to_string().contains("Relu") && d.to_string().contains("-1"));
        let swapped = model(|g, x| {
            let [a] = g.add(Node::new("Relu", [x]), ["q"]);
            let [b] = g.add(Node::new("Neg", [x]), ["p"]);
            g.outputs.extend([b, a]);
        });
        let straight = model(|g, x| {
            let [a] = g.add(Node::new("Relu", [x]), ["p"]);
            let [b] = g.add(Node::new("Neg", [x]), ["q"]);
            g.outputs.extend([a, b]);
        });
        assert!(!diff(&straight, &swapped).is_empty());
        let mut other_order = straight.clone();
        other_order.graph.outputs.reverse();
        assert_eq!(diff(&straight, &other_order).added, ["outputs in the order q, p"]);
        let text =
            |s: &str| Tensor { payload: Payload::Strings(vec![s.into()]), ..Tensor::raw(DType::STRING, [1], vec![]) };
        let labelled = |s: &str| {
            model(|g, x| {
                let c = g.add_initializer("c", text(s));
                let [y] = g.add(Node::new("Label", [x, c]), ["y"]);
                g.outputs.push(y);
            })
        };
        assert!(diff(&labelled("cat"), &labelled("cat")).is_empty());
        assert!(!diff(&labelled("cat"), &labelled("dog")).is_empty());
        let mut wider = relu.clone();
        wider.graph.add_input("z", ValueType::tensor(DType::F32, &[3]));
        assert_eq!(diff(&relu, &wider).added, ["input z: f32[3]"]);
    }
}
