//! A graph as JSON, for programs: names, types, nodes with attributes; weights elided.

use super::text::{attribute, type_text};
use super::{Graph, Model, ValueId};
use serde_json::{Value, json};

/// A model as JSON.
pub fn print(model: &Model) -> Value {
    let opsets: Vec<Value> = model.opsets.iter().map(|o| json!({"domain": o.domain, "version": o.version})).collect();
    let functions: Vec<Value> =
        model.functions.iter().map(|f| json!({"domain": f.domain, "name": f.name, "body": graph(&f.body)})).collect();
    json!({
        "ir_version": model.ir_version,
        "opsets": opsets,
        "producer": model.producer_name,
        "metadata": model.metadata.iter().map(|(k, v)| json!({"key": k, "value": v})).collect::<Vec<_>>(),
        "graph": graph(&model.graph),
        "functions": functions,
    })
}

fn graph(g: &Graph) -> Value {
    let value = |v: ValueId| json!({"name": g.name_of(v), "type": g.value(v).ty.as_ref().map(type_text)});
    let names = |list: &[Option<ValueId>]| list.iter().map(|v| v.map(|v| g.name_of(v).to_string())).collect::<Vec<_>>();
    let nodes: Vec<Value> = g
        .order()
        .unwrap_or_else(|_| g.node_ids().collect())
        .into_iter()
        .map(|id| {
            let n = g.node(id);
            let attributes: serde_json::Map<String, Value> =
                n.attributes.iter().map(|a| (a.name.clone(), attribute(&a.value).into())).collect();
            json!({"name": n.name, "domain": n.domain, "op": n.op_type, "inputs": names(&n.inputs), "outputs": names(&n.outputs), "attributes": attributes})
        })
        .collect();
    json!({
        "name": g.name,
        "inputs": g.inputs.iter().map(|v| value(*v)).collect::<Vec<_>>(),
        "outputs": g.outputs.iter().map(|v| value(*v)).collect::<Vec<_>>(),
        "constants": g.initializers().map(|(v, _)| value(v)).collect::<Vec<_>>(),
        "nodes": nodes,
    })
}
