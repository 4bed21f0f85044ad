//! Samples as columns, cut into batches that fit the model's inputs.

use super::DataError;
use crate::{HostTensor, RuntimeError};
use npc_compiler::bindings::{Axis, BatchInput, Bindings};

/// Elements of a column.
#[derive(Clone, Debug)]
pub enum Values {
    /// float32.
    F32(Vec<f32>),
    /// Integers.
    I64(Vec<i64>),
}

impl Values {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::I64(v) => v.len(),
        }
    }

    /// True for no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One batch input's values for every sample.
#[derive(Clone, Debug)]
pub struct Column {
    /// Name of the batch input.
    pub name: String,
    /// Elements, sample after sample.
    pub values: Values,
    /// Elements of one sample.
    pub width: usize,
    dtype: String,
    shape: Vec<Axis>,
    /// Classes, where the values are ids that the model wants as one-hot rows.
    one_hot: Option<usize>,
}

/// Samples of one split.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// One column per batch input.
    pub columns: Vec<Column>,
    /// Number of samples.
    pub len: usize,
}

/// Samples a batch of the model holds: a number where its first input's first axis is one.
pub fn batch_size(bindings: &Bindings) -> Option<usize> {
    let labels = bindings.outputs.labels.as_deref();
    let data = bindings.inputs.iter().find(|i| Some(i.name.as_str()) != labels).or(bindings.inputs.first())?;
    match data.shape.first()? {
        Axis::Known(n) => Some(*n),
        _ => None,
    }
}

/// Elements of one sample of an input; `None` where a symbolic axis other than the batch's leaves it open.
fn width(input: &BatchInput, bindings: &Bindings) -> Option<usize> {
    let known = |axes: &[Axis]| {
        axes.iter().try_fold(1usize, |all, a| if let Axis::Known(n) = a { all.checked_mul(*n) } else { None })
    };
    match batch_size(bindings) {
        // An input may hold several rows a sample: the labels of a sequence, say.
        Some(batch) => known(&input.shape).filter(|n| n % batch.max(1) == 0).map(|n| n / batch.max(1)),
        None => known(input.shape.get(1..).unwrap_or_default()),
    }
}

impl Column {
    /// How many samples `elements` are for an input.
    pub fn samples(input: &BatchInput, bindings: &Bindings, elements: usize) -> Result<usize, DataError> {
        let wide = width(input, bindings)
            .ok_or_else(|| DataError::Fit(format!("input '{}' has no fixed size per sample", input.name)))?;
        let wide = if one_hot(input, bindings).is_some() && !elements.is_multiple_of(wide) { 1 } else { wide };
        if wide == 0 || !elements.is_multiple_of(wide) {
            return Err(DataError::Fit(format!(
                "'{}' has {elements} elements, which is no whole number of samples of {wide}",
                input.name
            )));
        }
        Ok(elements / wide)
    }

    /// Puts values into the form an input wants, checking sizes and labels.
    pub fn fit(input: &BatchInput, bindings: &Bindings, values: Values, count: usize) -> Result<Self, DataError> {
        let wide = width(input, bindings).unwrap_or(values.len() / count.max(1));
        let ids = matches!(values, Values::I64(_)) && values.len() == count;
        let classes = one_hot(input, bindings).filter(|_| ids);
        let own = if classes.is_some() { 1 } else { wide };
        if values.len() != count * own {
            return Err(DataError::Fit(format!(
                "input '{}' wants {own} elements a sample (shape {}), the data has {}",
                input.name,
                shape_text(&input.shape),
                values.len() / count.max(1)
            )));
        }
        let values = match (values, input.dtype.as_str(), classes) {
            (Values::I64(v), "f32" | "f64" | "f16", None) => Values::F32(v.into_iter().map(|x| x as f32).collect()),
            (Values::F32(_), "i64" | "i32", _) => {
                return Err(DataError::Fit(format!(
                    "input '{}' takes integers ({}), the data has floats",
                    input.name, input.dtype
                )));
            }
            (v, _, _) => v,
        };
        Ok(Column {
            name: input.name.clone(),
            values,
            width: own,
            dtype: input.dtype.clone(),
            shape: input.shape.clone(),
            one_hot: classes,
        })
    }

    /// Refuses class ids outside 0..classes; −100 (ignored by cross-entropy) is let through.
    ///
    /// # Errors
    /// The first such label.
    pub fn check_labels(&self, classes: usize) -> Result<(), DataError> {
        if let Values::I64(v) = &self.values
            && let Some(at) = v.iter().position(|x| (*x < 0 || *x >= classes as i64) && *x != -100)
        {
            return Err(DataError::Label { label: v[at], sample: at / self.width.max(1), classes });
        }
        Ok(())
    }

    /// The rows of the given samples as one input tensor.
    ///
    /// # Errors
    /// A shape the samples do not fill.
    pub fn batch(&self, samples: &[usize]) -> Result<HostTensor, RuntimeError> {
        let mut dims: Vec<usize> = Vec::new();
        let total = samples.len() * self.one_hot.unwrap_or(self.width);
        let fixed: usize = self.shape.iter().skip(1).map(|a| if let Axis::Known(n) = a { *n } else { 1 }).product();
        for (i, axis) in self.shape.iter().enumerate() {
            dims.push(match axis {
                _ if i == 0 => total / fixed.max(1),
                Axis::Known(n) => *n,
                _ => 1,
            });
        }
        let rows = |i: &usize| *i * self.width..(*i + 1) * self.width;
        match (&self.values, self.one_hot) {
            (Values::I64(v), Some(classes)) => {
                let mut out = vec![0.0f32; total];
                for (row, i) in samples.iter().enumerate() {
                    if let Ok(class) = usize::try_from(v[*i]) {
                        out[row * classes + class.min(classes - 1)] = 1.0;
                    }
                }
                HostTensor::f32(&dims, &out)
            }
            (Values::F32(v), _) => {
                HostTensor::f32(&dims, &samples.iter().flat_map(|i| &v[rows(i)]).copied().collect::<Vec<_>>())
            }
            (Values::I64(v), _) if self.dtype == "i32" => {
                HostTensor::i32(&dims, &samples.iter().flat_map(|i| &v[rows(i)]).map(|x| *x as i32).collect::<Vec<_>>())
            }
            (Values::I64(v), _) => {
                HostTensor::i64(&dims, &samples.iter().flat_map(|i| &v[rows(i)]).copied().collect::<Vec<_>>())
            }
        }
    }

    /// Class ids of a sample (one per row of its logits).
    pub fn labels(&self, sample: usize) -> Vec<i64> {
        match &self.values {
            Values::I64(v) => v[sample * self.width..(sample + 1) * self.width].to_vec(),
            Values::F32(v) => {
                let row = &v[sample * self.width..(sample + 1) * self.width];
                let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
                vec![best.map_or(0, |(i, _)| i as i64)]
            }
        }
    }
}

/// Classes of an input that takes one-hot rows.
fn one_hot(input: &BatchInput, bindings: &Bindings) -> Option<usize> {
    let is_label = bindings.outputs.labels.as_deref() == Some(&input.name)
        && bindings.outputs.label_kind.as_deref() == Some("one_hot");
    match input.shape.last() {
        Some(Axis::Known(n)) if is_label => Some(*n),
        _ => None,
    }
}

/// A shape as text.
pub fn shape_text(shape: &[Axis]) -> String {
    let axis = |a: &Axis| match a {
        Axis::Known(n) => n.to_string(),
        Axis::Symbol(s) => s.clone(),
        Axis::Unknown(()) => "?".into(),
    };
    format!("[{}]", shape.iter().map(axis).collect::<Vec<_>>().join(", "))
}

impl Split {
    /// Cuts off the samples from `at` on.
    pub fn split_off(&mut self, at: usize) -> Split {
        let tail = Split {
            columns: self
                .columns
                .iter_mut()
                .map(|c| {
                    let cut = at * c.width;
                    let values = match &mut c.values {
                        Values::F32(v) => Values::F32(v.split_off(cut)),
                        Values::I64(v) => Values::I64(v.split_off(cut)),
                    };
                    Column { values, ..c.clone_header() }
                })
                .collect(),
            len: self.len - at,
        };
        self.len = at;
        tail
    }

    /// The column of a batch input.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}

impl Column {
    fn clone_header(&self) -> Column {
        Column {
            name: self.name.clone(),
            values: Values::I64(Vec::new()),
            width: self.width,
            dtype: self.dtype.clone(),
            shape: self.shape.clone(),
            one_hot: self.one_hot,
        }
    }
}
