//! Wire format into the intermediate representation.
//!
//! The reader goes over the fields of each message in place; large payloads become windows into the file. Fields it
//! does not know are kept verbatim. The file has passed [`super::scan`] before.

mod graph;
mod node;
mod tensor;
#[cfg(test)]
pub mod tests;
mod types;

use super::LoadError;
use super::external::External;
use super::wire::{Content, Field, Fields, wire};
use crate::graph::{Bytes, Function, Graph, Model, Opset, TrainingInfo};
use rustc_hash::FxHashSet;
use std::ops::Range;

type Result<T> = std::result::Result<T, LoadError>;

/// Reads one file.
pub struct Reader<'a> {
    bytes: &'a [u8],
    source: &'a Bytes,
    external: External,
}

impl<'a> Reader<'a> {
    /// A reader of `source`, a serialised `ModelProto`.
    pub fn new(source: &'a Bytes, external: External) -> Self {
        Reader { bytes: source, source, external }
    }

    /// The model.
    ///
    /// # Errors
    /// Whatever is wrong with the model, with its place.
    pub fn model(&mut self) -> Result<Model> {
        let mut model = Model::default();
        let mut graph = None;
        let mut defined = FxHashSet::default();
        let mut fields = self.fields(0..self.bytes.len());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Varint(x)) => model.ir_version = *x as i64,
                (2, Content::Bytes(r)) => model.producer_name = self.text(r)?,
                (3, Content::Bytes(r)) => model.producer_version = self.text(r)?,
                (4, Content::Bytes(r)) => model.domain = self.text(r)?,
                (5, Content::Varint(x)) => model.model_version = *x as i64,
                (6, Content::Bytes(r)) => model.doc = self.text(r)?,
                (7, Content::Bytes(r)) => once(&mut graph, r)?,
                (8, Content::Bytes(r)) => model.opsets.push(self.opset(r)?),
                (14, Content::Bytes(r)) => model.metadata.push(self.entry(r)?),
                (20, Content::Bytes(r)) => model.training.push(self.training(r)?),
                (25, Content::Bytes(r)) => {
                    let function = self.function(r)?;
                    let key = (function.domain.clone(), function.name.clone(), function.overload.clone());
                    if !defined.insert(key) {
                        return Err(LoadError::invalid(
                            format!("function '{}'", function.name),
                            "is defined twice; keep one of the definitions",
                        ));
                    }
                    model.functions.push(function);
                }
                _ => self.keep(&mut model.unknown, &field),
            }
        }
        if model.ir_version < 1 {
            return Err(LoadError::NoModel("it has no IR version"));
        }
        let graph = graph.ok_or(LoadError::NoModel("it has no graph"))?;
        model.graph = self.graph(graph, true)?.0;
        Ok(model)
    }

    fn training(&mut self, range: &Range<usize>) -> Result<TrainingInfo> {
        let mut info = TrainingInfo::default();
        let (mut initialization, mut algorithm) = (None, None);
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Bytes(r)) => once(&mut initialization, r)?,
                (2, Content::Bytes(r)) => once(&mut algorithm, r)?,
                (3, Content::Bytes(r)) => info.initialization_binding.push(self.entry(r)?),
                (4, Content::Bytes(r)) => info.update_binding.push(self.entry(r)?),
                _ => self.keep(&mut info.unknown, &field),
            }
        }
        // Both graphs may read the main graph's initializers, so names without a source are allowed in them.
        let mut graph = |range: Option<Range<usize>>| range.map(|r| Ok(self.graph(r, false)?.0)).transpose();
        info.initialization = graph(initialization)?;
        info.algorithm = graph(algorithm)?;
        Ok(info)
    }

    fn function(&mut self, range: &Range<usize>) -> Result<Function> {
        let mut function = Function {
            domain: String::new(),
            name: String::new(),
            overload: String::new(),
            attributes: Vec::new(),
            defaults: Vec::new(),
            opsets: Vec::new(),
            body: Graph::default(),
            doc: String::new(),
            metadata: Vec::new(),
            unknown: Vec::new(),
        };
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Bytes(r)) => function.name = self.text(r)?,
                (6, Content::Bytes(r)) => function.attributes.push(self.text(r)?),
                (8, Content::Bytes(r)) => function.doc = self.text(r)?,
                (9, Content::Bytes(r)) => function.opsets.push(self.opset(r)?),
                (10, Content::Bytes(r)) => function.domain = self.domain(r)?,
                (11, Content::Bytes(r)) => function.defaults.push(self.attribute(r, &mut Vec::new())?),
                (13, Content::Bytes(r)) => function.overload = self.text(r)?,
                (14, Content::Bytes(r)) => function.metadata.push(self.entry(r)?),
                // The signature and the body, below.
                (4 | 5 | 7 | 12, Content::Bytes(_)) => {}
                _ => self.keep(&mut function.unknown, &field),
            }
        }
        function.body =
            self.body(range, &function.name).map_err(|e| e.within(|| format!("function '{}'", function.name)))?;
        Ok(function)
    }

    fn opset(&self, range: &Range<usize>) -> Result<Opset> {
        let mut opset = Opset { domain: String::new(), version: 0 };
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Bytes(r)) => opset.domain = self.domain(r)?,
                (2, Content::Varint(x)) => opset.version = *x as i64,
                _ => {}
            }
        }
        Ok(opset)
    }

    /// A `StringStringEntryProto`.
    fn entry(&self, range: &Range<usize>) -> Result<(String, String)> {
        let mut entry = (String::new(), String::new());
        let mut fields = self.fields(range.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &field.content) {
                (1, Content::Bytes(r)) => entry.0 = self.text(r)?,
                (2, Content::Bytes(r)) => entry.1 = self.text(r)?,
                _ => {}
            }
        }
        Ok(entry)
    }

    fn fields(&self, range: Range<usize>) -> Fields<'a> {
        Fields::new(self.bytes, range)
    }

    /// The length-delimited fields with one number.
    fn each(&self, range: &Range<usize>, number: u32) -> impl Iterator<Item = Result<Range<usize>>> + use<'a> {
        let mut fields = self.fields(range.clone());
        std::iter::from_fn(move || {
            loop {
                match fields.next() {
                    Ok(Some(Field { number: n, content: Content::Bytes(range), .. })) if n == number => {
                        return Some(Ok(range));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(e) => return Some(Err(e)),
                }
            }
        })
    }

    fn str(&self, range: &Range<usize>) -> Result<&'a str> {
        std::str::from_utf8(&self.bytes[range.clone()])
            .map_err(|e| wire(range.start + e.valid_up_to(), "text that is not UTF-8"))
    }

    fn text(&self, range: &Range<usize>) -> Result<String> {
        self.str(range).map(str::to_string)
    }

    /// A domain; `ai.onnx` is the standard one's other name.
    fn domain(&self, range: &Range<usize>) -> Result<String> {
        self.str(range).map(|d| if d == "ai.onnx" { String::new() } else { d.to_string() })
    }

    /// Keeps a field verbatim.
    fn keep(&self, unknown: &mut Vec<u8>, field: &Field) {
        unknown.extend_from_slice(&self.bytes[field.span.clone()]);
    }
}

/// Sets a field that may stand in a message once.
fn once(slot: &mut Option<Range<usize>>, range: &Range<usize>) -> Result<()> {
    match slot.replace(range.clone()) {
        None => Ok(()),
        Some(_) => Err(wire(range.start, "a second message where one may stand")),
    }
}
