//! Checks that a graph is what every other part takes it to be.

use super::{Graph, Model, Payload};

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
    /// A tensor whose data does not fit its shape.
    #[error("the tensor '{0}' does not have the data its shape asks for")]
    Tensor(String),
}

/// Verifies a model's graph: acyclic, every read value and every output has a source, initializers fit their shapes.
///
/// # Errors
/// The first violation.
pub fn verify(model: &Model) -> Result<(), VerifyError> {
    graph(&model.graph)
}

fn graph(g: &Graph) -> Result<(), VerifyError> {
    let name = |id| {
        let node = g.node(id);
        if node.name.is_empty() {
            node.output(0).map_or_else(String::new, |v| g.name_of(v).to_string())
        } else {
            node.name.clone()
        }
    };
    g.order().map_err(|cycle| VerifyError::Cyclic(cycle.first().map_or_else(String::new, |n| name(*n))))?;
    let sourced = |v| {
        let value = g.value(v);
        // A sparse initializer is a source whose content the IR carries verbatim.
        value.producer.is_some() || value.is_input || value.initializer.is_some() || !g.unknown.is_empty()
    };
    for id in g.node_ids() {
        let node = g.node(id);
        if let Some(value) = node.inputs.iter().flatten().chain(&node.captures).find(|v| !sourced(**v)) {
            return Err(VerifyError::Unsourced { node: name(id), value: g.name_of(*value).to_string() });
        }
    }
    if let Some(value) = g.outputs.iter().find(|v| !sourced(**v)) {
        return Err(VerifyError::Output(g.name_of(*value).to_string()));
    }
    for (id, tensor) in g.initializers() {
        let fits = match &tensor.payload {
            Payload::Raw(bytes) => tensor.dtype.byte_len(tensor.len()) == Some(bytes.len()),
            Payload::Strings(list) => list.len() == tensor.len(),
        };
        if !fits {
            return Err(VerifyError::Tensor(g.name_of(id).to_string()));
        }
    }
    Ok(())
}
