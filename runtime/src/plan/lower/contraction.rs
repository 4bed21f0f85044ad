//! `EinSum` as matrix products in layouts that BLAS libraries take.

use super::*;
use crate::plan::view::dense_strides;
use npc_kernels::cpu::contraction::{Contraction, Index, Product};

/// Where one index of the contraction stands in the operands and the result.
struct Axis {
    extent: usize,
    places: [Option<usize>; 3],
}

impl Axis {
    /// Batch before rows before columns, the summed index last or first: the order in which a copy is a matrix again.
    fn rank(&self, operand: usize) -> usize {
        let [a, b, c] = self.places.map(|p| p.is_some());
        match (a, b, c) {
            (true, true, true) => 0,
            (true, true, false) if operand == 1 => 1,
            (true, true, false) => 2,
            (true, false, true) => 1,
            _ => 2,
        }
    }
}

impl Lowering<'_> {
    pub(super) fn contract(&mut self, node: &TypedNode, op: &EinSum) -> Result<()> {
        let is_float = [f32::datum_type(), DatumType::F16].contains(&op.operating_dt);
        let float = is_float && op.q_params.is_none() && node.inputs.len() == 2;
        if !float {
            return Err(self.refuse(
                node,
                "EinSum",
                &format!(" of {} operands in {:?}", node.inputs.len(), op.operating_dt),
            ));
        }
        let mut operands = [self.factor(node.inputs[0], &node.name)?, self.factor(node.inputs[1], &node.name)?];
        let shape = self.shape(node.id.into())?;
        let axes = self.axes(node, op, &operands, &shape)?;
        // The result lies in its own order where that is a matrix, else as batch, rows, columns.
        let mut order: Vec<usize> = (0..shape.len()).collect();
        let mut strides = dense_strides(&shape);
        for attempt in 0..2 {
            let products = products(&axes, &operands, &strides);
            let products = products.ok_or_else(|| self.refuse(node, "EinSum", &format!(" {}", op.axes)))?;
            let suits = |of: fn(&Product) -> (usize, usize, usize, usize)| products.iter().all(|p| is_matrix(of(p)));
            let fits = [
                suits(|p| (p.a.down, p.a.along, p.rows, p.inner)),
                suits(|p| (p.b.down, p.b.along, p.inner, p.columns)),
                suits(|p| (p.c.down, p.c.along, p.rows, p.columns)),
            ];
            let repeats = |v: &View| v.shape.iter().zip(&v.strides).any(|(n, s)| *n > 1 && *s == 0);
            if fits == [true; 3] && !operands.iter().any(repeats) {
                let elements = shape.iter().product();
                let output = self.draft.buffer(&node.name, DType::F32, elements, Source::Computed);
                let reads = operands.iter().map(|v| v.buffer).collect();
                self.draft.push(&node.name, Task::Products(products), reads, vec![output]);
                let view = View { buffer: output, start: 0, shape, strides };
                return self.product_as(node, view);
            }
            if attempt == 1 {
                break;
            }
            for i in 0..2 {
                if !fits[i] || repeats(&operands[i]) {
                    operands[i] = self.arranged(node, &axes, i, operands[i].clone());
                }
            }
            if !fits[2] {
                order.sort_by_key(|at| axes.iter().find(|a| a.places[2] == Some(*at)).map_or(0, |a| a.rank(2)));
                let arranged: Vec<usize> = order.iter().map(|at| shape[*at]).collect();
                for (at, stride) in order.iter().zip(dense_strides(&arranged)) {
                    strides[*at] = stride;
                }
            }
        }
        Err(self.refuse(node, "EinSum", &format!(" {}", op.axes)))
    }

    fn axes(&self, node: &TypedNode, op: &EinSum, operands: &[View; 2], shape: &[usize]) -> Result<Vec<Axis>> {
        let mut axes = Vec::new();
        for axis in op.axes.iter_all_axes() {
            let places = [&axis.inputs[0], &axis.inputs[1], &axis.outputs[0]];
            if places.iter().any(|p| p.len() > 1) {
                return Err(self.refuse(node, "EinSum", " with a diagonal"));
            }
            let shapes = [&operands[0].shape[..], &operands[1].shape, shape];
            let extent = places.iter().zip(shapes).filter_map(|(p, s)| Some(s[*p.first()?])).max().unwrap_or(1);
            // An operand of extent 1 on a longer axis is broadcast along it.
            let places = std::array::from_fn(|i| places[i].first().copied().filter(|at| shapes[i][*at] == extent));
            axes.push(Axis { extent, places });
        }
        Ok(axes)
    }

    /// A copy of an operand with its axes in an order in which it is a matrix.
    fn arranged(&mut self, node: &TypedNode, axes: &[Axis], operand: usize, view: View) -> View {
        let rank = |at: usize| axes.iter().find(|a| a.places[operand] == Some(at)).map_or(0, |a| a.rank(operand));
        let mut order: Vec<usize> = (0..view.shape.len()).collect();
        order.sort_by_key(|at| rank(*at));
        let permuted = View {
            shape: order.iter().map(|at| view.shape[*at]).collect(),
            strides: order.iter().map(|at| view.strides[*at]).collect(),
            ..view.clone()
        };
        let copy = self.copied(permuted, &node.name);
        let mut back = View { shape: view.shape.clone(), strides: vec![0; order.len()], ..copy.clone() };
        for (at, stride) in order.iter().zip(&copy.strides) {
            back.strides[*at] = *stride;
        }
        back
    }
}

/// One of the two distances is 1, or there is only one row or column.
pub(in crate::plan) fn is_matrix((down, along, rows, columns): (usize, usize, usize, usize)) -> bool {
    (along == 1 || columns == 1) && (down >= columns || rows == 1)
        || (down == 1 || rows == 1) && (along >= rows || columns == 1)
}

fn products(axes: &[Axis], operands: &[View; 2], result: &[usize]) -> Option<Vec<Product>> {
    let index = |axis: &Axis| {
        let of = |i: usize| axis.places[i].map(|at| operands[i].strides[at]);
        Index { extent: axis.extent, a: of(0), b: of(1), c: axis.places[2].map(|at| result[at]) }
    };
    let indices: Vec<Index> = axes.iter().filter(|a| a.extent != 1).map(index).collect();
    let mut products = Contraction::new(&indices).ok()?.products();
    for product in &mut products {
        product.a.start += operands[0].start;
        product.b.start += operands[1].start;
    }
    Some(products)
}
