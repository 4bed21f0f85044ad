//! Nodes and their attributes.

use super::graph::place;
use super::{Content, LoadError, Reader, Result};
use crate::graph::{Attribute, AttributeValue, Graph, Node, Tensor};
use crate::onnx::attribute_type as kinds;
use crate::onnx::wire::{packed, wire};
use std::ops::Range;

impl Reader<'_> {
    pub(super) fn node(&mut self, graph: &mut Graph, range: &Range<usize>) -> Result<Node> {
        let mut node = Node::new("", []);
        let mut free = Vec::new();
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1 | 2, Content::Bytes(r)) => {
                    let value = (!r.is_empty()).then(|| Ok(graph.intern(self.str(r)?))).transpose()?;
                    if field.number == 1 { node.inputs.push(value) } else { node.outputs.push(value) }
                }
                (3, Content::Bytes(r)) => node.name = self.text(r)?,
                (4, Content::Bytes(r)) => node.op_type = self.text(r)?,
                (5, Content::Bytes(r)) => {
                    let attribute = self.attribute(r, &mut free).map_err(|e| e.within(|| place(&node, graph)))?;
                    node.attributes.push(attribute);
                }
                (6, Content::Bytes(r)) => node.doc = self.text(r)?,
                (7, Content::Bytes(r)) => node.domain = self.domain(r)?,
                (8, Content::Bytes(r)) => node.overload = self.text(r)?,
                (9, Content::Bytes(r)) => node.metadata.push(self.entry(r)?),
                _ => self.keep(&mut node.unknown, &field),
            }
        }
        if node.op_type.is_empty() {
            return Err(LoadError::invalid(place(&node, graph), "names no operator; export the model again"));
        }
        for name in free {
            let value = graph.intern(&name);
            if !node.captures.contains(&value) {
                node.captures.push(value);
            }
        }
        Ok(node)
    }

    /// An attribute; names that its sub-graphs read from outside are added to `free`.
    pub(super) fn attribute(&mut self, range: &Range<usize>, free: &mut Vec<String>) -> Result<Attribute> {
        let mut attribute = Attribute::new("", 0i64);
        let (mut kind, mut reference, mut filled) = (0, String::new(), Vec::new());
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Bytes(r)) => attribute.name = self.text(r)?,
                (13, Content::Bytes(r)) => attribute.doc = self.text(r)?,
                (20, Content::Varint(x)) => kind = *x as i32,
                (21, Content::Bytes(r)) => reference = self.text(r)?,
                (number @ (2..=11 | 14 | 15 | 22 | 23), _) => {
                    if filled.last() != Some(&number) {
                        filled.push(number);
                    }
                }
                _ => self.keep(&mut attribute.unknown, &field),
            }
        }
        if kind == 0 {
            // IR versions below 4 may leave the type out; then the filled field decides.
            kind = filled.first().map_or(0, |field| kinds::of_field(*field));
        }
        attribute.value = if !reference.is_empty() && filled.is_empty() {
            AttributeValue::Ref { name: reference, kind }
        } else if reference.is_empty() && filled.iter().all(|field| kinds::of_field(*field) == kind) {
            let place = |e: LoadError| e.within(|| format!("attribute '{}'", attribute.name));
            self.value(kind, range, free).map_err(place)?
        } else {
            self.verbatim(range)
        };
        if matches!(attribute.value, AttributeValue::Other(_)) {
            // The bytes hold these too.
            attribute.doc.clear();
            attribute.unknown.clear();
        }
        Ok(attribute)
    }

    fn verbatim(&self, range: &Range<usize>) -> AttributeValue {
        AttributeValue::Other(self.bytes[range.clone()].to_vec())
    }

    fn value(&mut self, kind: i32, range: &Range<usize>, free: &mut Vec<String>) -> Result<AttributeValue> {
        Ok(match kind {
            kinds::FLOAT => AttributeValue::Float(self.floats(range, 2)?.last().copied().unwrap_or_default()),
            kinds::INT => AttributeValue::Int(self.ints(range, 3)?.last().copied().unwrap_or_default()),
            kinds::STRING => AttributeValue::String(self.strings(range, 4)?.pop().unwrap_or_default()),
            kinds::FLOATS => AttributeValue::Floats(self.floats(range, 7)?),
            kinds::INTS => AttributeValue::Ints(self.ints(range, 8)?),
            kinds::STRINGS => AttributeValue::Strings(self.strings(range, 9)?),
            kinds::TENSOR => match self.one(range, 5)? {
                Some(tensor) => AttributeValue::Tensor(self.tensor(tensor)?),
                None => self.verbatim(range),
            },
            kinds::GRAPH => match self.one(range, 6)? {
                Some(graph) => AttributeValue::Graph(Box::new(self.sub_graph(graph, free)?)),
                None => self.verbatim(range),
            },
            kinds::TENSORS => {
                AttributeValue::Tensors(self.each(range, 10).map(|t| self.tensor(t?)).collect::<Result<Vec<Tensor>>>()?)
            }
            kinds::GRAPHS => AttributeValue::Graphs(
                self.each(range, 11).map(|g| self.sub_graph(g?, free)).collect::<Result<Vec<Graph>>>()?,
            ),
            _ => self.verbatim(range),
        })
    }

    fn sub_graph(&mut self, range: Range<usize>, free: &mut Vec<String>) -> Result<Graph> {
        let (graph, names) = self.graph(range, false)?;
        free.extend(names);
        Ok(graph)
    }

    /// The only field with this number.
    fn one(&self, range: &Range<usize>, number: u32) -> Result<Option<Range<usize>>> {
        let mut found = self.each(range, number);
        let first = found.next().transpose()?;
        match found.next().transpose()? {
            None => Ok(first),
            Some(second) => Err(wire(second.start, "a second message where one may stand")),
        }
    }

    /// Repeated float32, packed or not.
    fn floats(&self, range: &Range<usize>, number: u32) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match field.content {
                _ if field.number != number => {}
                Content::Fixed32(x) => values.push(f32::from_le_bytes(x)),
                Content::Bytes(r) if r.len() % 4 == 0 => {
                    values.extend(self.bytes[r].as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)));
                }
                _ => return Err(wire(field.span.start, "floats of another wire type or length")),
            }
        }
        Ok(values)
    }

    /// Repeated int64, packed or not.
    pub(super) fn ints(&self, range: &Range<usize>, number: u32) -> Result<Vec<i64>> {
        let mut values = Vec::new();
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match field.content {
                _ if field.number != number => {}
                Content::Varint(x) => values.push(x as i64),
                Content::Bytes(r) => packed(self.bytes, r, |x| values.push(x as i64))?,
                _ => return Err(wire(field.span.start, "integers of another wire type")),
            }
        }
        Ok(values)
    }

    pub(super) fn strings(&self, range: &Range<usize>, number: u32) -> Result<Vec<Vec<u8>>> {
        self.each(range, number).map(|r| Ok(self.bytes[r?].to_vec())).collect()
    }
}
