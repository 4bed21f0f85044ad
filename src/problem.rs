//! One clear diagnostic for everything that can go wrong.

use miette::{Diagnostic, GraphicalReportHandler};
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

/// What went wrong, where, and what can be done.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct Problem {
    message: String,
    code: u8,
}

impl Problem {
    /// Bad input (exit code 3).
    pub fn input(error: impl Display) -> Self {
        Problem { message: error.to_string(), code: 3 }
    }

    /// Bad input in a file.
    pub fn file(path: &Path, error: impl Display) -> Self {
        Problem::input(format!("{}: {error}", path.display()))
    }

    /// Wrong usage (exit code 2).
    pub fn usage(error: impl Display) -> Self {
        Problem { message: error.to_string(), code: 2 }
    }

    /// Prints the diagnostic to standard error; returns its exit code.
    pub fn report(&self) -> ExitCode {
        let mut text = String::new();
        let handler = GraphicalReportHandler::new_themed(if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            miette::GraphicalTheme::unicode()
        } else {
            miette::GraphicalTheme::unicode_nocolor()
        });
        if handler.with_width(10_000).render_report(&mut text, self).is_err() {
            text = self.message.clone();
        }
        eprint!("error:{text}");
        ExitCode::from(self.code)
    }
}

/// Writes to standard output; a closed pipe ends the program quietly.
pub fn print(text: &str) -> Result<(), Problem> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(Problem::input(format!("cannot write to standard output: {e}"))),
        Ok(()) => Ok(()),
    }
}

/// Loads a model.
pub fn load(path: &Path) -> Result<npc_compiler::graph::Model, Problem> {
    npc_compiler::onnx::load(path).map_err(|e| Problem::file(path, e))
}
