//! One clear diagnostic for everything that can go wrong.

use miette::{Diagnostic, GraphicalReportHandler};
use std::fmt::Display;
use std::io::Write;
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
        say(&format!("error:{}", text.trim_end()));
        ExitCode::from(self.code)
    }
}

/// Exit code after a bug of npc's own, the one Rust's panics have.
pub const BUG: u8 = 101;

/// Makes a panic, wherever it happens, one sentence; with `RUST_BACKTRACE` set, the way it came by too.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("for a reason it does not give").replace('\n', " ");
        let place = panic.location().map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
        say(&format!(
            "error: npc failed inside itself{place}: {what}; no file is left half written: please report this with the command and the model"
        ));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            say(&trace.to_string());
        }
    }));
}

/// Writes a line to standard error. Where nobody reads it, the work goes on.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Problem> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Problem::input(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// Loads a model.
pub fn load(path: &Path) -> Result<npc_compiler::graph::Model, Problem> {
    npc_compiler::onnx::load(path).map_err(Problem::input)
}
