//! Equality of graphs as they would stand in a file; equality up to node order and inner names is what `diff` is for.

use super::{Graph, Node, NodeId, Tensor, Value, ValueId, ValueType};

/// A node with its values' names in place of their numbers.
#[derive(PartialEq)]
struct NamedNode<'g> {
    node: Node,
    inputs: Vec<Option<&'g str>>,
    outputs: Vec<Option<&'g str>>,
    captures: Vec<&'g str>,
}

/// What a file says of one value.
#[derive(PartialEq)]
struct NamedValue<'g> {
    name: &'g str,
    /// Only where it was declared: an inferred type is not part of the model.
    ty: Option<&'g ValueType>,
    is_input: bool,
    initializer: Option<&'g Tensor>,
    doc: &'g str,
    metadata: &'g [(String, String)],
    unknown: &'g [u8],
}

fn named_node(graph: &Graph, id: NodeId) -> NamedNode<'_> {
    let node = graph.node(id);
    let name = |v: &Option<ValueId>| v.map(|v| graph.name_of(v));
    NamedNode {
        inputs: node.inputs.iter().map(name).collect(),
        outputs: node.outputs.iter().map(name).collect(),
        captures: node.captures.iter().map(|v| graph.name_of(*v)).collect(),
        node: Node { inputs: Vec::new(), outputs: Vec::new(), captures: Vec::new(), ..node.clone() },
    }
}

fn named_value(value: &Value) -> NamedValue<'_> {
    NamedValue {
        name: &value.name,
        ty: value.ty.as_ref().filter(|_| value.declared || value.is_input),
        is_input: value.is_input,
        initializer: value.initializer.as_ref(),
        doc: &value.doc,
        metadata: &value.metadata,
        unknown: &value.unknown,
    }
}

/// Everything that anyone reads, computes or declares, by name: the numbers of values are not compared.
fn named_values(graph: &Graph) -> Vec<NamedValue<'_>> {
    let used = |v: &Value| {
        v.producer.is_some() || !v.consumers.is_empty() || v.is_input || v.declared || v.initializer.is_some()
    };
    let mut values: Vec<NamedValue<'_>> =
        graph.value_ids().map(|v| graph.value(v)).filter(|v| used(v)).map(named_value).collect();
    values.sort_by_key(|v| v.name);
    values
}

impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        let names = |g: &'_ Graph, ids: &[ValueId]| ids.iter().map(|v| g.name_of(*v).to_string()).collect::<Vec<_>>();
        (&self.name, &self.doc, &self.metadata, &self.unknown)
            == (&other.name, &other.doc, &other.metadata, &other.unknown)
            && names(self, &self.inputs) == names(other, &other.inputs)
            && names(self, &self.outputs) == names(other, &other.outputs)
            && self.node_count() == other.node_count()
            && self.node_ids().zip(other.node_ids()).all(|(a, b)| named_node(self, a) == named_node(other, b))
            && named_values(self) == named_values(other)
    }
}

#[cfg(test)]
mod tests {
    use super::super::DType;
    use super::*;

    fn graph() -> Graph {
        let mut g = Graph::new("g");
        let x = g.add_input("x", ValueType::tensor(DType::F32, &[2]));
        g.value_mut(x).declared = true;
        let [y] = g.add(Node::new("Neg", [x]), ["y"]);
        g.outputs.push(y);
        g
    }

    #[test]
    fn every_part_counts_but_numbers_and_inferred_types() {
        let g = graph();
        let changed = |change: &dyn Fn(&mut Graph)| {
            let mut other = graph();
            change(&mut other);
            other != g
        };
        let x = g.inputs[0];
        let neg = g.node_ids().next().unwrap();
        assert!(changed(&|g| g.doc = "d".into()));
        assert!(changed(&|g| g.unknown = vec![1]));
        assert!(changed(&|g| g.metadata.push(Default::default())));
        assert!(changed(&|g| g.value_mut(x).ty = Some(ValueType::tensor(DType::F32, &[3]))));
        assert!(changed(&|g| g.value_mut(x).doc = "d".into()));
        assert!(changed(&|g| g.value_mut(x).initializer = Some(Tensor::f32([2], &[1.0, 2.0]))));
        assert!(changed(&|g| g.node_mut(neg).doc = "d".into()));
        assert!(changed(&|g| g.node_mut(neg).unknown = vec![1]));
        assert!(changed(&|g| {
            g.rename(x, "z");
        }));
        assert!(!changed(&|g| {
            g.add_value("nobody reads this", None);
            let y = g.outputs[0];
            g.value_mut(y).ty = Some(ValueType::tensor(DType::F32, &[2]));
        }));
    }
}
