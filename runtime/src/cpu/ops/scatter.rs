//! `GatherElements`, `ScatterElements` and `ScatterND`, of any type. tract's own panic on an index outside the data.

use std::ops::{Add, Mul};

use npc_kernels::cpu::scatter::{gather_elements, scatter_elements, scatter_nd};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Fact, Operator, build};
use super::tensors::{required, value};

fn resolve(axis: i64, rank: usize) -> TractResult<usize> {
    let resolved = if axis < 0 { axis + rank as i64 } else { axis };
    let inside = usize::try_from(resolved).ok().filter(|axis| *axis < rank);
    inside.with_context(|| format!("axis {axis} is outside data of rank {rank}"))
}

fn check_indices(fact: &Fact) -> TractResult<()> {
    match fact.dtype {
        DatumType::I32 | DatumType::I64 | DatumType::TDim => Ok(()),
        other => bail!("the indices are {other:?}, expected int32 or int64"),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherElements {
    axis: i64,
}

pub fn build_gather_elements(_: &super::Context, node: &NodeProto) -> Built {
    build(GatherElements { axis: node.get_attr_opt("axis")?.unwrap_or(0) }, node)
}

fn gather<T: Datum + Copy>(data: &Tensor, indices: &Tensor, axis: usize) -> TractResult<Tensor> {
    let source = data.try_as_plain_ram()?.as_slice::<T>()?;
    let ids = indices.try_as_plain_ram()?.as_slice::<i64>()?;
    let mut y = vec![T::default(); ids.len()];
    gather_elements(source, data.shape(), ids, indices.shape(), axis, &mut y)?;
    Tensor::from_shape(indices.shape(), &y)
}

impl GatherElements {
    /// The axis along which elements are picked from data of that rank.
    pub fn axis(&self, rank: usize) -> TractResult<usize> {
        resolve(self.axis, rank)
    }
}

impl Operator for GatherElements {
    fn name(&self) -> &'static str {
        "GatherElements"
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let (data, indices) = (required(inputs, 0, "data")?, required(inputs, 1, "index tensor")?);
        check_indices(indices)?;
        resolve(self.axis, data.rank())?;
        if indices.rank() != data.rank() {
            bail!("the indices have rank {}, the data {}", indices.rank(), data.rank());
        }
        Ok(tvec!(Fact { dtype: data.dtype, shape: indices.shape.clone() }))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let (data, indices) = (value(inputs, 0)?, value(inputs, 1)?.cast_to::<i64>()?);
        let axis = resolve(self.axis, data.rank())?;
        Ok(tvec!(Some(dispatch_copy!(gather(data.datum_type())(data, &indices, axis))?)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combine {
    Replace,
    Add,
    Mul,
    Min,
    Max,
}

impl Combine {
    fn parse(node: &NodeProto) -> TractResult<Self> {
        Ok(match node.get_attr_opt::<&str>("reduction")?.unwrap_or("none") {
            "none" => Combine::Replace,
            "add" => Combine::Add,
            "mul" => Combine::Mul,
            "min" => Combine::Min,
            "max" => Combine::Max,
            other => bail!("reduction \"{other}\" is not one of none, add, mul, min, max"),
        })
    }

    fn of<T: Datum + Copy + PartialOrd + Add<Output = T> + Mul<Output = T>>(self) -> fn(T, T) -> T {
        match self {
            Combine::Replace => |_, new| new,
            Combine::Add => |old, new| old + new,
            Combine::Mul => |old, new| old * new,
            Combine::Min => |old, new| if new < old { new } else { old },
            Combine::Max => |old, new| if new > old { new } else { old },
        }
    }
}

/// Where updates go: along an axis, or by index tuples.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Elements { axis: i64 },
    Slices,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scatter {
    target: Target,
    combine: Combine,
}

pub fn build_scatter_elements(_: &super::Context, node: &NodeProto) -> Built {
    let axis = node.get_attr_opt("axis")?.unwrap_or(0);
    build(Scatter { target: Target::Elements { axis }, combine: Combine::parse(node)? }, node)
}

pub fn build_scatter_nd(_: &super::Context, node: &NodeProto) -> Built {
    build(Scatter { target: Target::Slices, combine: Combine::parse(node)? }, node)
}

impl Scatter {
    /// Whether updates are added (true) or put in place (false) of what is there; `None` for other reductions.
    pub fn adds(&self) -> Option<bool> {
        match self.combine {
            Combine::Replace => Some(false),
            Combine::Add => Some(true),
            _ => None,
        }
    }

    /// The axis along which updates go in data of that rank; `None` for tuples of indices.
    pub fn axis(&self, rank: usize) -> TractResult<Option<usize>> {
        match self.target {
            Target::Elements { axis } => Ok(Some(resolve(axis, rank)?)),
            Target::Slices => Ok(None),
        }
    }

    /// The operator's name.
    pub fn op_name(&self) -> &'static str {
        if self.target == Target::Slices { "ScatterND" } else { "ScatterElements" }
    }

    fn apply<T: Datum>(
        &self,
        data: &mut Tensor,
        indices: &Tensor,
        updates: &Tensor,
        combine: impl Fn(T, T) -> T,
    ) -> TractResult<()> {
        let shape: TVec<usize> = data.shape().into();
        let ids = indices.try_as_plain_ram()?.as_slice::<i64>()?;
        let updates = updates.try_as_plain_ram()?.as_slice::<T>()?;
        let mut data = data.try_as_plain_ram_mut()?;
        let data = data.as_slice_mut::<T>()?;
        match self.target {
            Target::Elements { axis } => {
                let axis = resolve(axis, shape.len())?;
                Ok(scatter_elements(data, &shape, ids, indices.shape(), updates, axis, combine)?)
            }
            Target::Slices => {
                let k = *indices.shape().last().context("the indices are a scalar")?;
                Ok(scatter_nd(data, &shape, ids, k, updates, combine)?)
            }
        }
    }

    fn replace<T: Datum>(&self, data: &mut Tensor, indices: &Tensor, updates: &Tensor) -> TractResult<()> {
        self.apply::<T>(data, indices, updates, |_, new| new)
    }

    fn reduce<T>(&self, data: &mut Tensor, indices: &Tensor, updates: &Tensor) -> TractResult<()>
    where
        T: Datum + Copy + PartialOrd + Add<Output = T> + Mul<Output = T>,
    {
        // One call a reduction, so that each is a loop of its own.
        match self.combine {
            Combine::Add => self.apply::<T>(data, indices, updates, |old, new| old + new),
            other => self.apply::<T>(data, indices, updates, other.of::<T>()),
        }
    }
}

impl Operator for Scatter {
    fn name(&self) -> &'static str {
        self.op_name()
    }

    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>> {
        let (data, indices) = (required(inputs, 0, "data")?, required(inputs, 1, "index tensor")?);
        let updates = required(inputs, 2, "update tensor")?;
        check_indices(indices)?;
        if updates.dtype != data.dtype {
            bail!("the updates are {:?}, the data {:?}", updates.dtype, data.dtype);
        }
        if let Target::Elements { axis } = self.target {
            resolve(axis, data.rank())?;
            if indices.rank() != data.rank() || updates.rank() != data.rank() {
                bail!("data, indices and updates have ranks {}, {}, {}", data.rank(), indices.rank(), updates.rank());
            }
        }
        Ok(tvec!(data.clone()))
    }

    fn run(&self, inputs: &mut [Option<TValue>], _wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>> {
        let (indices, updates) = (value(inputs, 1)?.cast_to::<i64>()?.into_owned(), value(inputs, 2)?.clone());
        if self.target != Target::Slices && indices.shape() != updates.shape() {
            bail!("the updates have shape {:?}, the indices {:?}", updates.shape(), indices.shape());
        }
        // Taken out of its slot, so that a value nobody else reads is written in place.
        let mut data = inputs[0].take().context("the data is missing")?.into_tensor();
        match self.combine {
            Combine::Replace => dispatch_copy!(Self::replace(data.datum_type())(self, &mut data, &indices, &updates))?,
            _ => dispatch_numbers!(Self::reduce(data.datum_type())(self, &mut data, &indices, &updates))?,
        }
        Ok(tvec!(Some(data)))
    }
}
