//! Values of 16 bits.
//!
//! The graph has float32 values where the model has bfloat16 ones, and an operator that rounds where they are computed.
//! Memory that lasts from step to step keeps the 16 bits: a bfloat16 input is a buffer of bfloat16 beside its widened value, and
//! what is rounded has a bfloat16 twin, which updates and outputs take. float16 values are float16 everywhere; matrix products
//! take and give float32.

use super::*;

/// Name of the operator that rounds a float32 value to bfloat16.
const ROUND: &str = "RoundToBfloat16";

impl Lowering<'_> {
    pub(super) fn is_rounding(op: &ElementWiseOp) -> bool {
        op.0.name() == ROUND
    }

    fn cast(&mut self, name: &str, view: View, to: DType) -> Result<View> {
        let shape = view.shape.clone();
        self.apply_shaped(name, &shape, Operation::Cast(to), &[Operand::View(view)])
    }

    /// A value that has a bfloat16 twin.
    pub(super) fn twinned(&mut self, outlet: OutletId, name: &str, twin: View) -> Result<()> {
        let wide = self.cast(name, twin.clone(), DType::F32)?;
        self.values.insert(outlet, wide);
        self.twins.insert(outlet, twin);
        Ok(())
    }

    /// Rounds; a value that is bfloat16 already (an updated parameter) stays.
    pub(super) fn round(&mut self, node: &TypedNode) -> Result<()> {
        let x = self.readable(node.inputs[0], &node.name)?;
        if self.draft.buffers[x.buffer].dtype == DType::BF16 {
            self.values.insert(node.id.into(), x);
            return Ok(());
        }
        let twin = self.cast(&node.name, x, DType::BF16)?;
        self.twinned(node.id.into(), &node.name, twin)
    }

    /// A dense value for a parameter or gradient of this type, or of the one that it has for `None`.
    pub(super) fn stored(&mut self, outlet: OutletId, name: &str, dtype: Option<DType>) -> Result<View> {
        let Some(dtype) = dtype else {
            let twin = self.twins.get(&outlet).cloned();
            return twin.map_or_else(|| self.dense(outlet, name), Ok);
        };
        if let Some(twin) = self.twins.get(&outlet)
            && self.draft.buffers[twin.buffer].dtype == dtype
        {
            let twin = twin.clone();
            return Ok(self.settled(twin, name));
        }
        let view = self.dense(outlet, name)?;
        if self.draft.buffers[view.buffer].dtype == dtype { Ok(view) } else { self.cast(name, view, dtype) }
    }

    /// A factor of a matrix product, in float32.
    pub(super) fn factor(&mut self, outlet: OutletId, name: &str) -> Result<View> {
        let view = self.value(outlet)?;
        if self.draft.buffers[view.buffer].dtype != DType::F16 {
            return Ok(view);
        }
        let readable = self.readable(outlet, name)?;
        self.cast(name, readable, DType::F32)
    }

    /// Gives a product the type that the graph says it has.
    pub(super) fn product_as(&mut self, node: &TypedNode, view: View) -> Result<()> {
        let dtype = self.dtype(node.id.into())?;
        let view = if dtype == DType::F32 {
            view
        } else {
            let readable = if view.broadcast_shape().is_some() { view } else { self.copied(view, &node.name) };
            self.cast(&node.name, readable, dtype)?
        };
        self.values.insert(node.id.into(), view);
        Ok(())
    }
}
