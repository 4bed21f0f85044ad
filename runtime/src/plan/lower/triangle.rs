//! Triangles of matrices.

use super::*;

impl Lowering<'_> {
    /// Matrices with zeros below (`upper`) or above their k-th diagonal: a choice by a constant mask that all of them share.
    ///
    /// # Errors
    /// When k is not a constant, or elements are of a type that no kernel has.
    pub(super) fn triangle(&mut self, node: &TypedNode, op: &Trilu) -> Result<()> {
        let k = self.model.outlet_fact(node.inputs[1]).ok().and_then(|fact| fact.konst.clone());
        let k = k.and_then(|k| k.as_plain_ram()?.to_scalar::<i64>().ok().copied());
        let Some(k) = k else {
            let why = ": its diagonal k is not a constant; make it an initializer";
            return Err(self.refuse(node, "Trilu", why));
        };
        let shape = self.shape(node.id.into())?;
        let &[.., rows, columns] = &shape[..] else {
            return Err(self.refuse(node, "Trilu", " of a tensor that has no matrices"));
        };
        let x = self.operand(node, 0)?;
        let (dtype, zero) = match self.dtype(node.inputs[0])? {
            dtype @ DType::I32 => (dtype, Scalar::I32(0)),
            dtype @ DType::I64 => (dtype, Scalar::I64(0)),
            dtype @ DType::Bool => (dtype, Scalar::Bool(false)),
            dtype => (dtype, Scalar::Float(0.0)),
        };
        let is_kept = |row: usize, column: usize| {
            let diagonal = (row as i64).saturating_add(k);
            if op.upper { column as i64 >= diagonal } else { column as i64 <= diagonal }
        };
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let mask = places.map(|(row, column)| u8::from(is_kept(row, column))).collect();
        let mask = self.draft.buffer(&node.name, DType::Bool, rows * columns, Source::Constant(mask));
        let mut mask = View::dense(mask, &[rows, columns]);
        while mask.shape.len() < shape.len() {
            mask = mask.with_axis(0);
        }
        let mask = Operand::View(mask.broadcast(&shape));
        self.map(node, Operation::Select, &[mask, x, Operand::Constant(dtype, zero)])
    }
}
