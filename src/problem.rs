//! One clear diagnostic for everything that can go wrong.

use miette::{Diagnostic, GraphicalReportHandler};
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

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
const BUG: u8 = 101;

/// The last panic: one that somebody catches and makes an error of is not worth a sentence of its own.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Keeps what a panic says, wherever it happens, as one sentence; with `RUST_BACKTRACE` set, the way it came by too.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("for a reason it does not give").replace('\n', " ");
        let place = panic.location().map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
        let mut text = format!(
            "error: npc failed inside itself{place}: {what}; no file is left half written: please report this with the command and the model"
        );
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            text += &format!("\n{trace}");
        }
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }));
}

/// Reports the panic that ended the work.
pub fn report_panic() -> ExitCode {
    let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    say(&panic.unwrap_or_else(|| "error: npc failed inside itself and does not know where".into()));
    ExitCode::from(BUG)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_kept_as_one_sentence() {
        keep_panics();
        let number = std::hint::black_box(7);
        assert!(std::panic::catch_unwind(|| panic!("no {number}\nat all")).is_err());
        let kept = PANIC.lock().unwrap().clone().unwrap();
        let sentence = kept.lines().next().unwrap();
        assert!(sentence.starts_with("error: npc failed inside itself at src/problem.rs:"), "{kept}");
        assert!(sentence.contains(": no 7 at all; no file is left half written"), "{kept}");
        assert_eq!(report_panic(), ExitCode::from(101));
        assert!(PANIC.lock().unwrap().is_none());
    }
}
