//! Axes of an expression, joined where all its tensors allow it.

use super::expression::Expression;

/// One axis of the space that an expression runs over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub extent: usize,
    /// Distance along the axis in the expression's outputs, in elements.
    pub stride: usize,
    /// The same in each input; 0 where it is repeated.
    pub inputs: Vec<usize>,
    /// Distance in the reduction's output, or `None` where the axis is reduced.
    pub kept: Option<usize>,
}

/// The axes of `expression`, outermost first, none of extent 1: neighbours that no input and no reduction tells apart are
/// one axis.
pub(super) fn axes(expression: &Expression) -> Vec<Axis> {
    let reduced = |axis: usize| expression.reduction.as_ref().is_some_and(|r| r.axes[axis]);
    let mut axes: Vec<Axis> = Vec::new();
    let mut last = None;
    for (at, &extent) in expression.shape.iter().enumerate().filter(|(_, extent)| **extent != 1) {
        let present: Vec<bool> = expression.inputs.iter().map(|input| input.shape[at] != 1).collect();
        let kind = Some((present.clone(), reduced(at)));
        match axes.last_mut().filter(|_| kind == last) {
            Some(axis) => axis.extent *= extent,
            None => axes.push(Axis {
                extent,
                stride: 1,
                inputs: present.into_iter().map(usize::from).collect(),
                kept: (!reduced(at)).then_some(1),
            }),
        }
        last = kind;
    }
    let mut steps = vec![1; expression.inputs.len()];
    let (mut step, mut kept_step) = (1, 1);
    for axis in axes.iter_mut().rev() {
        axis.stride = step;
        step *= axis.extent;
        for (stride, step) in axis.inputs.iter_mut().zip(&mut steps).filter(|(stride, _)| **stride != 0) {
            *stride = *step;
            *step *= axis.extent;
        }
        if let Some(stride) = &mut axis.kept {
            *stride = kept_step;
            kept_step *= axis.extent;
        }
    }
    axes
}
