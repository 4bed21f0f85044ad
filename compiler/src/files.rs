//! Output files that appear whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Error, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that cannot be written. What was there before is untouched when this is returned.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; choose another output path", path.display())]
pub struct WriteError {
    /// File.
    pub path: PathBuf,
    /// Cause.
    pub source: Error,
}

/// Puts `content` at `path`: first into a temporary file in the same folder, then renamed over it.
///
/// # Errors
/// A folder that is missing or not writable, a full disk.
pub fn write(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    let mut target = Target::new(path)?;
    target.fill(|out| out.write_all(content))?;
    target.finish()
}

/// A file being written.
pub struct Target {
    path: PathBuf,
    sink: Sink,
}

enum Sink {
    /// A file beside the target; it vanishes unless it is renamed over it.
    Beside(NamedTempFile),
    /// A pipe or a device, which must not be replaced by a file.
    Special(File),
}

impl Target {
    /// Opens a temporary file beside `path`.
    ///
    /// # Errors
    /// A folder that is missing or not writable, a `path` that is a folder.
    pub fn new(path: &Path) -> Result<Self, WriteError> {
        let io = |source| WriteError { path: path.to_path_buf(), source };
        let sink = match std::fs::metadata(path) {
            Ok(about) if about.is_dir() => return Err(io(Error::other("it is a folder"))),
            Ok(about) if !about.is_file() => Sink::Special(File::options().write(true).open(path).map_err(io)?),
            Ok(about) if about.permissions().readonly() => return Err(io(Error::other("the file there is read-only"))),
            _ => Sink::Beside(temporary(path).map_err(io)?),
        };
        Ok(Target { path: path.to_path_buf(), sink })
    }

    /// True for a pipe or a device, beside which nothing can be put.
    pub fn is_special(&self) -> bool {
        matches!(self.sink, Sink::Special(_))
    }

    /// Writes the content.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn fill(&mut self, write: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>) -> Result<(), WriteError> {
        let file = match &self.sink {
            Sink::Beside(file) => file.as_file(),
            Sink::Special(file) => file,
        };
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let written = write(&mut out).and_then(|()| out.flush());
        written.map_err(|source| WriteError { path: self.path.clone(), source })
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// A rename that fails; the temporary file is gone then.
    pub fn finish(self) -> Result<(), WriteError> {
        match self.sink {
            Sink::Special(_) => Ok(()),
            Sink::Beside(file) => match file.persist(&self.path) {
                Ok(_) => Ok(()),
                Err(e) => Err(WriteError { path: self.path, source: e.error }),
            },
        }
    }
}

fn temporary(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Error::other(format!("there is no folder {}", folder.display())));
    }
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Readable like any other output, not private like a temporary file.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".npc-").tempfile_in(folder)
}
