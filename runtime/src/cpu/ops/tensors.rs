//! Reading slots and tensors.

use std::borrow::Cow;

use tract_onnx::tract_hir::internal::*;

use super::operator::Fact;

/// The fact of a slot that the schema requires.
pub fn required<'a>(inputs: &'a [Option<Fact>], slot: usize, what: &str) -> TractResult<&'a Fact> {
    inputs.get(slot).and_then(Option::as_ref).with_context(|| format!("the {what} (input {slot}) is missing"))
}

/// The fact of a slot that may be left out.
pub fn optional(inputs: &[Option<Fact>], slot: usize) -> Option<&Fact> {
    inputs.get(slot).and_then(Option::as_ref)
}

/// Refuses a type that the float32 kernels cannot stand in for. Float16 is computed in float32 and rounded once.
pub fn check_float(fact: &Fact, what: &str) -> TractResult<()> {
    match fact.dtype {
        DatumType::F32 | DatumType::F16 => Ok(()),
        other => bail!("the {what} is {other:?}; only float32 and float16 are supported"),
    }
}

pub fn check_rank(fact: &Fact, rank: usize, what: &str) -> TractResult<()> {
    if fact.rank() != rank {
        bail!("the {what} has rank {}, expected {rank}", fact.rank());
    }
    Ok(())
}

/// Refuses two dimensions that are both known and differ.
pub fn check_dims(found: &TDim, expected: &TDim, what: &str) -> TractResult<()> {
    match (found.to_usize(), expected.to_usize()) {
        (Ok(f), Ok(e)) if f != e => bail!("the {what} is {f}, expected {e}"),
        _ => Ok(()),
    }
}

/// The value of a slot that the facts have shown to be connected.
pub fn value(inputs: &[Option<TValue>], slot: usize) -> TractResult<&TValue> {
    inputs.get(slot).and_then(Option::as_ref).with_context(|| format!("input {slot} is missing"))
}

/// A tensor's elements in float32, copied only where they are stored otherwise.
pub fn floats(tensor: &Tensor) -> TractResult<Cow<'_, [f32]>> {
    match tensor.datum_type() {
        DatumType::F32 => Ok(Cow::Borrowed(tensor.try_as_plain_ram()?.as_slice::<f32>()?)),
        _ => Ok(Cow::Owned(tensor.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())),
    }
}

/// The same of a slot that may be left out.
pub fn optional_floats(inputs: &[Option<TValue>], slot: usize) -> TractResult<Option<Cow<'_, [f32]>>> {
    inputs.get(slot).and_then(Option::as_ref).map(|tensor| floats(tensor)).transpose()
}

/// A new tensor of `dtype`, computed in float32 by `fill`, which must write every element.
pub fn produce(
    dtype: DatumType,
    shape: &[usize],
    fill: impl FnOnce(&mut [f32]) -> TractResult<()>,
) -> TractResult<Tensor> {
    // SAFETY: float32 has no invalid bit pattern, and nothing reads the elements before `fill` has written them.
    let mut tensor = unsafe { Tensor::uninitialized::<f32>(shape)? };
    fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
    if dtype == DatumType::F32 { Ok(tensor) } else { Ok(tensor.cast_to_dt(dtype)?.into_owned()) }
}
