use crate::files::WriteError;
use std::path::{Path, PathBuf};

/// Why a model could not be loaded; each is one sentence with the place and a way out.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be opened or mapped.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// What is wrong with a particular file.
    #[error("{}: {error}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<LoadError>,
    },
    /// Zero bytes.
    #[error("the file is empty; export the model again")]
    Empty,
    /// Recognisably something else.
    #[error("this is {0}, not an ONNX model; export it with torch.onnx.export or the tool's ONNX exporter")]
    Foreign(&'static str),
    /// Broken wire format.
    #[error("not a valid ONNX file: {what} at byte {at}; the file is truncated or damaged, or is not ONNX")]
    Wire {
        /// Byte offset.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Protobuf without what makes a model.
    #[error("not an ONNX model: {0}; export the model again")]
    NoModel(&'static str),
    /// Well-formed protobuf that is no valid model.
    #[error("{place}: {what}")]
    Invalid {
        /// Node, tensor or value.
        place: String,
        /// What is wrong and what to do.
        what: String,
    },
}

impl LoadError {
    pub(super) fn invalid(place: impl Into<String>, what: impl Into<String>) -> Self {
        LoadError::Invalid { place: place.into(), what: what.into() }
    }

    /// The same error, its place lying inside `outer`.
    pub(super) fn within(self, outer: impl FnOnce() -> String) -> Self {
        match self {
            LoadError::Invalid { place, what } => LoadError::Invalid { place: format!("{}, {place}", outer()), what },
            other => other,
        }
    }

    /// The same error, with the file it was found in.
    pub(super) fn of_file(self, path: &Path) -> Self {
        match self {
            LoadError::Io { .. } | LoadError::File { .. } => self,
            error => LoadError::File { path: path.to_path_buf(), error: Box::new(error) },
        }
    }
}

/// Why a model could not be saved. The target is untouched when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Protobuf's limit.
    #[error("the model takes {0} bytes, more than the 2 GiB one ONNX file may hold; save it with --external-data")]
    TooLarge(u64),
    /// A graph with a cycle has no valid order of nodes.
    #[error("the graph has a cycle through {0}; nothing was written")]
    Cyclic(String),
    /// External data needs a file beside the model.
    #[error("{} is no ordinary file, so external data has no place beside it; save without --external-data", .0.display())]
    NoSidecar(PathBuf),
}
