//! Convolutions as matrix products over columns, pooling, dropout.

use super::*;
use crate::cpu::ops::conv::Role;
use crate::plan::convolution::{Convolution, Pass};
use npc_kernels::cpu::Geometry;
use npc_kernels::cpu::contraction::{Operand as Place, Product};
use npc_kernels::cuda::window::Planes;

fn product(shape: &[usize]) -> usize {
    shape.iter().product()
}

impl Lowering<'_> {
    fn room(&mut self, node: &TypedNode, dtype: DType, shape: &[usize]) -> View {
        View::dense(self.draft.buffer(&node.name, dtype, product(shape), Source::Computed), shape)
    }

    pub(super) fn float(&mut self, node: &TypedNode, input: usize) -> Result<View> {
        let x = self.dense(node.inputs[input], &node.name)?;
        let dtype = self.draft.buffers[x.buffer].dtype;
        if dtype == DType::F32 { Ok(x) } else { Err(self.refuse(node, &node.op.name(), &format!(" of {dtype:?}"))) }
    }

    /// `columns[channels · taps][batch][positions]` of dense planes.
    fn columns(&mut self, node: &TypedNode, geometry: &Geometry, planes: Planes, x: &View) -> View {
        let rows = planes.channels as usize * geometry.taps();
        let columns = self.room(node, DType::F32, &[rows, planes.batch as usize * geometry.output_len()]);
        let task = Task::Columns { geometry: *geometry, planes };
        self.draft.push(&node.name, task, vec![x.buffer], vec![columns.buffer]);
        columns
    }

    /// Adds a bias along axis 1.
    fn biased<O>(&mut self, node: &TypedNode, op: &OnnxNode<O>, y: View) -> Result<View> {
        let Some(input) = Self::slot(op, 2) else { return Ok(y) };
        let bias = self.float(node, input)?;
        let mut small = vec![1; y.shape.len()];
        small[1] = y.shape[1];
        let wide = View::dense(bias.buffer, &small).broadcast(&y.shape);
        // What an elementwise kernel reads is dense.
        let y = if y.broadcast_shape().is_some() { y } else { self.copied(y, &node.name) };
        let shape = y.shape.clone();
        self.apply_shaped(&node.name, &shape, Operation::Add, &[Operand::View(y), Operand::View(wide)])
    }

    /// The whole convolution by a library, where one has it.
    fn by_library(&mut self, node: &TypedNode, c: Convolution, [a, b]: [&View; 2], shape: &[usize]) -> Option<View> {
        let can = c.symmetric_pads().is_some() && (self.has_convolution)(&c);
        can.then(|| {
            let result = self.room(node, DType::F32, shape);
            self.draft.push(&node.name, Task::Convolution(c), vec![a.buffer, b.buffer], vec![result.buffer]);
            result
        })
    }

    pub(super) fn convolve(&mut self, node: &TypedNode, op: &OnnxNode<Conv>) -> Result<()> {
        let (x, w) = (self.float(node, 0)?, self.float(node, 1)?);
        let placed = Self::graph(op.operator.place(&x.shape, &w.shape))?;
        let y = match placed.role {
            Role::Forward { groups } => self.convolved(node, &placed.geometry, groups, &x, &w, &placed.shape),
            Role::WeightGradient { exchanged } => {
                self.weight_gradient(node, &placed.geometry, exchanged, (&x, &w), &placed.shape)
            }
        };
        let y = self.biased(node, op, y)?;
        self.values.insert(node.id.into(), y);
        Ok(())
    }

    /// y[n, f] = w[f] · columns[n], a product a group over all samples.
    fn convolved(
        &mut self,
        node: &TypedNode,
        g: &Geometry,
        groups: usize,
        x: &View,
        w: &View,
        shape: &[usize],
    ) -> View {
        let (batch, channels, filters) = (shape[0], x.shape[1], shape[1]);
        let (inputs, positions) = (g.input_len(), g.output_len());
        let (is_x_turned, is_y_turned) = (false, false);
        let whole = Convolution {
            pass: Pass::Forward,
            batch,
            channels,
            filters,
            groups,
            geometry: *g,
            is_x_turned,
            is_y_turned,
        };
        if let Some(y) = self.by_library(node, whole, [x, w], shape) {
            return y;
        }
        let inner = channels / groups * g.taps();
        let (from, down, next) = if g.is_pointwise() {
            (x.clone(), inputs, channels * inputs)
        } else {
            let planes = Planes::dense(batch as u64, channels as u64, inputs as u64);
            (self.columns(node, g, planes, x), batch * positions, positions)
        };
        let y = self.room(node, DType::F32, shape);
        let rows = filters / groups;
        let one = |group: usize| Product {
            rows,
            columns: positions,
            inner,
            batch,
            a: Place { start: group * rows * inner, batch: 0, down: inner, along: 1 },
            b: Place { start: group * inner * down, batch: next, down, along: 1 },
            c: Place { start: group * rows * positions, batch: filters * positions, down: positions, along: 1 },
            accumulate: false,
        };
        let products = (0..groups).map(one).collect();
        self.draft.push(&node.name, Task::Products(products), vec![w.buffer, from.buffer], vec![y.buffer]);
        y
    }

    /// columns[n] = wᵀ · dy[n], a product a group over all samples; then added up where they were read.
    pub(super) fn convolve_transposed(&mut self, node: &TypedNode, op: &OnnxNode<ConvTranspose>) -> Result<()> {
        let (dy, w) = (self.float(node, 0)?, self.float(node, 1)?);
        let (shape, g) = Self::graph(op.operator.window(&dy.shape, &w.shape))?;
        let groups = op.operator.groups();
        let (batch, filters, channels) = (dy.shape[0], dy.shape[1], shape[1]);
        let (is_x_turned, is_y_turned) = (false, false);
        let whole =
            Convolution { pass: Pass::Data, batch, channels, filters, groups, geometry: g, is_x_turned, is_y_turned };
        if let Some(dx) = self.by_library(node, whole, [&w, &dy], &shape) {
            let dx = self.biased(node, op, dx)?;
            self.values.insert(node.id.into(), dx);
            return Ok(());
        }
        let positions = g.output_len();
        let rows = channels / groups * g.taps();
        let inner = filters / groups;
        let (down, next) =
            if g.is_pointwise() { (positions, channels * positions) } else { (batch * positions, positions) };
        let columns = self.room(node, DType::F32, &[channels * g.taps(), batch * positions]);
        let one = |group: usize| Product {
            rows,
            columns: positions,
            inner,
            batch,
            a: Place { start: group * inner * rows, batch: 0, down: 1, along: rows },
            b: Place { start: group * inner * positions, batch: filters * positions, down: positions, along: 1 },
            c: Place { start: group * rows * down, batch: next, down, along: 1 },
            accumulate: false,
        };
        let products = (0..groups).map(one).collect();
        self.draft.push(&node.name, Task::Products(products), vec![w.buffer, dy.buffer], vec![columns.buffer]);
        let dx = if g.is_pointwise() {
            View::dense(columns.buffer, &shape)
        } else {
            let dx = self.room(node, DType::F32, &shape);
            let task = Task::DataFromColumns { geometry: g, batch: batch as u64, channels: channels as u64 };
            self.draft.push(&node.name, task, vec![columns.buffer], vec![dx.buffer]);
            dx
        };
        let dx = self.biased(node, op, dx)?;
        self.values.insert(node.id.into(), dx);
        Ok(())
    }

    /// dw[f, c·taps] = Σ over samples and positions of dy · columns, seen as [c, f, taps].
    fn weight_gradient(
        &mut self,
        node: &TypedNode,
        g: &Geometry,
        exchanged: [bool; 2],
        (x, dy): (&View, &View),
        shape: &[usize],
    ) -> View {
        let (channels, filters) = (shape[0], shape[1]);
        let batch = x.shape[usize::from(!exchanged[0])];
        let (inputs, positions, taps) = (g.input_len(), g.output_len(), g.taps());
        let stored: Vec<usize> = [filters, channels].into_iter().chain(shape[2..].iter().copied()).collect();
        let (is_x_turned, is_y_turned) = (!exchanged[0], !exchanged[1]);
        let (pass, geometry) = (Pass::Filter, *g);
        let whole = Convolution { pass, batch, channels, filters, groups: 1, geometry, is_x_turned, is_y_turned };
        if let Some(dw) = self.by_library(node, whole, [x, dy], &stored) {
            return dw.moved(0, 1);
        }
        let plane = inputs as u64;
        let planes = if exchanged[0] {
            Planes::dense(batch as u64, channels as u64, plane)
        } else {
            Planes { batch: batch as u64, channels: channels as u64, sample: plane, channel: batch as u64 * plane }
        };
        let columns = self.columns(node, g, planes, x);
        let dy = if exchanged[1] { self.copied(dy.clone().moved(0, 1), &node.name) } else { dy.clone() };
        let (inner, across) = (batch * positions, channels * taps);
        let gradient = self.room(node, DType::F32, &[filters, across]);
        let product = Product {
            rows: filters,
            columns: across,
            inner,
            batch: 1,
            a: Place { start: 0, batch: 0, down: inner, along: 1 },
            b: Place { start: 0, batch: 0, down: 1, along: inner },
            c: Place { start: 0, batch: 0, down: across, along: 1 },
            accumulate: false,
        };
        let reads = vec![dy.buffer, columns.buffer];
        self.draft.push(&node.name, Task::Products(vec![product]), reads, vec![gradient.buffer]);
        View::dense(gradient.buffer, &stored).moved(0, 1)
    }

    pub(super) fn max_pool(&mut self, node: &TypedNode, op: &OnnxNode<MaxPool>) -> Result<()> {
        let x = self.float(node, 0)?;
        let (geometry, shape) = Self::graph(op.operator.window(&x.shape))?;
        let (y, mut results) = (self.room(node, DType::F32, &shape), Vec::new());
        let mut writes = vec![y.buffer];
        results.push(y);
        if op.outputs.get(1) == Some(&true) {
            let indices = self.room(node, DType::I64, &shape);
            writes.push(indices.buffer);
            results.push(indices);
        }
        let (planes, column_major) = (product(&shape[..2]) as u64, op.operator.is_column_major());
        self.draft.push(&node.name, Task::MaxPool { geometry, planes, column_major }, vec![x.buffer], writes);
        self.settle(node, op, &results);
        Ok(())
    }

    pub(super) fn unpool(&mut self, node: &TypedNode) -> Result<()> {
        let (x, indices) = (self.float(node, 0)?, self.indices(node, 1)?);
        let shape = self.shape(node.id.into())?;
        let y = self.room(node, DType::F32, &shape);
        self.draft.push(&node.name, Task::Unpool, vec![x.buffer, indices.buffer], vec![y.buffer]);
        self.values.insert(node.id.into(), y);
        Ok(())
    }

    pub(super) fn average_pool(&mut self, node: &TypedNode, op: &OnnxNode<AveragePool>) -> Result<()> {
        let x = self.float(node, 0)?;
        let (geometry, shape, divisor) = Self::graph(op.operator.window(&x.shape))?;
        let y = self.room(node, DType::F32, &shape);
        let planes = product(&shape[..2]) as u64;
        self.draft.push(&node.name, Task::AveragePool { geometry, planes, divisor }, vec![x.buffer], vec![y.buffer]);
        self.values.insert(node.id.into(), y);
        Ok(())
    }

    pub(super) fn global_average_pool(&mut self, node: &TypedNode) -> Result<()> {
        let x = self.readable(node.inputs[0], &node.name)?;
        let axes: Vec<usize> = (2..x.shape.len()).collect();
        let y = self.reduced(node, Reduce::Mean, x, &axes)?;
        self.values.insert(node.id.into(), y);
        Ok(())
    }

    /// The generators' step is one number for the whole plan, which the step itself counts.
    pub(super) fn dropout(&mut self, node: &TypedNode, op: &OnnxNode<Dropout>) -> Result<()> {
        let x = self.float(node, 0)?;
        let known = |slot: usize| {
            let outlet = node.inputs[Self::slot(op, slot)?];
            self.model.node(outlet.node).outputs[outlet.slot].fact.konst.as_deref().cloned()
        };
        let ratio = Self::graph(op.operator.ratio(&op.inputs, known))?;
        let ratio = ratio.ok_or_else(|| self.refuse(node, "Dropout", " with a ratio or mode that is computed"))?;
        if !(0.0..1.0).contains(&ratio) {
            return Err(self.refuse(node, "Dropout", &format!(" with the ratio {ratio}")));
        }
        let step = match self.draft.inputs.iter().find(|(name, _)| name == DROPOUT) {
            Some((_, id)) => *id,
            None => {
                let id = self.given(DROPOUT, DType::I64, 1);
                self.draft.push(DROPOUT, Task::CountStep, vec![id], Vec::new());
                id
            }
        };
        let (y, mask) = (self.room(node, DType::F32, &x.shape), self.room(node, DType::Bool, &x.shape));
        let task = Task::Dropout { ratio, seed: op.operator.seed() };
        self.draft.push(&node.name, task, vec![x.buffer, step], vec![y.buffer, mask.buffer]);
        self.settle(node, op, &[y, mask]);
        Ok(())
    }
}

/// Name of the random generators' step.
pub const DROPOUT: &str = "npc.dropout";
