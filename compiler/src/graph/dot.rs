//! A graph for Graphviz: `npc inspect M --format dot | dot -Tsvg > m.svg`.

use super::{Graph, Model};
use std::fmt::Write;

/// A model's graph in DOT.
pub fn print(model: &Model) -> String {
    let g = &model.graph;
    let mut out = String::from("digraph model {\n  rankdir=TB;\n  node [shape=box, fontname=\"Helvetica\"];\n");
    for v in &g.inputs {
        let _ = writeln!(out, "  v{} [label={:?}, shape=ellipse];", v.0, g.name_of(*v));
    }
    for id in g.order().unwrap_or_else(|_| g.node_ids().collect()) {
        let node = g.node(id);
        let _ = writeln!(out, "  n{} [label={:?}];", id.index(), node.op_type);
        for v in node.inputs.iter().flatten() {
            if let Some(from) = source(g, *v) {
                let _ = writeln!(out, "  {from} -> n{} [label={:?}];", id.index(), g.name_of(*v));
            }
        }
    }
    for v in &g.outputs {
        let _ = writeln!(out, "  o{} [label={:?}, shape=ellipse, style=bold];", v.0, g.name_of(*v));
        if let Some(from) = source(g, *v) {
            let _ = writeln!(out, "  {from} -> o{};", v.0);
        }
    }
    out.push_str("}\n");
    out
}

/// Constants are left out: they would only clutter the picture.
fn source(g: &Graph, value: super::ValueId) -> Option<String> {
    match g.value(value).producer {
        Some((node, _)) => Some(format!("n{}", node.index())),
        None => g.value(value).is_input.then(|| format!("v{}", value.0)),
    }
}
