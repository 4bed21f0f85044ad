//! Properties of patches and diffs on random graphs.

use super::diff::diff;
use super::patch::Patch;
use super::verify::{VerifyError, verify};
use super::{AttributeValue, Graph, Model, Node, NodeId, ValueId};
use crate::onnx::random;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rustc_hash::FxHashMap;

/// One wish of a random patch; indices refer to the graph's nodes and values.
#[derive(Clone, Debug)]
enum Wish {
    Drop(Index),
    Rewire(Index, Index),
    Read(Index, usize, Index),
    /// A new node; its output is a fresh value or an old one.
    Add(Vec<Index>, Option<Index>),
}

fn wish() -> impl Strategy<Value = Wish> {
    let index = any::<Index>;
    prop_oneof![
        index().prop_map(Wish::Drop),
        (index(), index()).prop_map(|(old, new)| Wish::Rewire(old, new)),
        (index(), 0usize..4, index()).prop_map(|(node, slot, new)| Wish::Read(node, slot, new)),
        (vec(index(), 0..3), proptest::option::of(index())).prop_map(|(inputs, output)| Wish::Add(inputs, output)),
    ]
}

fn sourced(graph: &Graph) -> Vec<ValueId> {
    let has_source = |v: &ValueId| {
        let value = graph.value(*v);
        value.producer.is_some() || value.is_input || value.initializer.is_some()
    };
    graph.value_ids().filter(has_source).collect()
}

fn patch(graph: &mut Graph, wishes: &[Wish]) -> Patch {
    let nodes: Vec<NodeId> = graph.node_ids().collect();
    let values = sourced(graph);
    let mut patch = Patch::default();
    for wish in wishes {
        match wish {
            Wish::Drop(node) if !nodes.is_empty() => {
                patch.drop(*node.get(&nodes));
            }
            Wish::Rewire(old, new) if !values.is_empty() => {
                patch.rewire(*old.get(&values), *new.get(&values));
            }
            Wish::Read(node, slot, new) if !nodes.is_empty() && !values.is_empty() => {
                patch.read(*node.get(&nodes), *slot, *new.get(&values));
            }
            Wish::Add(inputs, output) if !values.is_empty() => {
                let output = match output {
                    Some(value) => *value.get(&values),
                    None => graph.add_value("fresh", None),
                };
                let inputs = inputs.iter().map(|v| *v.get(&values));
                patch.add(Node { outputs: vec![Some(output)], ..Node::new("Fresh", inputs) });
            }
            _ => {}
        }
    }
    patch
}

/// The same model with its nodes in another order and, in graph and sub-graphs, other names for inner values.
fn renamed(model: &Model, order: &[Index]) -> Model {
    let mut nodes: Vec<NodeId> = model.graph.node_ids().collect();
    for (i, index) in order.iter().enumerate().take(nodes.len()) {
        let other = index.index(nodes.len());
        nodes.swap(i, other);
    }
    let mut names = FxHashMap::default();
    Model { graph: copy(&model.graph, &nodes, &mut names, true), ..model.clone() }
}

fn copy(old: &Graph, nodes: &[NodeId], names: &mut FxHashMap<String, String>, top: bool) -> Graph {
    let mut graph = Graph::new(&old.name);
    let fixed = |v: ValueId| top && (old.value(v).is_input || old.outputs.contains(&v));
    for id in old.value_ids() {
        let value = old.value(id);
        let outer = value.producer.is_none() && !value.is_input && value.initializer.is_none();
        let name = match outer {
            true => names.get(&value.name).cloned().unwrap_or_else(|| value.name.clone()),
            false if fixed(id) => value.name.clone(),
            false => format!("other.{}", value.name),
        };
        let copy = graph.add_value(&name, value.ty.clone());
        assert_eq!(copy, id);
        graph.value_mut(id).initializer.clone_from(&value.initializer);
        names.insert(value.name.clone(), name);
    }
    old.inputs.iter().for_each(|v| graph.make_input(*v));
    for id in nodes {
        let mut node = old.node(*id).clone();
        for attribute in &mut node.attributes {
            let inner = |g: &mut Graph| *g = copy(g, &g.node_ids().collect::<Vec<_>>(), &mut names.clone(), false);
            match &mut attribute.value {
                AttributeValue::Graph(g) => inner(g),
                AttributeValue::Graphs(list) => list.iter_mut().for_each(inner),
                _ => {}
            }
        }
        graph.add_node(node);
    }
    graph.outputs.clone_from(&old.outputs);
    graph
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_patch_leaves_a_legal_graph_or_the_same_one(plan in random::plan(1), wishes in vec(wish(), 1..6)) {
        let mut model = random::model(&plan, &plan);
        model.functions.clear();
        model.training.clear();
        let graph = &mut model.graph;
        let patch = patch(graph, &wishes);
        let before = graph.clone();
        match patch.apply(graph) {
            Err(_) => prop_assert!(*graph == before, "a refused patch changed the graph"),
            Ok(()) => {
                for id in graph.node_ids() {
                    for value in graph.node(id).inputs.iter().flatten() {
                        prop_assert!(graph.value(*value).consumers.contains(&id));
                    }
                }
                let broken = match verify(&model) {
                    Err(VerifyError::Unsourced { .. } | VerifyError::Output(_) | VerifyError::Provided(_)) => true,
                    // A cycle is left to the verifier; the rest is the random graph's own.
                    _ => false,
                };
                prop_assert!(!broken, "{:?}", verify(&model));
            }
        }
    }

    #[test]
    fn a_model_does_not_differ_from_itself_under_other_names(plan in random::plan(2), order in vec(any::<Index>(), 0..6)) {
        let model = random::model(&plan, &plan);
        let other = renamed(&model, &order);
        let found = diff(&model, &other);
        prop_assert!(found.is_empty(), "{}", found);
    }

    #[test]
    fn one_changed_node_is_seen_from_both_sides(plan in random::plan(1), which in any::<Index>(), attribute in any::<bool>()) {
        let model = random::model(&plan, &plan);
        let nodes: Vec<NodeId> = model.graph.node_ids().collect();
        prop_assume!(!nodes.is_empty());
        let mut other = model.clone();
        let node = other.graph.node_mut(*which.get(&nodes));
        if attribute {
            node.attributes.push(super::Attribute::new("changed", 1i64));
        } else {
            node.op_type.push_str("Changed");
        }
        let (there, back) = (diff(&model, &other), diff(&other, &model));
        prop_assert!(!there.removed.is_empty() && !there.added.is_empty());
        prop_assert_eq!((&there.removed, &there.added), (&back.added, &back.removed));
        prop_assert_eq!(there.operators.is_empty(), attribute);
    }
}
