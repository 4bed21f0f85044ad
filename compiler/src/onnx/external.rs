//! Tensor data kept in files beside the model.

use super::LoadError;
use crate::graph::{Bytes, MappedFile};
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// External data files of one model, each mapped once.
#[derive(Default)]
pub struct External {
    /// Folder of the model; `None` for a model that does not come from a file.
    base: Option<PathBuf>,
    maps: HashMap<PathBuf, Arc<MappedFile>>,
}

impl External {
    /// Files are looked up in `base` and nowhere else.
    pub fn new(base: Option<&Path>) -> Self {
        External { base: base.map(Path::to_path_buf), maps: HashMap::new() }
    }

    /// The bytes a tensor's `external_data` entries point at; `wanted` is how many its shape asks for, `place` names it.
    ///
    /// # Errors
    /// A path that leaves the model's folder, a missing file, a range outside the file.
    pub fn bytes(
        &mut self,
        place: &str,
        entries: &[(String, String)],
        wanted: Option<usize>,
    ) -> Result<Bytes, LoadError> {
        let here = || place.to_string();
        let entry = |key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<usize>().map(Some).map_err(|_| {
                LoadError::invalid(here(), format!("has external data with the {key} '{text}', which is no number"))
            }),
        };
        let Some(location) = entry("location").filter(|l| !l.is_empty()) else {
            return Err(LoadError::invalid(here(), "is kept in an external file but names none"));
        };
        let relative = Path::new(location);
        if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(LoadError::invalid(
                here(),
                format!("points to '{location}', outside the model's folder; move the file beside the model"),
            ));
        }
        let Some(base) = self.base.clone() else {
            return Err(LoadError::invalid(
                here(),
                format!("is kept in '{location}', but the model was not read from a folder"),
            ));
        };
        let path = base.join(relative);
        let map = match self.maps.get(&path) {
            Some(map) => map.clone(),
            None => {
                let missing = |source: std::io::Error| {
                    LoadError::invalid(
                        here(),
                        format!(
                            "is kept in {}, which cannot be read ({source}); copy it beside the model",
                            path.display()
                        ),
                    )
                };
                let real = path.canonicalize().map_err(missing)?;
                if !base.canonicalize().is_ok_and(|base| real.starts_with(base)) {
                    return Err(LoadError::invalid(
                        here(),
                        format!(
                            "points to '{location}', a link that leaves the model's folder; copy the file beside the model"
                        ),
                    ));
                }
                let file = std::fs::File::open(&real).map_err(missing)?;
                let map = Arc::new(MappedFile::new(file).map_err(missing)?);
                self.maps.insert(path.clone(), map.clone());
                map
            }
        };
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.or(wanted).unwrap_or(map.len().saturating_sub(offset));
        match offset.checked_add(length).filter(|end| *end <= map.len()) {
            Some(end) => Ok(Bytes::Mapped(map, offset..end)),
            None => Err(LoadError::invalid(
                here(),
                format!("asks for bytes {offset} to {offset}+{length} of '{location}', which has {}", map.len()),
            )),
        }
    }
}
