//! What compilation found and did, for people (`--explain`) and programs (`--report`).

use indexmap::IndexMap;
use serde::Serialize;
use std::fmt::Write;

/// The report of one compilation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Recognised parameters in the model's order.
    pub parameters: Vec<Parameter>,
    /// Parameter-like values left alone.
    pub unmatched: Vec<Unmatched>,
    /// Passes in the order they ran.
    pub passes: Vec<Pass>,
    /// Remarks for the user.
    pub warnings: Vec<String>,
}

/// One recognised parameter.
#[derive(Clone, Debug, Serialize)]
pub struct Parameter {
    /// Name.
    pub name: String,
    /// Extents.
    pub shape: Vec<usize>,
    /// What the graph held.
    pub found: Found,
    /// What it became.
    pub became: Became,
}

/// An optimizer as found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// `sgd`, `adam_w`, ….
    pub kind: String,
    /// Hyperparameters: numbers, or names of graph inputs.
    pub settings: IndexMap<String, serde_json::Value>,
    /// The node that computed the next value.
    pub node: String,
}

/// What an optimizer became.
#[derive(Clone, Debug, Serialize)]
pub struct Became {
    /// Attributes of the NeuroPlastic node, or the kept optimizer's settings.
    pub settings: IndexMap<String, serde_json::Value>,
}

/// A parameter left alone.
#[derive(Clone, Debug, Serialize)]
pub struct Unmatched {
    /// Name.
    pub parameter: String,
    /// One sentence.
    pub reason: String,
    /// Node where it shows.
    pub node: String,
}

/// One pass.
#[derive(Clone, Debug, Serialize)]
pub struct Pass {
    /// Name.
    pub name: &'static str,
    /// Nodes before it.
    pub nodes_before: usize,
    /// Nodes after it.
    pub nodes_after: usize,
    /// Time it took, in milliseconds.
    pub ms: f64,
}

impl Report {
    /// The report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The report as text: what was found where, what was left alone and why.
    pub fn explain(&self) -> String {
        let mut out = String::new();
        for p in &self.parameters {
            let settings: Vec<String> = p.found.settings.iter().map(|(k, v)| format!("{k} {v}")).collect();
            let shape: Vec<String> = p.shape.iter().map(ToString::to_string).collect();
            let _ = writeln!(
                out,
                "{} [{}]: {} ({}) at {}",
                p.name,
                shape.join("×"),
                p.found.kind,
                settings.join(", "),
                p.found.node
            );
        }
        for u in &self.unmatched {
            let _ = writeln!(out, "{}: left alone: {} (at {})", u.parameter, u.reason, u.node);
        }
        for w in &self.warnings {
            let _ = writeln!(out, "note: {w}");
        }
        for p in &self.passes {
            let _ = writeln!(
                out,
                "pass {:<12} {:>6} → {:<6} nodes  {:>8.2} ms",
                p.name, p.nodes_before, p.nodes_after, p.ms
            );
        }
        out
    }
}
