/// Why a step cannot be prepared or run; each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// An operator nobody here implements.
    #[error("the CPU engine has no operator {op} (node '{node}'); remove it or run the model elsewhere")]
    Unsupported {
        /// Domain and operator.
        op: String,
        /// Node.
        node: String,
    },
    /// A type the engine does not know.
    #[error("'{value}' has the type {dtype}, which the CPU engine does not compute in; convert the model to float32")]
    Type {
        /// Value.
        value: String,
        /// Element type.
        dtype: String,
    },
    /// A tensor that no machine holds.
    #[error("'{0}' of shape {1:?} does not fit into memory; check the shapes the model declares")]
    Memory(String, Vec<usize>),
    /// A value that two models should both have.
    #[error(
        "the {which} model has no value '{value}' to compare; verify takes a training step and what it was compiled to"
    )]
    Incomparable {
        /// `first` or `second`.
        which: &'static str,
        /// Value.
        value: String,
    },
    /// The engine refused the graph.
    #[error("the CPU engine cannot prepare this model: {0}")]
    Prepare(String),
    /// A step failed.
    #[error("the step failed: {0}")]
    Step(String),
    /// A missing input.
    #[error("the model's input '{0}' was not given")]
    MissingInput(String),
    /// An input of another type or shape.
    #[error("the input '{name}' is {got}, the model wants {want}")]
    Input {
        /// Input.
        name: String,
        /// What came.
        got: String,
        /// What was asked for.
        want: String,
    },
    /// An output the model does not have.
    #[error("the model has no output '{0}'")]
    Output(String),
    /// Serialising the graph failed.
    #[error(transparent)]
    Save(#[from] npc_compiler::onnx::SaveError),
    /// Expanding functions failed.
    #[error(transparent)]
    Inline(#[from] npc_compiler::onnx::InlineError),
}

/// Does a part of the work that the engine's library does; where that panics, it is an error like any other.
pub(crate) fn guarded<T>(
    error: fn(String) -> RuntimeError,
    work: impl FnOnce() -> Result<T, RuntimeError>,
) -> Result<T, RuntimeError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("for a reason it does not give").replace('\n', " ");
        Err(error(format!("its library gave up ({text}); check the model's shapes and the indices in the data")))
    })
}

/// A chain of causes as one line, without repeating what an outer one already says.
pub(crate) fn one_line(error: &anyhow_like::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let text: String = text.chars().take(240).collect();
        if !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// tract's error type.
pub(crate) mod anyhow_like {
    pub use tract_onnx::prelude::TractError as Error;
}
