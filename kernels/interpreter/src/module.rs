//! A parsed and linked PTX text.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::link::{Linked, link};
use crate::parse::{ParseError, parse};
use crate::program::Kernel;

/// A PTX text, ready to be launched.
#[derive(Debug)]
pub struct Module {
    pub(crate) linked: Linked,
    /// Tells the modules of one process apart, for their variables.
    pub(crate) identity: u64,
}

impl Module {
    /// Parses a PTX text and decodes every instruction of it.
    ///
    /// # Errors
    /// [`ParseError`], with the line: the text is malformed, or has an opcode, modifier or directive that is not known.
    pub fn parse(ptx: &str) -> Result<Module, ParseError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let linked = link(&parse(ptx)?)?;
        Ok(Module { linked, identity: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    /// The names of the entries, in alphabetical order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.linked.kernels.keys().map(String::as_str)
    }

    /// An entry by its name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.linked.kernels.get(name)
    }
}
