use std::path::PathBuf;

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
    /// The protobuf parser refused what the scanner let through.
    #[error("not a valid ONNX file: {0}; export the model again")]
    Parse(String),
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
}

/// Why a model could not be saved. The target is untouched when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Protobuf's limit.
    #[error("the model takes {0} bytes, more than the 2 GiB one ONNX file may hold; save it with --external-data")]
    TooLarge(u64),
    /// A graph with a cycle has no valid order of nodes.
    #[error("the graph has a cycle through {0}")]
    Cyclic(String),
}
