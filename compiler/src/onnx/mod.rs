//! ONNX files in and out.
//!
//! [`load`] maps the file, walks its wire format ([`scan`]) to refuse damaged and hostile input before anything is
//! allocated, and reads it straight into the IR ([`read`]); weights stay in the map. [`save`] writes the IR ([`write`])
//! beside the target and renames. Both speak protobuf's wire format themselves ([`wire`]): the general parser for ONNX
//! copies every weight, ends at 2 GiB and builds only with a protobuf release of known recursion flaw; tests use it as
//! the independent witness.

mod attribute_type;
mod error;
mod external;
mod inline;
mod read;
mod scan;
mod wire;
mod write;

pub use error::{LoadError, SaveError};
pub use inline::{InlineError, inline_functions};

use crate::files::{Target, WriteError};
use crate::graph::{Bytes, MappedFile, Model, Tensor};
use std::path::Path;

/// protobuf's limit on one message.
const LIMIT: u64 = i32::MAX as u64;

/// Options of [`save`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveOptions {
    /// Put initializers of 1 KiB and more into `<file>.data` beside the model.
    pub external_data: bool,
}

/// Reads a model. Weights stay in the mapped file, so nobody may change it in place while the model lives; replacing
/// it by a rename, as [`save`] does, is fine.
///
/// # Errors
/// An unreadable, damaged, hostile or non-ONNX file; external data that is missing or outside the model's folder.
pub fn load(path: &Path) -> Result<Model, LoadError> {
    let io = |source| LoadError::Io { path: path.to_path_buf(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let about = file.metadata().map_err(io)?;
    if about.is_dir() {
        return Err(io(std::io::Error::other("it is a folder, not a file")));
    }
    if about.is_file() && about.len() == 0 {
        return Err(LoadError::Empty.of_file(path));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let bytes = if about.is_file() {
        Bytes::from(MappedFile::new(file).map_err(io)?)
    } else {
        // A pipe cannot be mapped.
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut bytes).map_err(io)?;
        Bytes::from(bytes)
    };
    parse(bytes, Some(folder)).map_err(|e| e.of_file(path))
}

/// Reads a model from memory; its tensors are windows into `bytes`. `base` is the folder of its external data.
///
/// # Errors
/// As [`load`].
pub fn parse(bytes: impl Into<Bytes>, base: Option<&Path>) -> Result<Model, LoadError> {
    let bytes = bytes.into();
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if let Some(kind) = foreign(&bytes) {
        return Err(LoadError::Foreign(kind));
    }
    scan::scan(&bytes)?;
    read::Reader::new(&bytes, external::External::new(base)).model()
}

/// Reads a serialised `TensorProto`, the form in which ONNX ships the inputs and outputs of test vectors (`*.pb`).
///
/// # Errors
/// Damaged bytes, or elements in another file.
pub fn parse_tensor(bytes: impl Into<Bytes>) -> Result<Tensor, LoadError> {
    let bytes = bytes.into();
    scan::scan_tensor(&bytes)?;
    read::Reader::new(&bytes, external::External::new(None)).tensor(0..bytes.len())
}

/// Files people confuse with ONNX models, by their first bytes.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(512)];
    let text = String::from_utf8_lossy(start).trim_start().to_lowercase();
    // A flatbuffer starts with a small 32-bit offset and may carry an identifier behind it.
    let flatbuffer = start.get(2..4) == Some(&[0, 0]);
    let identifier = start.get(4..8).filter(|_| flatbuffer);
    // A safetensors file starts with the 64-bit length of its JSON header.
    let header = start.first_chunk::<8>().map(|n| u64::from_le_bytes(*n)).filter(|n| *n < 1 << 32);
    Some(match () {
        () if start.starts_with(b"PK\x03\x04") => "a zip archive (a PyTorch .pt file, or .npz)",
        () if start.starts_with(b"\x80") && matches!(start.get(1), Some(2..=5)) => "a pickle (a PyTorch checkpoint)",
        () if start.starts_with(b"\x89HDF") => "an HDF5 file (Keras)",
        () if start.starts_with(b"GGUF") => "a GGUF file",
        () if start.starts_with(b"\x93NUMPY") => "a NumPy array",
        () if start.starts_with(b"\x1f\x8b") => "a gzip file",
        () if identifier == Some(b"TFL3") => "a TensorFlow Lite model",
        () if identifier == Some(b"ORTM") => "an ONNX Runtime .ort model",
        () if identifier == Some(b"ODTC") => "an ONNX Runtime training checkpoint",
        () if header.is_some() && start.get(8) == Some(&b'{') => "a safetensors file",
        () if text.starts_with("<!doctype") || text.starts_with("<html") => "a web page",
        () if text.starts_with("<?xml") => "an XML file",
        () if text.starts_with("version https://git-lfs") => "a Git LFS pointer (run git lfs pull)",
        () if text.starts_with('{') => "a JSON file",
        () => return None,
    })
}

/// Serialises a model into memory.
///
/// # Errors
/// A cyclic graph, or more than 2 GiB.
pub fn to_bytes(model: &Model) -> Result<Vec<u8>, SaveError> {
    let message = limited(write::Writer { sidecar: None }.model(model)?)?;
    let mut out = Vec::with_capacity(message.len() as usize);
    message.write_to(&mut out).map_err(|source| WriteError { path: "memory".into(), source })?;
    Ok(out)
}

/// Writes a model: first into a temporary file in the same folder, then renamed over `path`. The same model gives the
/// same bytes.
///
/// # Errors
/// An unwritable target (nothing is left behind), a cyclic graph, or more than 2 GiB without `external_data`.
pub fn save(model: &Model, path: &Path, options: &SaveOptions) -> Result<(), SaveError> {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let sidecar = options.external_data.then(|| write::Sidecar::new(format!("{name}.data")));
    let mut writer = write::Writer { sidecar };
    let message = limited(writer.model(model)?)?;
    let mut target = Target::new(path)?;
    if let Some(sidecar) = &writer.sidecar {
        if target.is_special() {
            return Err(SaveError::NoSidecar(path.to_path_buf()));
        }
        let mut data = Target::new(&path.with_file_name(&sidecar.location))?;
        data.fill(|out| sidecar.write_to(out))?;
        target.fill(|out| message.write_to(out))?;
        data.finish()?;
    } else {
        target.fill(|out| message.write_to(out))?;
    }
    Ok(target.finish()?)
}

fn limited(message: write::Message) -> Result<write::Message, SaveError> {
    if message.len() > LIMIT { Err(SaveError::TooLarge(message.len())) } else { Ok(message) }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use read::tests::all_models;
#[cfg(test)]
pub(crate) use tests::random;
