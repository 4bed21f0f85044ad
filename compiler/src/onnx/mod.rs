//! ONNX files in and out.
//!
//! [`load`] maps the file, walks its wire format ([`scan`]) to refuse hostile input and lift the weights out, lets
//! `onnx-protobuf` parse the remaining kilobytes and turns the result into the IR ([`read`]); weights stay in the map.
//! [`save`] writes the IR ([`write`]) beside the target and renames. `onnx-protobuf` is used in this folder only.

mod error;
mod external;
mod inline;
mod read;
mod scan;
mod write;

pub use error::{LoadError, SaveError};
pub use inline::{InlineError, inline_functions};

use crate::graph::{Bytes, Model};
use memmap2::Mmap;
use onnx_protobuf::Message as _;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// protobuf's limit on one message.
const LIMIT: u64 = i32::MAX as u64;

/// Options of [`save`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveOptions {
    /// Put initializers of 1 KiB and more into `<file>.data` beside the model.
    pub external_data: bool,
}

/// Reads a model. Weights stay in the mapped file.
///
/// # Errors
/// An unreadable, damaged, hostile or non-ONNX file; external data that is missing or outside the model's folder.
pub fn load(path: &Path) -> Result<Model, LoadError> {
    let io = |source| LoadError::Io { path: path.to_path_buf(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(io(std::io::Error::other("it is a folder, not a file")));
    }
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(LoadError::Empty);
    }
    // SAFETY: the map is read-only; a file truncated by someone else while mapped is outside our control.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(io)?);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    decode(&map, Some(folder), |range| Bytes::Mapped(map.clone(), range))
}

/// Reads a model from memory. `base` is the folder of its external data.
///
/// # Errors
/// As [`load`].
pub fn parse(bytes: Vec<u8>, base: Option<&Path>) -> Result<Model, LoadError> {
    decode(&bytes, base, |range| Bytes::from(bytes[range].to_vec()))
}

fn decode(
    bytes: &[u8],
    base: Option<&Path>,
    window: impl Fn(std::ops::Range<usize>) -> Bytes,
) -> Result<Model, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if let Some(kind) = foreign(bytes) {
        return Err(LoadError::Foreign(kind));
    }
    let scanned = scan::scan(bytes)?;
    let proto =
        onnx_protobuf::ModelProto::parse_from_bytes(&scanned.rest).map_err(|e| LoadError::Parse(e.to_string()))?;
    drop(scanned.rest);
    let payloads = scanned.payloads.into_iter().map(window).collect();
    let mut reader = read::Reader { payloads, external: external::External::new(base) };
    let model = reader.model(proto)?;
    if model.ir_version < 1 {
        return Err(LoadError::Parse("it has no IR version".into()));
    }
    Ok(model)
}

/// Files people confuse with ONNX models, by their first bytes.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(512)];
    let text = String::from_utf8_lossy(start).trim_start().to_lowercase();
    Some(match () {
        () if start.starts_with(b"PK\x03\x04") => "a zip archive (a PyTorch .pt file, or .npz)",
        () if start.starts_with(b"\x80\x02") => "a pickle (a PyTorch checkpoint)",
        () if start.starts_with(b"\x89HDF") => "an HDF5 file (Keras)",
        () if start.starts_with(b"GGUF") => "a GGUF file",
        () if start.starts_with(b"\x93NUMPY") => "a NumPy array",
        () if start.starts_with(b"\x1f\x8b") => "a gzip file",
        () if start.get(4..8) == Some(b"TFL3") => "a TensorFlow Lite model",
        () if start.get(4..8) == Some(b"ORTM") => "an ONNX Runtime .ort model",
        () if start.get(4..8) == Some(b"ODTC") => "an ONNX Runtime training checkpoint",
        () if start.get(8..9) == Some(b"{") && bytes.len() > 8 && start[4..8] == [0; 4] => "a safetensors file",
        () if text.starts_with("<!doctype") || text.starts_with("<html") => "a web page",
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
    let message = write::Writer { sidecar: None }.model(model)?;
    if message.len() > LIMIT {
        return Err(SaveError::TooLarge(message.len()));
    }
    let mut out = Vec::with_capacity(message.len() as usize);
    message.write_to(&mut out).map_err(|source| SaveError::Io { path: "memory".into(), source })?;
    Ok(out)
}

/// Writes a model: first into a temporary file in the same folder, then renamed over `path`.
///
/// # Errors
/// An unwritable target (nothing is left behind), a cyclic graph, or more than 2 GiB without `external_data`.
pub fn save(model: &Model, path: &Path, options: &SaveOptions) -> Result<(), SaveError> {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let sidecar = options.external_data.then(|| write::Sidecar {
        location: format!("{name}.data"),
        payloads: Vec::new(),
        len: 0,
    });
    let mut writer = write::Writer { sidecar };
    let message = writer.model(model)?;
    if message.len() > LIMIT {
        return Err(SaveError::TooLarge(message.len()));
    }
    let data = writer.sidecar.as_ref().map(|sidecar| {
        let target = path.with_file_name(&sidecar.location);
        let file = replace(&target, |out| {
            let mut at = 0;
            for (offset, bytes) in &sidecar.payloads {
                std::io::copy(&mut std::io::Read::take(std::io::repeat(0), offset - at), out)?;
                out.write_all(bytes)?;
                at = offset + bytes.len() as u64;
            }
            Ok(())
        })?;
        Ok((file, target))
    });
    let data = data.transpose()?;
    let file = replace(path, |out| message.write_to(out))?;
    for (file, target) in data.into_iter().chain([(file, path.to_path_buf())]) {
        file.persist(&target).map_err(|e| SaveError::Io { path: target, source: e.error })?;
    }
    Ok(())
}

/// A finished temporary file beside `path`; it vanishes unless it is persisted.
fn replace(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&std::fs::File>) -> std::io::Result<()>,
) -> Result<tempfile::NamedTempFile, SaveError> {
    let io = |source| SaveError::Io { path: path.to_path_buf(), source };
    if path.is_dir() {
        return Err(io(std::io::Error::other("it is a folder")));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Readable like any other output, not private like a temporary file.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file = builder.prefix(".npc-").tempfile_in(folder).map_err(io)?;
    let mut out = BufWriter::with_capacity(1 << 20, file.as_file());
    fill(&mut out).and_then(|()| out.flush()).map_err(io)?;
    drop(out);
    Ok(file)
}

#[cfg(test)]
mod tests;
