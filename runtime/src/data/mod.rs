//! Training data: image folders in IDX format, NumPy archives.

mod idx;
mod npz;
mod split;

pub use split::{Column, Split, Values, batch_size, shape_text};

use npc_compiler::bindings::Bindings;
use std::path::{Path, PathBuf};

/// Training and test samples, one column per batch input of the model.
pub struct Dataset {
    /// Samples to train on.
    pub train: Split,
    /// Samples to measure on.
    pub test: Split,
    /// Where they come from, for messages.
    pub origin: String,
}

/// Why data cannot be used; each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Nothing there.
    #[error(
        "no data at {0}: give a folder with IDX files, an .npz file, or one of the names fashion-mnist, fashion-mnist-10k"
    )]
    NotFound(PathBuf),
    /// The full Fashion-MNIST is not on this machine.
    #[error(
        "Fashion-MNIST is not on this machine: install Debian's package dataset-fashion-mnist, or put its four .gz files into a folder and name it in NPC_DATA or --data"
    )]
    NoFashionMnist,
    /// A file cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        why: String,
    },
    /// Data of another shape than the model's input.
    #[error("the data does not fit the model: {0}")]
    Fit(String),
    /// A label that is no class of the model.
    #[error("label {label} of sample {sample} is out of range: the model has {classes} classes (0 to {})", classes - 1)]
    Label {
        /// The label.
        label: i64,
        /// Index of the sample.
        sample: usize,
        /// Classes of the model.
        classes: usize,
    },
}

/// Share of the samples held out for testing where the data has no test split of its own: one in ten, the last ones.
const HELD_OUT: usize = 10;

/// Loads data for a model. `spec` is `fashion-mnist`, `fashion-mnist-10k`, a folder of IDX files, or an `.npz` file.
///
/// # Errors
/// Missing or damaged files; samples that do not fit the model's inputs.
pub fn load(spec: &str, bindings: &Bindings) -> Result<Dataset, DataError> {
    let path = PathBuf::from(spec);
    let mut dataset = match spec {
        "fashion-mnist" => images(&fashion_mnist().ok_or(DataError::NoFashionMnist)?, bindings)?,
        "fashion-mnist-10k" => {
            images(&shipped().ok_or_else(|| DataError::NotFound("models/fashion-mnist".into()))?, bindings)?
        }
        _ if path.is_dir() => images(&path, bindings)?,
        _ if path.extension().is_some_and(|e| e == "npz") && path.is_file() => npz::load(&path, bindings)?,
        _ => return Err(DataError::NotFound(path)),
    };
    if dataset.test.len == 0 {
        dataset.test = dataset.train.split_off(dataset.train.len - dataset.train.len / HELD_OUT);
    }
    if dataset.train.len == 0 {
        return Err(DataError::Fit(format!("{} has no samples", dataset.origin)));
    }
    Ok(dataset)
}

/// The folder with the full set: `$NPC_DATA`, Debian's package, the user's cache.
fn fashion_mnist() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")));
    [
        std::env::var_os("NPC_DATA").map(PathBuf::from),
        Some("/usr/share/datasets/fashion-mnist".into()),
        cache.map(|c| c.join("npc/fashion-mnist")),
    ]
    .into_iter()
    .flatten()
    .find(|folder| idx::find(folder, "train-images").is_some())
}

/// The shipped part, looked for from the working folder upwards.
fn shipped() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|p| p.join("models/fashion-mnist")).find(|p| idx::find(p, "t10k-images").is_some())
}

/// Images and labels in IDX files: `train-*` and `t10k-*` as MNIST names them. Pixels become (x/255 − 0.5)/0.5.
fn images(folder: &Path, bindings: &Bindings) -> Result<Dataset, DataError> {
    let pair = |stem: &str| -> Result<Option<(idx::Array, idx::Array)>, DataError> {
        match (idx::find(folder, &format!("{stem}-images")), idx::find(folder, &format!("{stem}-labels"))) {
            (Some(images), Some(labels)) => Ok(Some((idx::read(&images)?, idx::read(&labels)?))),
            _ => Ok(None),
        }
    };
    let (train, test) = (pair("train")?, pair("t10k")?);
    if train.is_none() && test.is_none() {
        return Err(DataError::NotFound(folder.to_path_buf()));
    }
    let split = |pair: Option<(idx::Array, idx::Array)>| match pair {
        None => Ok(Split::default()),
        Some((images, labels)) => image_split(&images, &labels, bindings),
    };
    let (train, test) = (split(train)?, split(test)?);
    // The t10k files alone serve as training data with a part held out.
    let (train, test) = if train.len == 0 { (test, train) } else { (train, test) };
    Ok(Dataset { train, test, origin: folder.display().to_string() })
}

/// A pixel in [−1, 1].
fn pixel(byte: u8) -> f32 {
    (f32::from(byte) / 255.0 - 0.5) / 0.5
}

fn image_split(images: &idx::Array, labels: &idx::Array, bindings: &Bindings) -> Result<Split, DataError> {
    let count = images.dims.first().copied().unwrap_or(0);
    if labels.dims != [count] {
        return Err(DataError::Fit(format!("{count} images but {} labels", labels.bytes.len())));
    }
    let Some(label_input) = &bindings.outputs.labels else {
        return Err(DataError::Fit(
            "the model does not show which input takes the labels; give an .npz with arrays named like its inputs"
                .into(),
        ));
    };
    let mut split = Split { columns: Vec::new(), len: count };
    for input in &bindings.inputs {
        let values = if input.name == *label_input {
            Values::I64(labels.bytes.iter().map(|b| i64::from(*b)).collect())
        } else {
            Values::F32(images.bytes.iter().copied().map(pixel).collect())
        };
        split.columns.push(Column::fit(input, bindings, values, count)?);
    }
    if split.columns.len() < 2 {
        return Err(DataError::Fit("images need a model with an image input and a label input".into()));
    }
    Ok(split)
}
