//! Checkpoints in the safetensors format, written beside and renamed.

use super::TrainError;
use super::evaluate::Score;
use crate::HostTensor;
use npc_compiler::files::{self, WriteError};
use npc_compiler::graph::{DType, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use std::collections::HashMap;
use std::path::Path;

/// Name of the checkpoint in a run's folder.
pub const FILE: &str = "checkpoint.safetensors";

/// The metadata entry with the place in the run: epochs, batches, steps, and the bits of the epoch's sums.
const PLACE: &str = "npc.place";

/// Epochs, batches, steps, sums.
pub type Place = (u32, usize, u64, Score);

/// A checkpoint as read.
pub struct Saved {
    pub tensors: HashMap<String, HostTensor>,
    /// `None` in a file that is no checkpoint of a run.
    pub place: Option<Place>,
    /// Steps skipped so far, and when the epoch began.
    pub skipped: [u64; 2],
}

const TYPES: [(DType, Dtype); 7] = [
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::F64, Dtype::F64),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::BOOL, Dtype::BOOL),
];

/// Writes a checkpoint.
pub fn write(
    path: &Path,
    tensors: &HashMap<String, HostTensor>,
    place: Place,
    skipped: [u64; 2],
) -> Result<(), TrainError> {
    let failed = |why: String| WriteError { path: path.to_path_buf(), source: std::io::Error::other(why) };
    let mut views = Vec::new();
    for (name, tensor) in tensors {
        let kind = TYPES.iter().find(|(d, _)| *d == tensor.dtype()).map(|(_, k)| *k);
        let kind = kind.ok_or_else(|| failed(format!("'{name}' has the type {}", tensor.dtype())))?;
        let view = TensorView::new(kind, tensor.dims().to_vec(), tensor.bytes()).map_err(|e| failed(e.to_string()))?;
        views.push((name.clone(), view));
    }
    views.sort_by(|a, b| a.0.cmp(&b.0));
    let (epoch, batch, steps, s) = place;
    let sums = [s.loss_sum, s.loss_count, s.right, s.judged].map(f64::to_bits);
    let numbers = [u64::from(epoch), batch as u64, steps].into_iter().chain(sums).chain(skipped);
    // One entry: several would stand in the file in another order every time.
    let place = numbers.map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let metadata = HashMap::from([(PLACE.to_string(), place)]);
    let bytes = serialize(views, Some(metadata)).map_err(|e| failed(e.to_string()))?;
    Ok(files::write(path, &bytes)?)
}

/// Reads a checkpoint, or any safetensors file.
pub fn read(path: &Path) -> Result<Saved, TrainError> {
    let failed = |why: String| TrainError::Checkpoint { path: path.to_path_buf(), why };
    let bytes = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| failed(format!("it is no safetensors file ({e})")))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| failed(e.to_string()))?;
    let mut tensors = HashMap::new();
    for (name, view) in file.tensors() {
        let kind = TYPES.iter().find(|(_, k)| *k == view.dtype()).map(|(d, _)| *d);
        let kind = kind.ok_or_else(|| failed(format!("'{name}' has a type the CPU engine does not compute in")))?;
        let constant = Tensor::raw(kind, view.shape(), view.data().to_vec());
        tensors.insert(name, HostTensor::from_constant(&constant)?);
    }
    let place = header.metadata().as_ref().and_then(|m| m.get(PLACE)).map_or("", String::as_str);
    let numbers: Vec<u64> = place.split(' ').filter_map(|n| n.parse().ok()).collect();
    let (place, skipped) = match numbers[..] {
        [epoch, batch, steps, loss_sum, loss_count, right, judged, all, before] => {
            let [loss_sum, loss_count, right, judged] = [loss_sum, loss_count, right, judged].map(f64::from_bits);
            let score = Score { loss_sum, loss_count, right, judged };
            (Some((epoch as u32, batch as usize, steps, score)), [all, before])
        }
        _ => (None, [0; 2]),
    };
    Ok(Saved { tensors, place, skipped })
}
