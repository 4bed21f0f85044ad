//! The intermediate representation as ONNX wire format.
//!
//! Messages are written inside out into small buffers; tensor payloads stay where they are (often in a mapped file) and
//! are only referred to, so that writing a model copies its weights once: into the output file.

use super::SaveError;
use super::scan::put_varint;
use crate::graph::{
    Attribute, AttributeValue, Bytes, DType, Dim, Function, Graph, Model, Node, Opset, Payload, Tensor, TrainingInfo,
    Value, ValueType,
};
use std::io::{self, Write};

/// Payloads below this many bytes are copied into the message buffer.
const INLINE: usize = 1024;

/// A message under construction.
#[derive(Default)]
pub struct Message {
    buffer: Vec<u8>,
    /// Payloads and where in `buffer` they belong.
    payloads: Vec<(usize, Bytes)>,
    payload_len: u64,
}

impl Message {
    /// Serialised size in bytes.
    pub fn len(&self) -> u64 {
        self.buffer.len() as u64 + self.payload_len
    }

    /// Writes the message out.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut at = 0;
        for (position, payload) in &self.payloads {
            out.write_all(&self.buffer[at..*position])?;
            out.write_all(payload)?;
            at = *position;
        }
        out.write_all(&self.buffer[at..])
    }

    fn tag(&mut self, field: u64, wire: u64) {
        put_varint(&mut self.buffer, field << 3 | wire);
    }

    fn int(&mut self, field: u64, value: i64) {
        self.tag(field, 0);
        put_varint(&mut self.buffer, value as u64);
    }

    /// proto3 scalars are left out at their default.
    fn int_if(&mut self, field: u64, value: i64) {
        if value != 0 {
            self.int(field, value);
        }
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.tag(field, 2);
        put_varint(&mut self.buffer, bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn message(&mut self, field: u64, inner: Message) {
        self.tag(field, 2);
        put_varint(&mut self.buffer, inner.len());
        let offset = self.buffer.len();
        self.buffer.extend_from_slice(&inner.buffer);
        self.payloads.extend(inner.payloads.into_iter().map(|(at, bytes)| (at + offset, bytes)));
        self.payload_len += inner.payload_len;
    }

    fn payload(&mut self, field: u64, bytes: &Bytes) {
        if bytes.len() < INLINE {
            self.bytes(field, bytes);
            return;
        }
        self.tag(field, 2);
        put_varint(&mut self.buffer, bytes.len() as u64);
        self.payload_len += bytes.len() as u64;
        self.payloads.push((self.buffer.len(), bytes.clone()));
    }

    fn entries(&mut self, field: u64, entries: &[(String, String)]) {
        for (key, value) in entries {
            let mut entry = Message::default();
            entry.text(1, key);
            entry.text(2, value);
            self.message(field, entry);
        }
    }
}

/// Where large tensors go instead of the message.
pub struct Sidecar {
    /// Name of the file, relative to the model.
    pub location: String,
    /// Payloads with their offsets.
    pub payloads: Vec<(u64, Bytes)>,
    /// Length so far.
    pub len: u64,
}

impl Sidecar {
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
        let graph = self.graph(&m.graph)?;
        out.message(7, graph);
        opsets(&mut out, 8, &m.opsets);
        out.entries(14, &m.metadata);
        for info in &m.training {
            let info = self.training(info)?;
            out.message(20, info);
        }
        for function in &m.functions {
            let function = self.function(function)?;
            out.message(25, function);
        }
        out.buffer.extend_from_slice(&m.unknown);
        Ok(out)
    }

    fn training(&mut self, t: &TrainingInfo) -> Result<Message> {
        let mut out = Message::default();
        for (field, graph) in [(1, &t.initialization), (2, &t.algorithm)] {
            if let Some(graph) = graph {
                let graph = self.graph(graph)?;
                out.message(field, graph);
            }
        }
        out.entries(3, &t.initialization_binding);
        out.entries(4, &t.update_binding);
        out.buffer.extend_from_slice(&t.unknown);
        Ok(out)
    }

    fn function(&mut self, f: &Function) -> Result<Message> {
        let mut out = Message::default();
        let body = &f.body;
        out.text(1, &f.name);
        body.inputs.iter().for_each(|v| out.bytes(4, body.name_of(*v).as_bytes()));
        body.outputs.iter().for_each(|v| out.bytes(5, body.name_of(*v).as_bytes()));
        f.attributes.iter().for_each(|a| out.bytes(6, a.as_bytes()));
        self.nodes(&mut out, 7, body)?;
        out.text(8, &f.doc);
        opsets(&mut out, 9, &f.opsets);
        out.text(10, &f.domain);
        for attribute in &f.defaults {
            let attribute = self.attribute(attribute)?;
            out.message(11, attribute);
        }
        for id in body.value_ids().filter(|v| body.value(*v).declared) {
            out.message(12, value_info(body.value(id)));
        }
        out.text(13, &f.overload);
        out.entries(14, &f.metadata);
        out.buffer.extend_from_slice(&f.unknown);
        Ok(out)
    }

    fn graph(&mut self, g: &Graph) -> Result<Message> {
        let mut out = Message::default();
        self.nodes(&mut out, 1, g)?;
        out.text(2, &g.name);
        for (id, tensor) in g.initializers() {
            let tensor = self.tensor(g.name_of(id), tensor, true);
            out.message(5, tensor);
        }
        out.text(10, &g.doc);
        g.inputs.iter().for_each(|v| out.message(11, value_info(g.value(*v))));
        g.outputs.iter().for_each(|v| out.message(12, value_info(g.value(*v))));
        let interface: rustc_hash::FxHashSet<_> = g.inputs.iter().chain(&g.outputs).copied().collect();
        for id in g.value_ids().filter(|v| g.value(*v).declared && !interface.contains(v)) {
            out.message(13, value_info(g.value(id)));
        }
        out.entries(16, &g.metadata);
        out.buffer.extend_from_slice(&g.unknown);
        Ok(out)
    }

    fn nodes(&mut self, out: &mut Message, field: u64, g: &Graph) -> Result<()> {
        let order = g
            .order()
            .map_err(|c| SaveError::Cyclic(c.first().map_or_else(String::new, |n| g.node(*n).name.clone())))?;
        for id in order {
            let node = self.node(g, g.node(id))?;
            out.message(field, node);
        }
        Ok(())
    }

    fn node(&mut self, g: &Graph, n: &Node) -> Result<Message> {
        let mut out = Message::default();
        let name = |v: &Option<_>| v.map_or("", |v| g.name_of(v));
        n.inputs.iter().for_each(|v| out.bytes(1, name(v).as_bytes()));
        n.outputs.iter().for_each(|v| out.bytes(2, name(v).as_bytes()));
        out.text(3, &n.name);
        out.text(4, &n.op_type);
        for attribute in &n.attributes {
            let attribute = self.attribute(attribute)?;
            out.message(5, attribute);
        }
        out.text(6, &n.doc);
        out.text(7, &n.domain);
        out.text(8, &n.overload);
        out.entries(9, &n.metadata);
        out.buffer.extend_from_slice(&n.unknown);
        Ok(out)
    }

    fn attribute(&mut self, a: &Attribute) -> Result<Message> {
        let mut out = Message::default();
        if let AttributeValue::Other(bytes) = &a.value {
            out.buffer.extend_from_slice(bytes);
            return Ok(out);
        }
        out.text(1, &a.name);
        let kind = match &a.value {
            AttributeValue::Float(x) => {
                out.tag(2, 5);
                out.buffer.extend(x.to_le_bytes());
                1
            }
            AttributeValue::Int(x) => {
                out.int(3, *x);
                2
            }
            AttributeValue::String(x) => {
                out.bytes(4, x);
                3
            }
            AttributeValue::Tensor(t) => {
                out.message(5, self.tensor(&t.name, t, false));
                4
            }
            AttributeValue::Graph(g) => {
                out.message(6, self.graph(g)?);
                5
            }
            AttributeValue::Floats(list) => {
                out.bytes(7, &list.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
                6
            }
            AttributeValue::Ints(list) => {
                let mut packed = Vec::new();
                list.iter().for_each(|x| put_varint(&mut packed, *x as u64));
                out.bytes(8, &packed);
                7
            }
            AttributeValue::Strings(list) => {
                list.iter().for_each(|x| out.bytes(9, x));
                8
            }
            AttributeValue::Tensors(list) => {
                list.iter().for_each(|t| out.message(10, self.tensor(&t.name, t, false)));
                9
            }
            AttributeValue::Graphs(list) => {
                for g in list {
                    out.message(11, self.graph(g)?);
                }
                10
            }
            AttributeValue::Ref { name, kind } => {
                out.text(21, name);
                i64::from(*kind)
            }
            AttributeValue::Other(_) => 0,
        };
        out.text(13, &a.doc);
        out.int(20, kind);
        out.buffer.extend_from_slice(&a.unknown);
        Ok(out)
    }

    fn tensor(&mut self, name: &str, t: &Tensor, initializer: bool) -> Message {
        let mut out = Message::default();
        if !t.dims.is_empty() {
            let mut packed = Vec::new();
            t.dims.iter().for_each(|d| put_varint(&mut packed, *d as u64));
            out.bytes(1, &packed);
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
        out.buffer.extend_from_slice(&t.unknown);
        out
    }
}

fn opsets(out: &mut Message, field: u64, list: &[Opset]) {
    for opset in list {
        let mut entry = Message::default();
        // The standard domain's empty name is written out: some readers tell a missing field from an empty one.
        entry.bytes(1, opset.domain.as_bytes());
        entry.int_if(2, opset.version);
        out.message(field, entry);
    }
}

fn value_info(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &value.name);
    match &value.ty {
        None => {}
        Some(ValueType::Other(bytes)) => out.bytes(2, bytes),
        Some(ValueType::Tensor { dtype, shape }) => {
            let mut ty = Message::default();
            ty.message(1, tensor_type(*dtype, shape.as_deref()));
            out.message(2, ty);
        }
    }
    out.text(3, &value.doc);
    out.entries(4, &value.metadata);
    out.buffer.extend_from_slice(&value.unknown);
    out
}

fn tensor_type(dtype: DType, shape: Option<&[Dim]>) -> Message {
    let mut tensor = Message::default();
    tensor.int_if(1, i64::from(dtype.0));
    if let Some(shape) = shape {
        let mut dims = Message::default();
        for dim in shape {
            let mut entry = Message::default();
            match dim {
                Dim::Known(n) => entry.int(1, *n as i64),
                Dim::Symbol(name) => entry.text(2, name),
                Dim::Unknown => {}
            }
            dims.message(1, entry);
        }
        tensor.message(2, dims);
    }
    tensor
}
