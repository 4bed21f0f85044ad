//! A graph as text people like to read: one line a node, types and names, weights elided.

use super::{AttributeValue, Dim, Graph, Model, Node, NodeId, Payload, Tensor, Value, ValueId, ValueType};
use std::fmt::Write;

/// Constants of at most this many elements are shown by value.
const SHOWN: usize = 4;

/// Prints a model. The same model always prints the same.
pub fn print(model: &Model) -> String {
    let mut out = String::new();
    let opsets: Vec<String> = model
        .opsets
        .iter()
        .map(|o| format!("{} {}", if o.domain.is_empty() { "ai.onnx" } else { &o.domain }, o.version))
        .collect();
    let _ = writeln!(out, "model ir {} opset {}", model.ir_version, opsets.join(", "));
    for (key, value) in model.metadata.iter().filter(|(k, _)| k != crate::bindings::KEY) {
        let _ = writeln!(out, "metadata {key} = {}", clipped(value));
    }
    graph(&mut out, "graph", &model.graph, 0);
    for info in &model.training {
        for (name, part) in [("initialization", &info.initialization), ("algorithm", &info.algorithm)] {
            if let Some(part) = part {
                graph(&mut out, name, part, 0);
            }
        }
        for (target, source) in &info.update_binding {
            let _ = writeln!(out, "update {target} = {source}");
        }
        for (target, source) in &info.initialization_binding {
            let _ = writeln!(out, "initialize {target} = {source}");
        }
    }
    for f in &model.functions {
        let title = format!("function {}::{}", f.domain, f.name);
        graph(&mut out, &title, &f.body, 0);
    }
    out
}

fn graph(out: &mut String, title: &str, g: &Graph, depth: usize) {
    let pad = "  ".repeat(depth);
    let _ = writeln!(out, "{pad}{title} {} {{", g.name);
    for v in &g.inputs {
        let default = g.value(*v).initializer.as_ref().map(|t| format!(" = {}", tensor(t))).unwrap_or_default();
        let _ = writeln!(out, "{pad}  input  {}{default}", typed(g.value(*v)));
    }
    for (v, t) in g.initializers().filter(|(v, _)| !g.value(*v).is_input) {
        let _ = writeln!(out, "{pad}  const  {} = {}", typed(g.value(v)), tensor(t));
    }
    let order = g.order().unwrap_or_else(|_| g.node_ids().collect());
    for id in order {
        let _ = writeln!(out, "{pad}  {}", node_line(g, id));
        for a in &g.node(id).attributes {
            match &a.value {
                AttributeValue::Graph(inner) => graph(out, &a.name, inner, depth + 2),
                AttributeValue::Graphs(list) => list.iter().for_each(|inner| graph(out, &a.name, inner, depth + 2)),
                _ => {}
            }
        }
    }
    for v in &g.outputs {
        let _ = writeln!(out, "{pad}  output {}", typed(g.value(*v)));
    }
    let _ = writeln!(out, "{pad}}}");
}

/// One node as text: `a: f32[2] = Op(x, y) {attribute=1}`.
pub fn node_line(g: &Graph, id: NodeId) -> String {
    let node = g.node(id);
    let results: Vec<String> =
        node.outputs.iter().map(|v| v.map_or_else(|| "_".into(), |v| typed(g.value(v)))).collect();
    format!("{} = {}", results.join(", "), application(g, node))
}

/// The right-hand side of a node's line.
pub fn application(g: &Graph, node: &Node) -> String {
    let arguments: Vec<&str> = node.inputs.iter().map(|v: &Option<ValueId>| v.map_or("_", |v| g.name_of(v))).collect();
    let attributes: Vec<String> =
        node.attributes.iter().map(|a| format!("{}={}", a.name, attribute(&a.value))).collect();
    let domain = if node.domain.is_empty() { String::new() } else { format!("{}::", node.domain) };
    let tail = if attributes.is_empty() { String::new() } else { format!(" {{{}}}", attributes.join(", ")) };
    format!("{domain}{}({}){tail}", node.op_type, arguments.join(", "))
}

fn typed(value: &Value) -> String {
    match &value.ty {
        None => value.name.clone(),
        Some(ty) => format!("{}: {}", value.name, type_text(ty)),
    }
}

/// A type as text: `f32[2, batch]`.
pub fn type_text(ty: &ValueType) -> String {
    match ty {
        ValueType::Tensor { dtype, shape: None } => format!("{dtype}[..]"),
        ValueType::Tensor { dtype, shape: Some(dims) } => {
            let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
            format!("{dtype}[{}]", dims.join(", "))
        }
        ValueType::Other(_) => "other".into(),
    }
}

/// An attribute's value as text.
pub fn attribute(value: &AttributeValue) -> String {
    let list = |items: Vec<String>| {
        let more = if items.len() > 12 { format!(", … {} in all", items.len()) } else { String::new() };
        format!("[{}{more}]", items[..items.len().min(12)].join(", "))
    };
    let text = |bytes: &[u8]| format!("{:?}", clipped(&String::from_utf8_lossy(bytes)));
    match value {
        AttributeValue::Float(x) => format!("{x:?}"),
        AttributeValue::Int(x) => x.to_string(),
        AttributeValue::String(x) => text(x),
        AttributeValue::Tensor(t) => tensor(t),
        AttributeValue::Graph(g) => format!("graph {}", g.name),
        AttributeValue::Floats(x) => list(x.iter().map(|x| format!("{x:?}")).collect()),
        AttributeValue::Ints(x) => list(x.iter().map(ToString::to_string).collect()),
        AttributeValue::Strings(x) => list(x.iter().map(|x| text(x)).collect()),
        AttributeValue::Tensors(x) => list(x.iter().map(tensor).collect()),
        AttributeValue::Graphs(x) => list(x.iter().map(|g| format!("graph {}", g.name)).collect()),
        AttributeValue::Ref { name, .. } => format!("@{name}"),
        AttributeValue::Other(bytes) => format!("{} bytes", bytes.len()),
    }
}

fn tensor(t: &Tensor) -> String {
    let dims: Vec<String> = t.dims.iter().map(ToString::to_string).collect();
    let head = format!("{}[{}]", t.dtype, dims.join(", "));
    match (&t.payload, t.len() <= SHOWN) {
        (Payload::Strings(list), true) => {
            let items: Vec<String> = list.iter().map(|s| format!("{:?}", String::from_utf8_lossy(s))).collect();
            format!("{head} [{}]", items.join(", "))
        }
        (Payload::Raw(_), true) => match t.to_f64() {
            // Through float32, so that 0.1f32 prints as 0.1.
            Some(values) => {
                let short =
                    |x: &f64| if t.dtype == super::DType::F32 { format!("{}", *x as f32) } else { format!("{x}") };
                let items: Vec<String> = values.iter().map(short).collect();
                if t.dims.is_empty() {
                    format!("{head} {}", items.join(""))
                } else {
                    format!("{head} [{}]", items.join(", "))
                }
            }
            None => format!("{head} …"),
        },
        _ => format!("{head} …"),
    }
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}
