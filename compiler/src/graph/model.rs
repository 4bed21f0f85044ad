//! What stands around a graph in a file: operator sets, functions, training information.

use super::{Attribute, Graph};

/// An operator-set import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opset {
    /// Domain; `""` is the standard one.
    pub domain: String,
    /// Version.
    pub version: i64,
}

/// A model-local function (`FunctionProto`).
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Domain of the operator it defines.
    pub domain: String,
    /// Name of the operator it defines.
    pub name: String,
    /// `FunctionProto.overload`.
    pub overload: String,
    /// Attributes without default.
    pub attributes: Vec<String>,
    /// Attributes with default.
    pub defaults: Vec<Attribute>,
    /// Operator sets its body uses.
    pub opsets: Vec<Opset>,
    /// Body; its inputs and outputs are the formal ones.
    pub body: Graph,
    /// `FunctionProto.doc_string`.
    pub doc: String,
    /// `FunctionProto.metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Protobuf fields this build does not know, verbatim.
    pub unknown: Vec<u8>,
}

/// `TrainingInfoProto`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TrainingInfo {
    /// Graph that computes initial values.
    pub initialization: Option<Graph>,
    /// Graph of one training step.
    pub algorithm: Option<Graph>,
    /// (initializer, output of `initialization`) pairs.
    pub initialization_binding: Vec<(String, String)>,
    /// (initializer, output of `algorithm`) pairs.
    pub update_binding: Vec<(String, String)>,
    /// Protobuf fields this build does not know, verbatim.
    pub unknown: Vec<u8>,
}

/// A whole ONNX model.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Model {
    /// `ModelProto.ir_version`.
    pub ir_version: i64,
    /// Operator sets in use.
    pub opsets: Vec<Opset>,
    /// `ModelProto.producer_name`.
    pub producer_name: String,
    /// `ModelProto.producer_version`.
    pub producer_version: String,
    /// `ModelProto.domain`.
    pub domain: String,
    /// `ModelProto.model_version`.
    pub model_version: i64,
    /// `ModelProto.doc_string`.
    pub doc: String,
    /// The graph.
    pub graph: Graph,
    /// Model-local functions.
    pub functions: Vec<Function>,
    /// Training information.
    pub training: Vec<TrainingInfo>,
    /// `ModelProto.metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Protobuf fields this build does not know, verbatim.
    pub unknown: Vec<u8>,
}

impl Model {
    /// Imported version of the standard operator set; 1 when the file does not say.
    pub fn opset(&self) -> i64 {
        self.opset_of("").unwrap_or(1)
    }

    /// Imported version of a domain's operator set.
    pub fn opset_of(&self, domain: &str) -> Option<i64> {
        self.opsets.iter().find(|o| o.domain == domain).map(|o| o.version)
    }

    /// Value of a `metadata_props` entry.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Sets a `metadata_props` entry, replacing an older one.
    pub fn set_metadata(&mut self, key: &str, value: String) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_string(), value));
    }
}
