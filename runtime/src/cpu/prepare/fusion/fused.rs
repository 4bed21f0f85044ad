//! The operator that runs an expression.

use npc_kernels::elementwise::blocks::{Blocks, Functions};
use npc_kernels::elementwise::{Expression, Operation};
use tract_linalg::element_wise::ElementWise;
use tract_linalg::routines::Func;
use tract_onnx::tract_hir::internal::*;

/// A float32 expression over its inputs, whose shapes need not be those the expression sees as long as the elements are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fused {
    expression: Expression,
    blocks: Blocks,
}

// Constants are equal when they compare as equal: no NaN is folded into a model.
impl Eq for Fused {}

impl Fused {
    pub fn new(expression: Expression) -> TractResult<Fused> {
        let blocks = Blocks::new(&expression)?;
        Ok(Fused { expression, blocks })
    }
}

/// tract's functions, which are less exact and faster.
struct Kernels(Vec<(Operation, Box<dyn ElementWise<f32>>)>);

impl Kernels {
    fn of(expression: &Expression) -> TractResult<Kernels> {
        let mut kernels: Vec<(Operation, Box<dyn ElementWise<f32>>)> = Vec::new();
        for instruction in expression.instructions() {
            let function = match instruction.operation {
                Operation::Exp => Func::Exp,
                Operation::Log => Func::Ln,
                Operation::Tanh => Func::Tanh,
                Operation::Erf => Func::Erf,
                Operation::Sigmoid => Func::Sigmoid,
                _ => continue,
            };
            if kernels.iter().all(|(known, _)| *known != instruction.operation) {
                kernels.push((instruction.operation, function.ew_f32()?));
            }
        }
        Ok(Kernels(kernels))
    }
}

impl Functions for Kernels {
    fn apply(&self, operation: Operation, values: &mut [f32]) -> bool {
        self.0.iter().find(|(known, _)| *known == operation).is_some_and(|(_, kernel)| kernel.run(values).is_ok())
    }
}

impl Op for Fused {
    fn name(&self) -> StaticName {
        "Elementwise".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(self.expression.instructions().iter().map(|i| format!("{:?}", i.operation)).collect())
    }

    op_as_typed_op!();
}

impl TypedOp for Fused {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(self.expression.shape())))
    }

    as_op!();
}

impl EvalOp for Fused {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut inputs: TVec<Option<TValue>> = inputs.into_iter().map(Some).collect();
        let free = |at: &usize| {
            self.blocks.may_overwrite(*at) && inputs[*at].as_ref().is_some_and(|input| input.is_exclusive())
        };
        let reused = (0..inputs.len()).find(free);
        let mut result = match reused.and_then(|at| inputs[at].take()) {
            Some(input) => {
                let mut tensor = input.into_tensor();
                tensor.set_shape(self.expression.shape())?;
                tensor
            }
            // SAFETY: the expression overwrites every element.
            None => unsafe { Tensor::uninitialized::<f32>(self.expression.shape())? },
        };
        {
            let views = inputs
                .iter()
                .map(|input| input.as_ref().map(|input| input.try_as_plain_ram()).transpose())
                .collect::<TractResult<Vec<_>>>()?;
            let slices = views
                .iter()
                .map(|view| view.as_ref().map(|view| view.as_slice::<f32>()).transpose())
                .collect::<TractResult<Vec<_>>>()?;
            let mut view = result.try_as_plain_ram_mut()?;
            self.blocks.run(&slices, &Kernels::of(&self.expression)?, &mut [view.as_slice_mut()?])?;
        }
        Ok(tvec!(result.into_tvalue()))
    }
}
