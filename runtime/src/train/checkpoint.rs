//! Checkpoints in the safetensors format, written beside and renamed.

use super::TrainError;
use super::evaluate::Score;
use crate::HostTensor;
use npc_compiler::graph::{DType, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// Name of the checkpoint in a run's folder.
pub const FILE: &str = "checkpoint.safetensors";

/// Epochs, batches, steps, sums.
pub type Place = (u32, usize, u64, Score);

/// A checkpoint as read.
pub struct Saved {
    pub tensors: HashMap<String, HostTensor>,
    pub place: Place,
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
pub fn write(path: &Path, tensors: &HashMap<String, HostTensor>, place: Place) -> Result<(), TrainError> {
    let failed = |why: String| TrainError::Write { path: path.to_path_buf(), why };
    let mut views = Vec::new();
    for (name, tensor) in tensors {
        let kind = TYPES.iter().find(|(d, _)| *d == tensor.dtype()).map(|(_, k)| *k);
        let kind = kind.ok_or_else(|| failed(format!("'{name}' has the type {}", tensor.dtype())))?;
        let view = TensorView::new(kind, tensor.dims().to_vec(), tensor.bytes()).map_err(|e| failed(e.to_string()))?;
        views.push((name.clone(), view));
    }
    views.sort_by(|a, b| a.0.cmp(&b.0));
    let (epoch, batch, steps, s) = place;
    let bits = |x: f64| x.to_bits().to_string();
    let metadata: HashMap<String, String> = [
        ("npc.epoch", epoch.to_string()),
        ("npc.batch", batch.to_string()),
        ("npc.steps", steps.to_string()),
        ("npc.score", [s.loss_sum, s.loss_count, s.right, s.judged].map(bits).join(" ")),
    ]
    .map(|(k, v)| (k.to_string(), v))
    .into();
    let bytes = serialize(views, Some(metadata)).map_err(|e| failed(e.to_string()))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| failed(e.to_string()))?;
    file.write_all(&bytes).map_err(|e| failed(e.to_string()))?;
    file.persist(path).map_err(|e| failed(e.to_string()))?;
    Ok(())
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
    let entry = |key: &str| header.metadata().as_ref().and_then(|m| m.get(key)).map(String::as_str).unwrap_or_default();
    let score: Vec<f64> = entry("npc.score").split(' ').filter_map(|x| x.parse().ok().map(f64::from_bits)).collect();
    let score = match score[..] {
        [loss_sum, loss_count, right, judged] => Score { loss_sum, loss_count, right, judged },
        _ => Score::default(),
    };
    let number = |key: &str| entry(key).parse::<u64>().unwrap_or(0);
    Ok(Saved { tensors, place: (number("npc.epoch") as u32, number("npc.batch") as usize, number("npc.steps"), score) })
}
