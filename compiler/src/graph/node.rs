use super::{Graph, Tensor, ValueId};

/// One operator application.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `NodeProto.name`; may be empty, need not be unique.
    pub name: String,
    /// Operator domain; `""` is the standard one (`ai.onnx` is stored as `""`).
    pub domain: String,
    /// Operator name.
    pub op_type: String,
    /// `NodeProto.overload`.
    pub overload: String,
    /// Inputs; `None` is an omitted optional input.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs; `None` is an omitted optional output.
    pub outputs: Vec<Option<ValueId>>,
    /// Outer values that sub-graph attributes read by name; kept so that order and liveness see them.
    pub captures: Vec<ValueId>,
    /// Attributes in file order.
    pub attributes: Vec<Attribute>,
    /// `NodeProto.doc_string`.
    pub doc: String,
    /// `NodeProto.metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Protobuf fields this build does not know, verbatim.
    pub unknown: Vec<u8>,
}

impl Node {
    /// A node of the standard domain with no attributes and no outputs yet.
    pub fn new(op_type: &str, inputs: impl IntoIterator<Item = ValueId>) -> Self {
        Node {
            name: String::new(),
            domain: String::new(),
            op_type: op_type.to_string(),
            overload: String::new(),
            inputs: inputs.into_iter().map(Some).collect(),
            outputs: Vec::new(),
            captures: Vec::new(),
            attributes: Vec::new(),
            doc: String::new(),
            metadata: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// Same node with an attribute appended.
    pub fn with(mut self, name: &str, value: impl Into<AttributeValue>) -> Self {
        self.attributes.push(Attribute::new(name, value));
        self
    }

    /// Same node in another domain.
    pub fn in_domain(mut self, domain: &str) -> Self {
        self.domain = domain.to_string();
        self
    }

    /// True for an operator of the standard domain with this name.
    pub fn is(&self, op_type: &str) -> bool {
        self.domain.is_empty() && self.op_type == op_type
    }

    /// Value of the attribute called `name`.
    pub fn attribute(&self, name: &str) -> Option<&AttributeValue> {
        self.attributes.iter().find(|a| a.name == name).map(|a| &a.value)
    }

    /// Integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attribute(name)? {
            AttributeValue::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attribute(name)? {
            AttributeValue::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Integer-list attribute.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attribute(name)? {
            AttributeValue::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// String attribute, when it is UTF-8.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.attribute(name)? {
            AttributeValue::String(value) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// The `i`-th input, if present.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// The `i`-th output, if present.
    pub fn output(&self, i: usize) -> Option<ValueId> {
        self.outputs.get(i).copied().flatten()
    }
}

/// A named attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Attribute name.
    pub name: String,
    /// Its value.
    pub value: AttributeValue,
    /// `AttributeProto.doc_string`.
    pub doc: String,
    /// Protobuf fields this build does not know, verbatim.
    pub unknown: Vec<u8>,
}

impl Attribute {
    /// An attribute without documentation.
    pub fn new(name: &str, value: impl Into<AttributeValue>) -> Self {
        Attribute { name: name.to_string(), value: value.into(), doc: String::new(), unknown: Vec::new() }
    }
}

/// Value of an attribute (`AttributeProto.AttributeType`).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum AttributeValue {
    Float(f32),
    Int(i64),
    String(Vec<u8>),
    Tensor(Tensor),
    Graph(Box<Graph>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Vec<u8>>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<Graph>),
    /// In a function body: the value of the calling node's attribute `name`, of type `kind` (`AttributeType` code).
    Ref {
        name: String,
        kind: i32,
    },
    /// Sparse tensors, type protos and anything newer: the serialised `AttributeProto`, verbatim.
    Other(Vec<u8>),
}

macro_rules! from {
    ($($t:ty => $variant:ident($x:ident) $e:expr;)*) => {$(
        impl From<$t> for AttributeValue {
            fn from($x: $t) -> Self { AttributeValue::$variant($e) }
        }
    )*};
}

from! {
    f32 => Float(x) x;
    i64 => Int(x) x;
    bool => Int(x) i64::from(x);
    &str => String(x) x.as_bytes().to_vec();
    Vec<i64> => Ints(x) x;
    Vec<f32> => Floats(x) x;
    Tensor => Tensor(x) x;
    Graph => Graph(x) Box::new(x);
}
