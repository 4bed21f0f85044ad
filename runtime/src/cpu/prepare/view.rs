//! Tensors seen through changes of shape and order.

use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_hir::internal::*;

/// A number of elements at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub extent: usize,
    pub stride: usize,
}

/// The elements of a dense tensor, arranged in other axes.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The dense tensor.
    pub tensor: OutletId,
    /// For each axis its steps, outermost first, none of extent 1.
    axes: Vec<Vec<Step>>,
}

impl View {
    /// A dense tensor as it is.
    pub fn dense(tensor: OutletId, shape: &[usize]) -> View {
        let strides = Tensor::natural_strides(shape);
        let axes = shape.iter().zip(&strides).map(|(&extent, &stride)| {
            if extent == 1 { Vec::new() } else { vec![Step { extent, stride: stride as usize }] }
        });
        View { tensor, axes: axes.collect() }
    }

    /// A value of the model as it is; `None` when its shape is not known.
    pub fn of(model: &TypedModel, outlet: OutletId) -> TractResult<Option<View>> {
        Ok(model.outlet_fact(outlet)?.shape.as_concrete().map(|shape| View::dense(outlet, shape)))
    }

    /// A value as a view of the tensor behind all changes of shape and order that strides can stand for.
    pub fn behind(model: &TypedModel, outlet: OutletId) -> TractResult<Option<View>> {
        let node = model.node(outlet.node);
        if let Some(op) = node.op_as::<AxisOp>()
            && let Some(view) = View::behind(model, node.inputs[0])?
            && let Some(changed) = view.change(op)
        {
            return Ok(Some(changed));
        }
        View::of(model, outlet)
    }

    /// Elements along an axis.
    pub fn extent(&self, axis: usize) -> usize {
        self.axes[axis].iter().map(|step| step.extent).product()
    }

    /// Where the elements along an axis lie.
    pub fn steps(&self, axis: usize) -> Vec<Step> {
        self.axes[axis].clone()
    }

    fn change(mut self, op: &AxisOp) -> Option<View> {
        match op {
            AxisOp::Add(at) => self.axes.insert(*at, Vec::new()),
            AxisOp::Rm(at) => {
                self.axes.remove(*at);
            }
            AxisOp::Move(from, to) => {
                let axis = self.axes.remove(*from);
                self.axes.insert(*to, axis);
            }
            AxisOp::Reshape(at, from, to) => {
                let mut steps: Vec<Step> = self.axes.drain(*at..at + from.len()).flatten().collect();
                for (offset, extent) in to.iter().enumerate() {
                    let axis = take(&mut steps, extent.to_usize().ok()?)?;
                    self.axes.insert(at + offset, axis);
                }
            }
        }
        Some(self)
    }
}

/// Takes `extent` elements' steps off the front; `None` when no stride stands for that.
fn take(steps: &mut Vec<Step>, mut extent: usize) -> Option<Vec<Step>> {
    let mut taken = Vec::new();
    while extent != 1 {
        let first = steps.first_mut()?;
        if extent != 0 && first.extent != 0 && extent.is_multiple_of(first.extent) {
            extent /= first.extent;
            taken.push(steps.remove(0));
        } else if extent != 0 && first.extent % extent == 0 && first.extent != 0 {
            first.extent /= extent;
            taken.push(Step { extent, stride: first.stride * first.extent });
            extent = 1;
        } else {
            return None;
        }
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(of: &[(usize, usize)]) -> Vec<Step> {
        of.iter().map(|(extent, stride)| Step { extent: *extent, stride: *stride }).collect()
    }

    #[test]
    fn heads_are_found_behind_their_transposition() {
        let reshape = |at: usize, from: &[usize], to: &[usize]| {
            AxisOp::Reshape(at, from.iter().map(|n| n.to_dim()).collect(), to.iter().map(|n| n.to_dim()).collect())
        };
        let view = View::dense(OutletId::new(0, 0), &[8, 32, 64]);
        let view = view.change(&reshape(2, &[64], &[4, 16])).unwrap();
        let view = view.change(&AxisOp::Move(1, 2)).unwrap();
        assert_eq!(view.axes, [steps(&[(8, 2048)]), steps(&[(4, 16)]), steps(&[(32, 64)]), steps(&[(16, 1)])]);
        let joined = view.change(&reshape(0, &[8, 4], &[32])).unwrap();
        assert_eq!(joined.axes[0], steps(&[(8, 2048), (4, 16)]));
        assert_eq!(joined.extent(0), 32);
        let split = joined.clone().change(&reshape(0, &[32], &[2, 16])).unwrap();
        assert_eq!(split.axes[..2], [steps(&[(2, 8192)]), steps(&[(4, 2048), (4, 16)])]);
        assert!(joined.change(&reshape(0, &[32, 32], &[3, 341])).is_none());
    }

    #[test]
    fn axes_of_one_element_have_no_steps() {
        let view = View::dense(OutletId::new(0, 0), &[1, 5]).change(&AxisOp::Add(2)).unwrap();
        assert_eq!((view.extent(0), view.extent(1), view.extent(2)), (1, 5, 1));
        assert_eq!(view.change(&AxisOp::Rm(0)).unwrap().axes, [steps(&[(5, 1)]), Vec::new()]);
    }
}
