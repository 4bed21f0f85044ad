//! The intermediate representation as ONNX wire format.
//!
//! Tensor payloads stay where they are (often in a mapped file) and are only referred to, so that writing a model copies
//! its weights once: into the output file.

mod message;

use super::SaveError;
use super::attribute_type as kinds;
use crate::graph::{
    Attribute, AttributeValue, Bytes, DType, Dim, Function, Graph, Model, Node, Opset, Payload, Tensor, TrainingInfo,
    Value, ValueType,
};
use message::INLINE;
pub use message::{Message, Output};
use std::io::{self, Read as _};

/// Where large tensors go instead of the message.
pub struct Sidecar {
    /// Name of the file, relative to the model.
    pub location: String,
    /// Payloads with their offsets.
    payloads: Vec<(u64, Bytes)>,
    len: u64,
}

impl Sidecar {
    /// An empty file.
    pub fn new(location: String) -> Self {
        Sidecar { location, payloads: Vec::new(), len: 0 }
    }

    /// Writes the file out.
    pub fn write_to(&self, out: &mut impl Output) -> io::Result<()> {
        let mut at = 0;
        for (offset, bytes) in &self.payloads {
            io::copy(&mut io::repeat(0).take(offset - at), out)?;
            out.payload(bytes)?;
            at = offset + bytes.len() as u64;
        }
        Ok(())
    }

    fn add(&mut self, bytes: &Bytes) -> u64 {
        // Page alignment lets runtimes map large tensors; cache-line alignment is enough for the rest.
        let alignment: u64 = if bytes.len() >= 1 << 16 { 4096 } else { 64 };
        let offset = self.len.div_ceil(alignment) * alignment;
        self.payloads.push((offset, bytes.clone()));
        self.len = offset + bytes.len() as u64;
        offset
    }
}

/// Serialises models; `sidecar` receives the large initializers when there is one.
pub struct Writer {
    /// External data under construction.
    pub sidecar: Option<Sidecar>,
}

type Result<T> = std::result::Result<T, SaveError>;

impl Writer {
    /// A `ModelProto`.
    pub fn model(&mut self, m: &Model) -> Result<Message> {
        let mut out = Message::default();
        out.int_if(1, m.ir_version);
        out.text(2, &m.producer_name);
        out.text(3, &m.producer_version);
        out.text(4, &m.domain);
        out.int_if(5, m.model_version);
        out.text(6, &m.doc);
        out.nested(7, |out| self.graph(out, &m.graph))?;
        opsets(&mut out, 8, &m.opsets);
        out.entries(14, &m.metadata);
        for info in &m.training {
            out.nested(20, |out| self.training(out, info))?;
        }
        for function in &m.functions {
            out.nested(25, |out| self.function(out, function))?;
        }
        out.verbatim(&m.unknown);
        Ok(out)
    }

    fn training(&mut self, out: &mut Message, t: &TrainingInfo) -> Result<()> {
        for (field, graph) in [(1, &t.initialization), (2, &t.algorithm)] {
            if let Some(graph) = graph {
                out.nested(field, |out| self.graph(out, graph))?;
            }
        }
        out.entries(3, &t.initialization_binding);
        out.entries(4, &t.update_binding);
        out.verbatim(&t.unknown);
        Ok(())
    }

    fn function(&mut self, out: &mut Message, f: &Function) -> Result<()> {
        let body = &f.body;
        out.text(1, &f.name);
        body.inputs.iter().for_each(|v| out.bytes(4, body.name_of(*v).as_bytes()));
        body.outputs.iter().for_each(|v| out.bytes(5, body.name_of(*v).as_bytes()));
        f.attributes.iter().for_each(|a| out.bytes(6, a.as_bytes()));
        self.nodes(out, 7, body)?;
        out.text(8, &f.doc);
        opsets(out, 9, &f.opsets);
        out.text(10, &f.domain);
        for attribute in &f.defaults {
            out.nested(11, |out| self.attribute(out, attribute))?;
        }
        for id in body.value_ids().filter(|v| body.value(*v).declared) {
            out.message(12, |out| value_info(out, body.value(id)));
        }
        out.text(13, &f.overload);
        out.entries(14, &f.metadata);
        out.verbatim(&f.unknown);
        Ok(())
    }

    fn graph(&mut self, out: &mut Message, g: &Graph) -> Result<()> {
        self.nodes(out, 1, g)?;
        out.text(2, &g.name);
        for (id, tensor) in g.initializers() {
            out.message(5, |out| self.tensor(out, g.name_of(id), tensor, true));
        }
        out.text(10, &g.doc);
        g.inputs.iter().for_each(|v| out.message(11, |out| value_info(out, g.value(*v))));
        g.outputs.iter().for_each(|v| out.message(12, |out| value_info(out, g.value(*v))));
        let outputs: rustc_hash::FxHashSet<_> = g.outputs.iter().copied().collect();
        for id in g.value_ids() {
            let value = g.value(id);
            if value.declared && !value.is_input && !outputs.contains(&id) {
                out.message(13, |out| value_info(out, value));
            }
        }
        out.entries(16, &g.metadata);
        out.verbatim(&g.unknown);
        Ok(())
    }

    fn nodes(&mut self, out: &mut Message, field: u32, g: &Graph) -> Result<()> {
        let order = g.order().map_err(|tangled| {
            SaveError::Cyclic(tangled.first().map_or_else(String::new, |n| {
                let node = g.node(*n);
                format!("node {} '{}'", node.op_type, node.name)
            }))
        })?;
        for id in order {
            out.nested(field, |out| self.node(out, g, g.node(id)))?;
        }
        Ok(())
    }

    fn node(&mut self, out: &mut Message, g: &Graph, n: &Node) -> Result<()> {
        let name = |v: &Option<_>| v.map_or("", |v| g.name_of(v));
        n.inputs.iter().for_each(|v| out.bytes(1, name(v).as_bytes()));
        n.outputs.iter().for_each(|v| out.bytes(2, name(v).as_bytes()));
        out.text(3, &n.name);
        out.text(4, &n.op_type);
        for attribute in &n.attributes {
            out.nested(5, |out| self.attribute(out, attribute))?;
        }
        out.text(6, &n.doc);
        out.text(7, &n.domain);
        out.text(8, &n.overload);
        out.entries(9, &n.metadata);
        out.verbatim(&n.unknown);
        Ok(())
    }

    fn attribute(&mut self, out: &mut Message, a: &Attribute) -> Result<()> {
        if let AttributeValue::Other(bytes) = &a.value {
            out.verbatim(bytes);
            return Ok(());
        }
        out.text(1, &a.name);
        let kind = match &a.value {
            AttributeValue::Float(x) => {
                out.float(2, *x);
                kinds::FLOAT
            }
            AttributeValue::Int(x) => {
                out.int(3, *x);
                kinds::INT
            }
            AttributeValue::String(x) => {
                out.bytes(4, x);
                kinds::STRING
            }
            AttributeValue::Tensor(t) => {
                out.message(5, |out| self.tensor(out, &t.name, t, false));
                kinds::TENSOR
            }
            AttributeValue::Graph(g) => {
                out.nested(6, |out| self.graph(out, g))?;
                kinds::GRAPH
            }
            AttributeValue::Floats(list) => {
                out.packed_floats(7, list);
                kinds::FLOATS
            }
            AttributeValue::Ints(list) => {
                out.packed(8, list.iter().map(|x| *x as u64));
                kinds::INTS
            }
            AttributeValue::Strings(list) => {
                list.iter().for_each(|x| out.bytes(9, x));
                kinds::STRINGS
            }
            AttributeValue::Tensors(list) => {
                list.iter().for_each(|t| out.message(10, |out| self.tensor(out, &t.name, t, false)));
                kinds::TENSORS
            }
            AttributeValue::Graphs(list) => {
                for g in list {
                    out.nested(11, |out| self.graph(out, g))?;
                }
                kinds::GRAPHS
            }
            AttributeValue::Ref { name, kind } => {
                out.text(21, name);
                *kind
            }
            AttributeValue::Other(_) => 0,
        };
        out.text(13, &a.doc);
        out.int_if(20, i64::from(kind));
        out.verbatim(&a.unknown);
        Ok(())
    }

    fn tensor(&mut self, out: &mut Message, name: &str, t: &Tensor, initializer: bool) {
        if !t.dims.is_empty() {
            out.packed(1, t.dims.iter().map(|d| *d as u64));
        }
        out.int_if(2, i64::from(t.dtype.0));
        match &t.payload {
            Payload::Strings(list) => list.iter().for_each(|s| out.bytes(6, s)),
            Payload::Raw(bytes) => match self.sidecar.as_mut().filter(|_| initializer && bytes.len() >= INLINE) {
                None => out.payload(9, bytes),
                Some(sidecar) => {
                    let offset = sidecar.add(bytes);
                    let entries = [
                        ("location", sidecar.location.clone()),
                        ("offset", offset.to_string()),
                        ("length", bytes.len().to_string()),
                    ];
                    out.entries(13, &entries.map(|(k, v)| (k.to_string(), v)));
                    out.int(14, 1);
                }
            },
        }
        out.text(8, name);
        out.text(12, &t.doc);
        out.entries(16, &t.metadata);
        out.verbatim(&t.unknown);
    }
}

fn opsets(out: &mut Message, field: u32, list: &[Opset]) {
    for opset in list {
        out.message(field, |out| {
            // The standard domain's empty name is written out: some readers tell a missing field from an empty one.
            out.bytes(1, opset.domain.as_bytes());
            out.int_if(2, opset.version);
        });
    }
}

fn value_info(out: &mut Message, value: &Value) {
    out.text(1, &value.name);
    match &value.ty {
        None => {}
        Some(ValueType::Other(bytes)) => out.bytes(2, bytes),
        Some(ValueType::Tensor { dtype, shape }) => {
            out.message(2, |out| out.message(1, |out| tensor_type(out, *dtype, shape.as_deref())))
        }
    }
    out.text(3, &value.doc);
    out.entries(4, &value.metadata);
    out.verbatim(&value.unknown);
}

fn tensor_type(out: &mut Message, dtype: DType, shape: Option<&[Dim]>) {
    out.int_if(1, i64::from(dtype.0));
    let Some(shape) = shape else { return };
    out.message(2, |out| {
        for dim in shape {
            out.message(1, |out| match dim {
                Dim::Known(n) => out.int(1, *n as i64),
                Dim::Symbol(name) => out.text(2, name),
                Dim::Unknown => {}
            });
        }
    });
}
