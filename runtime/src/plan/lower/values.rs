//! What nodes read: inputs, constants, and values that only arrange the elements of others anew, as views of buffers.

use super::*;

impl Lowering<'_> {
    pub(super) fn source(&mut self, node: &TypedNode) -> Result<()> {
        let outlet = OutletId::from(node.id);
        let at = self.model.input_outlets().ok().and_then(|all| all.iter().position(|o| *o == outlet));
        let name = at
            .and_then(|i| self.inputs.get(i))
            .ok_or_else(|| PlanError::Graph(format!("the input '{}' has no name", node.name)))?;
        if let Some(rule) = self.loss_scale.filter(|_| name == SCALE) {
            let scale = self.given(SCALE, DType::F32, rule.state().len());
            let overflow = self.draft.buffer("overflow", DType::I32, 1, Source::Kept);
            self.draft.scaling = Some(Scaling { rule, scale, overflow });
            self.values.insert(outlet, View::dense(scale, &[]));
            return Ok(());
        }
        let is_narrow = self.narrow.contains(name);
        let dtype = if is_narrow { DType::BF16 } else { self.dtype(outlet)? };
        let shape = self.shape(outlet)?;
        let elements = shape.iter().product();
        if let Some(id) = self.taken(name, dtype, elements) {
            return self.enter(outlet, name, is_narrow, View::dense(id, &shape));
        }
        let source = if self.kept.contains(name.as_str()) { Source::Kept } else { Source::Fed };
        let id = self.draft.buffer(name, dtype, elements, source);
        self.draft.inputs.push((name.clone(), id));
        self.enter(outlet, name, is_narrow, View::dense(id, &shape))
    }

    pub(super) fn enter(&mut self, outlet: OutletId, name: &str, is_narrow: bool, view: View) -> Result<()> {
        if is_narrow {
            return self.twinned(outlet, name, view);
        }
        self.values.insert(outlet, view);
        Ok(())
    }

    /// A node that only arranges elements anew, as a view.
    pub(super) fn renamed(&mut self, node: &TypedNode) -> Result<Option<View>> {
        let first = |this: &mut Self| this.value(node.inputs[0]);
        Ok(Some(if let Some(op) = node.op_as::<AxisOp>() {
            let x = first(self)?;
            match op {
                AxisOp::Add(axis) => x.with_axis(*axis),
                AxisOp::Rm(axis) => x.without_axis(*axis),
                AxisOp::Move(from, to) => x.moved(*from, *to),
                AxisOp::Reshape(at, from, to) => {
                    let known = |dims: &[TDim]| {
                        let all = dims.iter().map(|d| d.to_usize().ok()).collect::<Option<Vec<_>>>();
                        all.ok_or_else(|| self.refuse(node, "Reshape", " with a shape that is not made of numbers"))
                    };
                    let (from, to) = (known(from)?, known(to)?);
                    match x.reshaped(*at, &from, &to) {
                        Some(view) => view,
                        None => {
                            let dense = self.copied(x, &node.name);
                            dense.reshaped(*at, &from, &to).ok_or_else(|| self.refuse(node, "Reshape", ""))?
                        }
                    }
                }
            }
        } else if let Some(op) = node.op_as::<Slice>() {
            let bound =
                |d: &TDim| d.to_usize().map_err(|_| self.refuse(node, "Slice", " with a bound that is not a number"));
            let (start, end) = (bound(&op.start)?, bound(&op.end)?);
            first(self)?.sliced(op.axis, start, end)
        } else if node.op_is::<MultiBroadcastTo>() {
            let shape = self.shape(node.id.into())?;
            let mut x = first(self)?;
            while x.shape.len() < shape.len() {
                x = x.with_axis(0);
            }
            x.broadcast(&shape)
        } else if node.op_is::<Identity>() || self.same_type(node) {
            first(self)?
        } else {
            return Ok(None);
        }))
    }

    /// A cast between types that are one to the kernels.
    pub(super) fn same_type(&self, node: &TypedNode) -> bool {
        let from = node.inputs.first().map(|i| self.model.node(i.node).outputs[i.slot].fact.datum_type);
        node.op_is::<Cast>() && from.and_then(maps::dtype) == maps::dtype(node.outputs[0].fact.datum_type)
    }

    /// A value as a view; a constant becomes a buffer.
    pub(super) fn value(&mut self, outlet: OutletId) -> Result<View> {
        if let Some(view) = self.values.get(&outlet) {
            return Ok(view.clone());
        }
        let node = self.model.node(outlet.node);
        let konst = node.outputs[outlet.slot].fact.konst.clone();
        let missing = || PlanError::Graph(format!("'{}' is used before it is computed", node.name));
        let konst = konst.ok_or_else(missing)?;
        let (dtype, shape) = (self.dtype(outlet)?, self.shape(outlet)?);
        let stored = if konst.datum_type() == DatumType::TDim { DatumType::I64 } else { konst.datum_type() };
        let konst = konst.cast_to_dt(stored).map_err(|e| PlanError::Graph(crate::error::one_line(&e)))?;
        let id =
            self.draft.buffer(&node.name, dtype, shape.iter().product(), Source::Constant(konst.as_bytes().to_vec()));
        let view = View::dense(id, &shape);
        self.values.insert(outlet, view.clone());
        Ok(view)
    }

    /// Dense elements of a view.
    pub(super) fn copied(&mut self, view: View, name: &str) -> View {
        let dtype = self.draft.buffers[view.buffer].dtype;
        let shape = view.shape.clone();
        let id = self.draft.buffer(name, dtype, view.len(), Source::Computed);
        self.draft.push(name, Task::Copy(view.clone()), vec![view.buffer], vec![id]);
        View::dense(id, &shape)
    }

    /// A value, dense.
    pub(super) fn dense(&mut self, outlet: OutletId, name: &str) -> Result<View> {
        let view = self.value(outlet)?;
        Ok(self.settled(view, name))
    }

    /// A view, dense.
    pub(super) fn settled(&mut self, view: View, name: &str) -> View {
        let is_whole = view.is_dense() && view.len() == self.draft.buffers[view.buffer].elements;
        if is_whole { view } else { self.copied(view, name) }
    }

    /// A value that an elementwise kernel can read.
    pub(super) fn readable(&mut self, outlet: OutletId, name: &str) -> Result<View> {
        let view = self.value(outlet)?;
        Ok(if view.broadcast_shape().is_some() { view } else { self.copied(view, name) })
    }

    pub(super) fn operand(&mut self, node: &TypedNode, input: usize) -> Result<Operand> {
        let outlet = node.inputs[input];
        let konst = self.model.node(outlet.node).outputs[outlet.slot].fact.konst.clone();
        if let Some(konst) = konst
            && let Some((dtype, scalar)) = uniform(&konst)
        {
            return Ok(Operand::Constant(dtype, scalar));
        }
        Ok(Operand::View(self.readable(outlet, &node.name)?))
    }
}

/// The one value that all elements of a constant have.
pub(super) fn uniform(konst: &Tensor) -> Option<(DType, Scalar)> {
    let view = konst.as_plain_ram()?;
    fn same<T: PartialEq + Copy>(values: &[T]) -> Option<T> {
        let first = *values.first()?;
        values.iter().all(|v| *v == first).then_some(first)
    }
    Some(match konst.datum_type() {
        DatumType::F32 => (DType::F32, Scalar::Float(same(view.as_slice::<f32>().ok()?)?)),
        DatumType::I64 => (DType::I64, Scalar::I64(same(view.as_slice::<i64>().ok()?)?)),
        DatumType::I32 => (DType::I32, Scalar::I32(same(view.as_slice::<i32>().ok()?)?)),
        DatumType::Bool => (DType::Bool, Scalar::Bool(same(view.as_slice::<bool>().ok()?)?)),
        _ => return None,
    })
}
