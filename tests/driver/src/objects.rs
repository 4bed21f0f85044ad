//! The objects of a library, by their handles.

use crate::driver::Handle;
use crate::refusal::{Answer, misuse};
use std::collections::BTreeMap;

/// An object of a library.
pub fn object<'a, T, C>(table: &'a BTreeMap<Handle, T>, handle: Handle, what: &str, code: C) -> Answer<&'a T, C> {
    table.get(&handle).map_or_else(|| misuse(code, format!("there is no {what} {handle:#x}")), Ok)
}

/// An object of a library, to change it.
pub fn object_mut<'a, T, C>(
    table: &'a mut BTreeMap<Handle, T>,
    handle: Handle,
    what: &str,
    code: C,
) -> Answer<&'a mut T, C> {
    table.get_mut(&handle).map_or_else(|| misuse(code, format!("there is no {what} {handle:#x}")), Ok)
}

/// Takes an object of a library away.
pub fn destroy<T, C>(table: &mut BTreeMap<Handle, T>, handle: Handle, what: &str, code: C) -> Answer<(), C> {
    match table.remove(&handle) {
        Some(_) => Ok(()),
        None => misuse(code, format!("there is no {what} {handle:#x}")),
    }
}

/// How many of a library's objects were not destroyed.
pub fn left(counts: &[(&str, usize)]) -> Vec<String> {
    counts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect()
}
