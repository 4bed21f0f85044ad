//! `onnx-protobuf` messages into the intermediate representation.

use super::LoadError;
use super::external::External;
use super::scan::{payload_of, put_varint};
use crate::graph::{
    Attribute, AttributeValue, Bytes, DType, Dim, Function, Graph, Model, Node, Opset, Payload, Tensor, TrainingInfo,
    ValueId, ValueType,
};
use onnx_protobuf as pb;
use onnx_protobuf::Message;
use pb::attribute_proto::AttributeType;

/// Resolves payload tokens and external data while messages become IR.
pub struct Reader {
    /// Lifted payloads in the order of their tokens.
    pub payloads: Vec<Bytes>,
    /// External data files.
    pub external: External,
}

type Result<T> = std::result::Result<T, LoadError>;

impl Reader {
    pub fn model(&mut self, m: pb::ModelProto) -> Result<Model> {
        let graph = match m.graph.into_option() {
            Some(graph) => self.graph(graph, true)?.0,
            None => return Err(LoadError::Parse("the model has no graph".into())),
        };
        Ok(Model {
            ir_version: m.ir_version,
            opsets: opsets(m.opset_import),
            producer_name: m.producer_name,
            producer_version: m.producer_version,
            domain: m.domain,
            model_version: m.model_version,
            doc: m.doc_string,
            graph,
            functions: m.functions.into_iter().map(|f| self.function(f)).collect::<Result<_>>()?,
            training: m.training_info.into_iter().map(|t| self.training(t)).collect::<Result<_>>()?,
            metadata: entries(m.metadata_props),
            unknown: unknown(&m.special_fields),
        })
    }

    fn training(&mut self, t: pb::TrainingInfoProto) -> Result<TrainingInfo> {
        // The algorithm graph may read the main graph's initializers, so names without a source are allowed there.
        let mut graph = |g: protobuf::MessageField<pb::GraphProto>| {
            g.into_option().map(|g| Ok(self.graph(g, false)?.0)).transpose()
        };
        Ok(TrainingInfo {
            initialization: graph(t.initialization)?,
            algorithm: graph(t.algorithm)?,
            initialization_binding: entries(t.initialization_binding),
            update_binding: entries(t.update_binding),
            unknown: unknown(&t.special_fields),
        })
    }

    fn function(&mut self, f: pb::FunctionProto) -> Result<Function> {
        let mut body = Graph::new(&f.name);
        for name in &f.input {
            let id = self.value(&mut body, name);
            body.make_input(id);
        }
        self.nodes(&mut body, f.node)?;
        for name in &f.output {
            let id = self.value(&mut body, name);
            body.outputs.push(id);
        }
        for info in f.value_info {
            self.value_info(&mut body, info);
        }
        Ok(Function {
            domain: domain(f.domain),
            name: f.name,
            overload: f.overload,
            attributes: f.attribute,
            defaults: f
                .attribute_proto
                .into_iter()
                .map(|a| self.attribute(a, &mut Vec::new()))
                .collect::<Result<_>>()?,
            opsets: opsets(f.opset_import),
            body,
            doc: f.doc_string,
            metadata: entries(f.metadata_props),
            unknown: unknown(&f.special_fields),
        })
    }

    /// Returns the graph and the outer names it reads; at the top level (`closed`) there may be none.
    fn graph(&mut self, mut g: pb::GraphProto, closed: bool) -> Result<(Graph, Vec<String>)> {
        for sparse in &mut g.sparse_initializer {
            self.restore(sparse)?;
        }
        let mut graph = Graph::new(&g.name);
        graph.doc = g.doc_string;
        graph.metadata = entries(g.metadata_props);
        graph.unknown = unknown(&g.special_fields);
        for sparse in &g.sparse_initializer {
            put_message(&mut graph.unknown, 15, sparse);
        }
        for annotation in &g.quantization_annotation {
            put_message(&mut graph.unknown, 14, annotation);
        }
        // A sparse initializer is a source too; its content stays in `unknown`.
        let sparse: Vec<String> = g.sparse_initializer.iter().map(|s| s.values.name.clone()).collect();
        for info in g.input {
            if info.name.is_empty() || graph.value_named(&info.name).is_some() {
                return Err(LoadError::invalid(
                    format!("graph input '{}'", info.name),
                    "is declared twice or has no name; names must be unique",
                ));
            }
            let id = self.value_info(&mut graph, info);
            graph.make_input(id);
        }
        for tensor in g.initializer {
            let name = tensor.name.clone();
            let tensor = Tensor { name: String::new(), ..self.tensor(tensor)? };
            let id = self.value(&mut graph, &name);
            if name.is_empty() || graph.value(id).initializer.is_some() {
                return Err(LoadError::invalid(
                    format!("initializer '{name}'"),
                    "stands in the file twice or has no name; names must be unique",
                ));
            }
            let value = graph.value_mut(id);
            if value.ty.is_none() {
                value.ty = Some(ValueType::tensor(tensor.dtype, &tensor.dims));
            }
            value.initializer = Some(tensor);
        }
        self.nodes(&mut graph, g.node)?;
        for info in g.output {
            let known = graph.value_named(&info.name).is_some();
            if closed && !known {
                return Err(LoadError::invalid(format!("graph output '{}'", info.name), "is computed by no node"));
            }
            let id = self.value_info(&mut graph, info);
            graph.outputs.push(id);
        }
        for info in g.value_info {
            self.value_info(&mut graph, info);
        }
        let mut free = Vec::new();
        for id in graph.value_ids() {
            let value = graph.value(id);
            let source = value.producer.is_some()
                || value.is_input
                || value.initializer.is_some()
                || sparse.contains(&value.name);
            if source || (value.consumers.is_empty() && !graph.outputs.contains(&id)) {
                continue;
            }
            if closed {
                let reader = value
                    .consumers
                    .first()
                    .map_or_else(|| "the graph's outputs".into(), |n| place(graph.node(*n), &graph));
                return Err(LoadError::invalid(
                    reader,
                    format!("reads '{}', which no node, input or initializer provides", value.name),
                ));
            }
            free.push(value.name.clone());
        }
        Ok((graph, free))
    }

    fn nodes(&mut self, graph: &mut Graph, nodes: Vec<pb::NodeProto>) -> Result<()> {
        for n in nodes {
            let mut free = Vec::new();
            let attributes = n.attribute.into_iter().map(|a| self.attribute(a, &mut free)).collect::<Result<_>>()?;
            let mut named = |name: &String| (!name.is_empty()).then(|| self.value(graph, name));
            let node = Node {
                inputs: n.input.iter().map(&mut named).collect(),
                outputs: n.output.iter().map(&mut named).collect(),
                captures: free.iter().filter_map(&mut named).collect(),
                name: n.name,
                domain: domain(n.domain),
                op_type: n.op_type,
                overload: n.overload,
                attributes,
                doc: n.doc_string,
                metadata: entries(n.metadata_props),
                unknown: unknown(&n.special_fields),
            };
            for (i, output) in node.outputs.iter().enumerate() {
                let Some(output) = output else { continue };
                let value = graph.value(*output);
                let twice = node.outputs[..i].contains(&Some(*output));
                if twice || value.producer.is_some() || value.is_input || value.initializer.is_some() {
                    return Err(LoadError::invalid(
                        place(&node, graph),
                        format!(
                            "computes '{}', which already has another source; value names must be unique",
                            value.name
                        ),
                    ));
                }
            }
            graph.add_node(node);
        }
        if let Err(cycle) = graph.order() {
            let node = cycle.first().map_or_else(String::new, |n| place(graph.node(*n), graph));
            return Err(LoadError::invalid(node, "lies on a cycle; an ONNX graph must be acyclic"));
        }
        Ok(())
    }

    fn value(&self, graph: &mut Graph, name: &str) -> ValueId {
        graph.value_named(name).unwrap_or_else(|| graph.add_value(name, None))
    }

    fn value_info(&mut self, graph: &mut Graph, info: pb::ValueInfoProto) -> ValueId {
        let id = self.value(graph, &info.name);
        let value = graph.value_mut(id);
        if let Some(ty) = info.type_.into_option() {
            value.ty = Some(value_type(ty));
        }
        value.declared = true;
        value.doc = info.doc_string;
        value.metadata = entries(info.metadata_props);
        value.unknown = unknown(&info.special_fields);
        id
    }

    fn attribute(&mut self, a: pb::AttributeProto, free: &mut Vec<String>) -> Result<Attribute> {
        let kind = a.type_.value();
        if !a.ref_attr_name.is_empty() {
            return Ok(Attribute {
                name: a.name,
                value: AttributeValue::Ref { name: a.ref_attr_name, kind },
                doc: a.doc_string,
                unknown: unknown(&a.special_fields),
            });
        }
        let mut graph = |reader: &mut Self, g: pb::GraphProto| -> Result<Graph> {
            let (graph, names) = reader.graph(g, false)?;
            free.extend(names);
            Ok(graph)
        };
        // IR versions below 4 may leave the type out; then the filled field decides.
        let kind = a.type_.enum_value().ok().filter(|t| *t != AttributeType::UNDEFINED).or_else(|| implied_type(&a));
        let value = match kind {
            Some(AttributeType::FLOAT) => AttributeValue::Float(a.f),
            Some(AttributeType::INT) => AttributeValue::Int(a.i),
            Some(AttributeType::STRING) => AttributeValue::String(a.s),
            Some(AttributeType::FLOATS) => AttributeValue::Floats(a.floats),
            Some(AttributeType::INTS) => AttributeValue::Ints(a.ints),
            Some(AttributeType::STRINGS) => AttributeValue::Strings(a.strings),
            Some(AttributeType::TENSOR) if a.t.is_some() => {
                AttributeValue::Tensor(self.tensor(a.t.unwrap_or_default())?)
            }
            Some(AttributeType::TENSORS) => {
                AttributeValue::Tensors(a.tensors.into_iter().map(|t| self.tensor(t)).collect::<Result<_>>()?)
            }
            Some(AttributeType::GRAPH) if a.g.is_some() => {
                AttributeValue::Graph(Box::new(graph(self, a.g.unwrap_or_default())?))
            }
            Some(AttributeType::GRAPHS) => {
                AttributeValue::Graphs(a.graphs.into_iter().map(|g| graph(self, g)).collect::<Result<_>>()?)
            }
            _ => {
                let mut a = a.clone();
                if let Some(sparse) = a.sparse_tensor.as_mut() {
                    self.restore(sparse)?;
                }
                for sparse in &mut a.sparse_tensors {
                    self.restore(sparse)?;
                }
                let bytes = a.write_to_bytes().map_err(|e| LoadError::Parse(e.to_string()))?;
                return Ok(Attribute {
                    name: a.name,
                    value: AttributeValue::Other(bytes),
                    doc: String::new(),
                    unknown: Vec::new(),
                });
            }
        };
        Ok(Attribute { name: a.name, value, doc: a.doc_string, unknown: unknown(&a.special_fields) })
    }

    /// Puts lifted payloads back into sparse tensors, which are kept as bytes.
    fn restore(&self, sparse: &mut pb::SparseTensorProto) -> Result<()> {
        for tensor in [&mut sparse.values, &mut sparse.indices] {
            if let Some(tensor) = tensor.as_mut()
                && let Some(index) = payload_of(&tensor.raw_data)
            {
                tensor.raw_data = self.payload(index)?.to_vec();
            }
        }
        Ok(())
    }

    fn payload(&self, index: usize) -> Result<Bytes> {
        self.payloads
            .get(index)
            .cloned()
            .ok_or_else(|| LoadError::Parse("a tensor refers to a payload that is not there".into()))
    }

    fn tensor(&mut self, t: pb::TensorProto) -> Result<Tensor> {
        let here = || format!("tensor '{}'", t.name);
        let dtype = DType(t.data_type);
        let dims: Vec<usize> = t
            .dims
            .iter()
            .map(|d| usize::try_from(*d))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| LoadError::invalid(here(), format!("has a negative extent in its shape {:?}", t.dims)))?;
        let length = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let bytes = length.and_then(|n| Some(dtype.byte_len(n).unwrap_or(0)).filter(|b| *b <= isize::MAX as usize));
        let (Some(length), Some(wanted)) = (length, bytes) else {
            return Err(LoadError::invalid(here(), format!("has a shape {dims:?} beyond any memory")));
        };
        if t.segment.is_some() {
            return Err(LoadError::invalid(
                here(),
                "is split into segments, which no ONNX runtime reads; export the model again",
            ));
        }
        let external = t.data_location.value() == 1;
        let payload = if dtype == DType::STRING {
            if t.string_data.len() != length {
                return Err(LoadError::invalid(
                    here(),
                    format!("has {} strings for a shape of {length} elements", t.string_data.len()),
                ));
            }
            Payload::Strings(t.string_data)
        } else {
            let bytes = if external {
                self.external.bytes(&t.name, &entries(t.external_data), wanted)?
            } else if let Some(index) = payload_of(&t.raw_data) {
                self.payload(index)?
            } else if !t.raw_data.is_empty() {
                Bytes::from(t.raw_data)
            } else {
                Bytes::from(typed(dtype, &t.float_data, &t.double_data, &t.int32_data, &t.int64_data, &t.uint64_data))
            };
            if dtype.bits().is_none() {
                return Err(LoadError::invalid(
                    here(),
                    format!("has the element type {}, which this version of npc does not know", dtype.0),
                ));
            }
            if bytes.len() != wanted {
                return Err(LoadError::invalid(
                    here(),
                    format!("has {} bytes of data where its shape {dims:?} of {dtype} asks for {wanted}", bytes.len()),
                ));
            }
            Payload::Raw(bytes)
        };
        Ok(Tensor {
            dtype,
            dims,
            payload,
            name: t.name,
            doc: t.doc_string,
            metadata: entries(t.metadata_props),
            unknown: unknown(&t.special_fields),
        })
    }
}

/// Typed fields as little-endian bytes (onnx.proto says which field holds which type).
fn typed(dtype: DType, floats: &[f32], doubles: &[f64], ints: &[i32], longs: &[i64], ulongs: &[u64]) -> Vec<u8> {
    match dtype {
        DType::F32 | DType::C64 => floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F64 | DType::C128 => doubles.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::I64 => longs.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::U64 => ulongs.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::U32 => ulongs.iter().flat_map(|x| (*x as u32).to_le_bytes()).collect(),
        DType::I32 => ints.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => {
            ints.iter().flat_map(|x| (*x as u16).to_le_bytes()).collect()
        }
        // One byte each; sub-byte types already hold packed bytes here.
        _ => ints.iter().map(|x| *x as u8).collect(),
    }
}

fn implied_type(a: &pb::AttributeProto) -> Option<AttributeType> {
    Some(match () {
        () if a.t.is_some() => AttributeType::TENSOR,
        () if a.g.is_some() => AttributeType::GRAPH,
        () if !a.s.is_empty() => AttributeType::STRING,
        () if !a.ints.is_empty() => AttributeType::INTS,
        () if !a.floats.is_empty() => AttributeType::FLOATS,
        () if !a.strings.is_empty() => AttributeType::STRINGS,
        () if a.f != 0.0 => AttributeType::FLOAT,
        () if a.i != 0 => AttributeType::INT,
        () => return None,
    })
}

fn value_type(ty: pb::TypeProto) -> ValueType {
    use pb::type_proto::Value;
    let plain = ty.denotation.is_empty() && ty.special_fields.unknown_fields().iter().next().is_none();
    if let (Some(Value::TensorType(tensor)), true) = (&ty.value, plain) {
        let denoted = tensor.shape.iter().flat_map(|s| &s.dim).any(|d| !d.denotation.is_empty());
        if !denoted {
            let shape = tensor.shape.as_ref().map(|s| s.dim.iter().map(dim).collect());
            return ValueType::Tensor { dtype: DType(tensor.elem_type), shape };
        }
    }
    ValueType::Other(ty.write_to_bytes().unwrap_or_default())
}

fn dim(d: &pb::tensor_shape_proto::Dimension) -> Dim {
    use pb::tensor_shape_proto::dimension::Value;
    match &d.value {
        Some(Value::DimValue(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        Some(Value::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
        _ => Dim::Unknown,
    }
}

fn place(node: &Node, graph: &Graph) -> String {
    let name = if node.name.is_empty() { node.output(0).map_or("", |v| graph.name_of(v)) } else { &node.name };
    format!("node {} '{name}'", node.op_type)
}

fn domain(domain: String) -> String {
    if domain == "ai.onnx" { String::new() } else { domain }
}

fn opsets(list: Vec<pb::OperatorSetIdProto>) -> Vec<Opset> {
    list.into_iter().map(|o| Opset { domain: domain(o.domain), version: o.version }).collect()
}

fn entries(list: Vec<pb::StringStringEntryProto>) -> Vec<(String, String)> {
    list.into_iter().map(|e| (e.key, e.value)).collect()
}

fn put_message(out: &mut Vec<u8>, field: u64, message: &impl Message) {
    if let Ok(bytes) = message.write_to_bytes() {
        put_varint(out, field << 3 | 2);
        put_varint(out, bytes.len() as u64);
        out.extend(bytes);
    }
}

fn unknown(special: &protobuf::SpecialFields) -> Vec<u8> {
    use protobuf::UnknownValueRef as V;
    let mut out = Vec::new();
    let mut fields: Vec<(u32, V)> = special.unknown_fields().iter().collect();
    fields.sort_by_key(|(number, _)| *number);
    for (number, value) in fields {
        let tag = |wire: u64| u64::from(number) << 3 | wire;
        match value {
            V::Varint(x) => {
                put_varint(&mut out, tag(0));
                put_varint(&mut out, x);
            }
            V::Fixed64(x) => {
                put_varint(&mut out, tag(1));
                out.extend(x.to_le_bytes());
            }
            V::Fixed32(x) => {
                put_varint(&mut out, tag(5));
                out.extend(x.to_le_bytes());
            }
            V::LengthDelimited(x) => {
                put_varint(&mut out, tag(2));
                put_varint(&mut out, x.len() as u64);
                out.extend(x);
            }
        }
    }
    out
}
