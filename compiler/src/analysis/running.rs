//! The running statistics of batch normalisations.

use crate::graph::{Graph, ValueId};

/// What a running statistic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Starts at 0.
    Mean,
    /// Starts at 1.
    Variance,
}

impl Statistic {
    /// Its role in the bindings.
    pub fn role(self) -> &'static str {
        match self {
            Statistic::Mean => "running_mean",
            Statistic::Variance => "running_variance",
        }
    }
}

/// Statistics that a training step hands on to the next one: the input of a `BatchNormalization`, and the output of the graph
/// that is its next value.
pub fn running_statistics(graph: &Graph) -> Vec<(ValueId, ValueId, Statistic)> {
    let mut found = Vec::new();
    for id in graph.node_ids() {
        let node = graph.node(id);
        if node.op_type != "BatchNormalization" || !node.domain.is_empty() {
            continue;
        }
        for (slot, output, what) in [(3, 1, Statistic::Mean), (4, 2, Statistic::Variance)] {
            let (Some(value), Some(next)) = (node.input(slot), node.output(output)) else { continue };
            if graph.value(value).is_input && graph.outputs.contains(&next) {
                found.push((value, next, what));
            }
        }
    }
    found
}
