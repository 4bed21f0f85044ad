//! NumPy archives: arrays named like the model's batch inputs, `test/<name>` for the test split.

use super::{Column, DataError, Dataset, Split, Values};
use ndarray::{ArrayD, IxDyn, OwnedRepr};
use ndarray_npy::NpzReader;
use npc_compiler::bindings::Bindings;
use std::path::Path;

/// Loads an archive.
pub fn load(path: &Path, bindings: &Bindings) -> Result<Dataset, DataError> {
    let failed = |why: String| DataError::Read { path: path.to_path_buf(), why };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut archive = NpzReader::new(std::io::BufReader::new(file)).map_err(|e| failed(e.to_string()))?;
    let names = archive.names().map_err(|e| failed(e.to_string()))?;
    let mut split = |prefix: &str, optional: bool| -> Result<Split, DataError> {
        let mut split = Split::default();
        for input in &bindings.inputs {
            let name = format!("{prefix}{}", input.name);
            let Some(entry) = names.iter().find(|n| n.trim_end_matches(".npy") == name) else {
                if optional {
                    return Ok(Split::default());
                }
                let wanted: Vec<&str> = bindings.inputs.iter().map(|i| i.name.as_str()).collect();
                return Err(DataError::Fit(format!(
                    "the model takes {}, the archive holds {}; '{name}' is missing",
                    wanted.join(", "),
                    names.join(", ")
                )));
            };
            let values = read(&mut archive, entry, is_float(&input.dtype)).ok_or_else(|| {
                failed(format!("array '{entry}' has a type that is neither float32/64 nor an integer"))
            })?;
            let count = Column::samples(input, bindings, values.len())?;
            if split.len != 0 && split.len != count {
                return Err(DataError::Fit(format!(
                    "'{name}' has {count} samples where the arrays before it have {}",
                    split.len
                )));
            }
            split.len = count;
            split.columns.push(Column::fit(input, bindings, values, count)?);
        }
        Ok(split)
    };
    Ok(Dataset { train: split("", false)?, test: split("test/", true)?, origin: path.display().to_string() })
}

fn is_float(dtype: &str) -> bool {
    matches!(dtype, "f32" | "f16" | "bf16" | "f64")
}

/// Bytes that a float input takes are pixels and become (x/255 − 0.5)/0.5, as in image folders.
fn read(archive: &mut NpzReader<std::io::BufReader<std::fs::File>>, name: &str, float: bool) -> Option<Values> {
    macro_rules! attempt {
        ($t:ty, $into:expr) => {
            if let Ok(array) = archive.by_name::<OwnedRepr<$t>, IxDyn>(name) {
                let array: ArrayD<$t> = array;
                return Some($into(array.iter().copied().collect::<Vec<$t>>()));
            }
        };
    }
    attempt!(f32, Values::F32);
    attempt!(i64, Values::I64);
    attempt!(i32, |v: Vec<i32>| Values::I64(v.into_iter().map(i64::from).collect()));
    attempt!(u8, |v: Vec<u8>| match float {
        true => Values::F32(v.into_iter().map(super::pixel).collect()),
        false => Values::I64(v.into_iter().map(i64::from).collect()),
    });
    attempt!(bool, |v: Vec<bool>| Values::I64(v.into_iter().map(i64::from).collect()));
    attempt!(i8, |v: Vec<i8>| Values::I64(v.into_iter().map(i64::from).collect()));
    attempt!(i16, |v: Vec<i16>| Values::I64(v.into_iter().map(i64::from).collect()));
    attempt!(u16, |v: Vec<u16>| Values::I64(v.into_iter().map(i64::from).collect()));
    attempt!(u32, |v: Vec<u32>| Values::I64(v.into_iter().map(i64::from).collect()));
    attempt!(f64, |v: Vec<f64>| Values::F32(v.into_iter().map(|x| x as f32).collect()));
    None
}
