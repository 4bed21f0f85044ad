//! Gathers, scatters, one-hot rows, concatenation.

use super::values::uniform;
use super::*;
use npc_kernels::cuda::index::Picks;

/// The groups of axes around `axis`.
fn around(shape: &[usize], axis: usize, picks: usize) -> Picks {
    let product = |s: &[usize]| s.iter().product::<usize>() as u64;
    Picks {
        outer: product(&shape[..axis]),
        extent: shape[axis] as u64,
        inner: product(&shape[axis + 1..]),
        picks: picks as u64,
    }
}

impl Lowering<'_> {
    /// Where along an axis the extreme element is.
    pub(super) fn arg(&mut self, node: &TypedNode, axes: &[usize], which: Extreme) -> Result<()> {
        let x = self.dense(node.inputs[0], &node.name)?;
        let dtype = match self.draft.buffers[x.buffer].dtype {
            DType::F32 => Ordered::F32,
            DType::I32 => Ordered::I32,
            DType::I64 => Ordered::I64,
            other => return Err(self.refuse(node, "ArgMax", &format!(" of {other:?}"))),
        };
        let [axis] = axes else { return Err(self.refuse(node, "ArgMax", " over several axes")) };
        let Picks { outer, extent, inner, .. } = around(&x.shape, *axis, 1);
        if extent == 0 {
            return Err(self.refuse(node, "ArgMax", " of nothing"));
        }
        let y = self.result(node)?;
        self.draft.push(
            &node.name,
            Task::Arg { dtype, which, shape: [outer, extent, inner] },
            vec![x.buffer],
            vec![y.buffer],
        );
        Ok(())
    }

    /// Indices as dense int64.
    pub(super) fn indices(&mut self, node: &TypedNode, input: usize) -> Result<View> {
        let x = self.dense(node.inputs[input], &node.name)?;
        if self.draft.buffers[x.buffer].dtype == DType::I64 {
            return Ok(x);
        }
        let shape = x.shape.clone();
        self.apply_shaped(&node.name, &shape, Operation::Cast(DType::I64), &[Operand::View(x)])
    }

    fn result(&mut self, node: &TypedNode) -> Result<View> {
        let (dtype, shape) = (self.dtype(node.id.into())?, self.shape(node.id.into())?);
        let id = self.draft.buffer(&node.name, dtype, shape.iter().product(), Source::Computed);
        let view = View::dense(id, &shape);
        self.values.insert(node.id.into(), view.clone());
        Ok(view)
    }

    pub(super) fn gather(&mut self, node: &TypedNode, axis: usize) -> Result<()> {
        let (x, indices) = (self.dense(node.inputs[0], &node.name)?, self.indices(node, 1)?);
        let picks = around(&x.shape, axis, indices.len());
        let y = self.result(node)?;
        self.draft.push(
            &node.name,
            Task::Gather { picks, each: false },
            vec![x.buffer, indices.buffer],
            vec![y.buffer],
        );
        Ok(())
    }

    pub(super) fn gather_elements(&mut self, node: &TypedNode, op: &GatherElements) -> Result<()> {
        let (x, indices) = (self.dense(node.inputs[0], &node.name)?, self.indices(node, 1)?);
        let axis = Self::graph(op.axis(x.shape.len()))?;
        let others =
            |s: &[usize]| s.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, n)| *n).collect::<Vec<_>>();
        if others(&x.shape) != others(&indices.shape) {
            return Err(self.refuse(node, "GatherElements", " with indices for a part of the other axes"));
        }
        let picks = around(&x.shape, axis, indices.shape[axis]);
        let y = self.result(node)?;
        self.draft.push(&node.name, Task::Gather { picks, each: true }, vec![x.buffer, indices.buffer], vec![y.buffer]);
        Ok(())
    }

    pub(super) fn scatter(&mut self, node: &TypedNode, op: &Scatter) -> Result<()> {
        let (x, indices) = (self.dense(node.inputs[0], &node.name)?, self.indices(node, 1)?);
        let updates = self.dense(node.inputs[2], &node.name)?;
        let add = op.adds().ok_or_else(|| self.refuse(node, op.op_name(), " with this reduction"))?;
        if add && self.dtype(node.id.into())? != DType::F32 {
            return Err(self.refuse(node, op.op_name(), " that adds other numbers than float32"));
        }
        let y = self.result(node)?;
        let reads = vec![x.buffer, indices.buffer, updates.buffer];
        match Self::graph(op.axis(x.shape.len()))? {
            Some(axis) => {
                let others =
                    |s: &[usize]| s.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, n)| *n).collect::<Vec<_>>();
                if others(&x.shape) != others(&indices.shape) {
                    return Err(self.refuse(node, op.op_name(), " with indices for a part of the other axes"));
                }
                let picks = around(&x.shape, axis, indices.shape[axis]);
                self.draft.push(&node.name, Task::ScatterElements { picks, add }, reads, vec![y.buffer]);
            }
            None => {
                let depth = indices.shape.last().copied().unwrap_or(0);
                let (leading, rest) = x.shape.split_at(depth.min(x.shape.len()));
                let leading: Vec<u64> = leading.iter().map(|n| *n as u64).collect();
                let count = indices.len().checked_div(depth).unwrap_or(0);
                let inner = rest.iter().product::<usize>() as u64;
                let picks = Picks { outer: 1, extent: leading.iter().product(), inner, picks: count as u64 };
                let rows = self.draft.buffer(&node.name, DType::I64, count, Source::Computed);
                self.draft.push(&node.name, Task::ScatterRows { picks, leading, add }, reads, vec![y.buffer, rows]);
            }
        }
        Ok(())
    }

    /// Where the position along the new axis is the index, `on`, else `off`.
    pub(super) fn one_hot(&mut self, node: &TypedNode, op: &OneHot) -> Result<()> {
        let shape = self.shape(node.id.into())?;
        let indices = self.indices(node, 0)?;
        let (on, off) = match (uniform(&op.on), uniform(&op.off)) {
            (Some((t, on)), Some((_, off))) => (Operand::Constant(t, on), Operand::Constant(t, off)),
            _ => return Err(self.refuse(node, "OneHot", " of these values")),
        };
        let bytes = (0..op.dim as i64).flat_map(i64::to_le_bytes).collect();
        let id = self.draft.buffer(&node.name, DType::I64, op.dim, Source::Constant(bytes));
        let mut positions = View::dense(id, &[op.dim]);
        (0..op.axis).for_each(|_| positions = positions.clone().with_axis(0));
        while positions.shape.len() < shape.len() {
            let end = positions.shape.len();
            positions = positions.with_axis(end);
        }
        // Negative indices count from the end.
        let small = indices.shape.clone();
        let zero = Operand::Constant(DType::I64, Scalar::I64(0));
        let extent = Operand::Constant(DType::I64, Scalar::I64(op.dim as i64));
        let negative =
            self.apply_shaped(&node.name, &small, Operation::Less, &[Operand::View(indices.clone()), zero])?;
        let turned =
            self.apply_shaped(&node.name, &small, Operation::Add, &[Operand::View(indices.clone()), extent])?;
        let choice = [negative, turned, indices].map(Operand::View);
        let settled = self.apply_shaped(&node.name, &small, Operation::Select, &choice)?;
        let wide = settled.with_axis(op.axis).broadcast(&shape);
        let positions = positions.broadcast(&shape);
        let hit = self.apply(node, Operation::Equal, &[Operand::View(wide), Operand::View(positions)])?;
        self.map(node, Operation::Select, &[Operand::View(hit), on, off])
    }

    /// Rows at tuples of indices into the leading axes.
    pub(super) fn gather_rows(&mut self, node: &TypedNode, _: &GatherNd) -> Result<()> {
        let (x, indices) = (self.dense(node.inputs[0], &node.name)?, self.indices(node, 1)?);
        let depth = indices.shape.last().copied().unwrap_or(0);
        let (leading, rest) = x.shape.split_at(depth.min(x.shape.len()));
        let (count, extent) = (indices.len().checked_div(depth).unwrap_or(0), leading.iter().product::<usize>());
        // Row-major: the tuple (i, j, …) is the row i·n + j, … of the leading axes as one.
        let mut row: Option<View> = None;
        for (axis, n) in leading.iter().enumerate() {
            let one = indices.clone().sliced(indices.shape.len() - 1, axis, axis + 1);
            let one = self.copied(one, &node.name);
            let shape = one.shape.clone();
            // An index before the first counts from the end.
            let constant = |x: usize| Operand::Constant(DType::I64, Scalar::I64(x as i64));
            let mut apply =
                |operation, operands: &[Operand]| self.apply_shaped(&node.name, &shape, operation, operands);
            let negative = apply(Operation::Less, &[Operand::View(one.clone()), constant(0)])?;
            let turned = apply(Operation::Add, &[Operand::View(one.clone()), constant(*n)])?;
            let one = apply(Operation::Select, &[negative, turned, one].map(Operand::View))?;
            // What is out of its own axis must not become another row.
            let low = apply(Operation::Less, &[Operand::View(one.clone()), constant(0)])?;
            let high = apply(Operation::LessOrEqual, &[constant(*n), Operand::View(one.clone())])?;
            let bad = apply(Operation::Or, &[low, high].map(Operand::View))?;
            let choice = [Operand::View(bad), constant(1 << 40), Operand::View(one)];
            let one = apply(Operation::Select, &choice)?;
            row = Some(match row {
                None => one,
                Some(row) => {
                    let scaled = apply(Operation::Multiply, &[Operand::View(row), constant(*n)])?;
                    apply(Operation::Add, &[scaled, one].map(Operand::View))?
                }
            });
        }
        let Some(row) = row else { return Err(self.refuse(node, "GatherND", " without indices")) };
        let inner = rest.iter().product::<usize>() as u64;
        let picks = Picks { outer: 1, extent: extent as u64, inner, picks: count as u64 };
        let y = self.result(node)?;
        self.draft.push(&node.name, Task::Gather { picks, each: false }, vec![x.buffer, row.buffer], vec![y.buffer]);
        Ok(())
    }

    /// Elements some distance apart along an axis; a negative distance starts at the end.
    pub(super) fn every_other(&mut self, node: &TypedNode, op: &Downsample) -> Result<()> {
        let extent = self.shape(node.id.into())?[op.axis];
        if op.stride > 0 {
            let mut x = self.value(node.inputs[0])?;
            x.start += op.modulo * x.strides[op.axis];
            x.strides[op.axis] *= op.stride as usize;
            x.shape[op.axis] = extent;
            let y = self.copied(x, &node.name);
            self.values.insert(node.id.into(), y);
            return Ok(());
        }
        let x = self.dense(node.inputs[0], &node.name)?;
        let (last, step) = (x.shape[op.axis].saturating_sub(1), op.stride.unsigned_abs());
        let bytes = (0..extent).flat_map(|i| (last.saturating_sub(i * step) as i64).to_le_bytes()).collect();
        let order = self.draft.buffer(&node.name, DType::I64, extent, Source::Constant(bytes));
        let picks = around(&x.shape, op.axis, extent);
        let y = self.result(node)?;
        self.draft.push(&node.name, Task::Gather { picks, each: false }, vec![x.buffer, order], vec![y.buffer]);
        Ok(())
    }

    /// A constant around the elements, or the elements near the border again, axis by axis.
    pub(super) fn pad(&mut self, node: &TypedNode, op: &Pad) -> Result<()> {
        let x = self.dense(node.inputs[0], &node.name)?;
        let PadMode::Constant(value) = &op.mode else {
            let mut y = x;
            for (axis, (before, after)) in op.pads.iter().enumerate().filter(|(_, pads)| **pads != (0, 0)) {
                let extent = y.shape[axis];
                let turns = op.mode == PadMode::Reflect;
                if extent == 0 || turns && *before.max(after) >= extent {
                    return Err(self.refuse(node, "Pad", " by more than there is"));
                }
                let front = (0..*before).map(|i| if turns { before - i } else { 0 });
                let back = (0..*after).map(|i| if turns { extent - 2 - i } else { extent - 1 });
                let order: Vec<usize> = front.chain(0..extent).chain(back).collect();
                let picks = around(&y.shape, axis, order.len());
                let bytes = order.iter().flat_map(|i| (*i as i64).to_le_bytes()).collect();
                let order = self.draft.buffer(&node.name, DType::I64, order.len(), Source::Constant(bytes));
                let (dtype, mut shape) = (self.draft.buffers[y.buffer].dtype, y.shape.clone());
                shape[axis] += before + after;
                let wider = self.draft.buffer(&node.name, dtype, shape.iter().product(), Source::Computed);
                let task = Task::Gather { picks, each: false };
                self.draft.push(&node.name, task, vec![y.buffer, order], vec![wider]);
                y = View::dense(wider, &shape);
            }
            self.values.insert(node.id.into(), y);
            return Ok(());
        };
        let y = self.result(node)?;
        let dtype = node.outputs[0].fact.datum_type;
        let one = Self::graph(value.cast_to_dt(dtype).map(|v| v.into_owned()))?;
        let mut inside = y.clone();
        // What lies around, a slab before and one behind along every axis; corners are written more than once, the same.
        let mut slabs: Vec<View> = Vec::new();
        for (axis, (before, after)) in op.pads.iter().enumerate() {
            let extent = y.shape[axis];
            inside = inside.sliced(axis, *before, extent - after);
            slabs.push(y.clone().sliced(axis, 0, *before));
            slabs.push(y.clone().sliced(axis, extent - after, extent));
        }
        slabs.retain(|slab| slab.len() > 0);
        let largest = slabs.iter().map(View::len).max().unwrap_or(0);
        let bytes = one.as_bytes().repeat(largest);
        let filled = self.draft.buffers[y.buffer].dtype;
        let constant = self.draft.buffer(&node.name, filled, largest, Source::Constant(bytes));
        for slab in slabs {
            self.draft.push(&node.name, Task::Place(slab), vec![constant], vec![y.buffer]);
        }
        if inside.len() > 0 {
            self.draft.push(&node.name, Task::Place(inside), vec![x.buffer], vec![y.buffer]);
        }
        Ok(())
    }

    /// The whole tensor again and again along its axes.
    pub(super) fn tile(&mut self, node: &TypedNode, op: &Tile) -> Result<()> {
        let (mut x, shape) = (self.value(node.inputs[0])?, self.shape(node.id.into())?);
        for axis in (0..op.multipliers.len()).rev() {
            x = x.with_axis(axis);
            x.shape[axis] = shape[axis].checked_div(x.shape[axis + 1]).unwrap_or(0);
        }
        let y = self.copied(x, &node.name);
        self.values.insert(node.id.into(), View::dense(y.buffer, &shape));
        Ok(())
    }

    pub(super) fn concatenate(&mut self, node: &TypedNode, axis: usize) -> Result<()> {
        let y = self.result(node)?;
        let mut start = 0;
        for input in &node.inputs {
            let part = self.dense(*input, &node.name)?;
            let extent = part.shape[axis];
            let target = y.clone().sliced(axis, start, start + extent);
            start += extent;
            self.draft.push(&node.name, Task::Place(target), vec![part.buffer], vec![y.buffer]);
        }
        Ok(())
    }
}
