//! A compiled step, ready to run.

use super::{bfloat16, crop, neuroplastic, ops};
use crate::error::{guarded, one_line};
use crate::plan::{Libraries, Names, Plan, PlanError, PlanOptions};
use crate::tensor::datum_type;
use crate::{HostTensor, RuntimeError};
use npc_compiler::bindings::Bindings;
use npc_compiler::graph::{DType, Dim, Model, ValueId, ValueType};
use npc_compiler::neuroplastic::DOMAIN;
use npc_compiler::onnx;
use npc_compiler::optimizers::operators::lower::lower;
use rayon::ThreadPool;
use std::sync::Arc;
use tract_linalg::multithread::{Executor, multithread_tract_scope};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{Factoid, InferenceModelExt};

/// Options of [`Program::new`].
#[derive(Clone, Debug, Default)]
pub struct ProgramOptions {
    /// Outputs to compute, by name; `None` means all. What they do not need is not run.
    pub outputs: Option<Vec<String>>,
    /// Threads; 0 and 1 both mean one.
    pub threads: usize,
}

/// A model prepared for stepping. Plans are made per set of input shapes and kept.
pub struct Program {
    model: InferenceModel,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    pool: Arc<ThreadPool>,
    threads: usize,
    plans: Vec<(Vec<Vec<usize>>, TypedSimpleState)>,
}

struct Output {
    name: String,
    is_bfloat16: bool,
}

struct Input {
    name: String,
    dtype: DType,
    datum_type: DatumType,
    /// The model's own value, used when none is given.
    default: Option<HostTensor>,
}

/// A step with all shapes known, before it is planned.
pub struct DeviceGraph {
    typed: TypedModel,
    names: Names,
}

impl DeviceGraph {
    /// The step as `device` runs it.
    ///
    /// # Errors
    /// What the device has no kernel for, by name.
    pub fn plan(
        &self,
        bindings: &Bindings,
        options: &PlanOptions,
        device: &mut dyn Libraries,
    ) -> Result<Plan, PlanError> {
        Plan::new(&self.typed, &self.names, bindings, options, device)
    }
}

type TypedSimpleState = tract_onnx::tract_core::plan::SimpleState<TypedFact, Box<dyn TypedOp>>;

impl Program {
    /// Prepares a model.
    ///
    /// # Errors
    /// An operator or element type the engine does not have, named with its node; an unknown output.
    pub fn new(model: &Model, options: &ProgramOptions) -> Result<Self, RuntimeError> {
        let mut model = model.clone();
        // The engine's own NeuroPlastic takes the place of the function bodies; every other function is expanded.
        onnx::inline_functions(&mut model, |node| node.domain == DOMAIN)?;
        model.functions.clear();
        let graph = &mut model.graph;
        lower(graph);
        crop::separate(graph);
        if let Some(names) = &options.outputs {
            let find = |name: &String| graph.value_named(name).ok_or_else(|| RuntimeError::Output(name.clone()));
            graph.outputs = names.iter().map(find).collect::<Result<_, _>>()?;
            graph.remove_dead();
            let idle: Vec<ValueId> =
                graph.inputs.iter().copied().filter(|v| graph.value(*v).consumers.is_empty()).collect();
            graph.remove_inputs(&idle);
        }
        let mut inputs = Vec::new();
        for id in graph.inputs.clone() {
            let value = graph.value_mut(id);
            let default = value.initializer.take().map(|t| HostTensor::from_constant(&t)).transpose()?;
            let dtype = value.dtype().unwrap_or(DType::F32);
            let datum_type = datum_type(dtype)
                .ok_or_else(|| RuntimeError::Type { value: value.name.clone(), dtype: dtype.to_string() })?;
            inputs.push(Input { name: value.name.clone(), dtype, datum_type, default });
        }
        let mut outputs = Vec::new();
        for id in graph.outputs.clone() {
            let is_bfloat16 = graph.value(id).dtype() == Some(DType::BF16);
            outputs.push(Output { name: graph.name_of(id).to_string(), is_bfloat16 });
        }
        bfloat16::widen(graph);
        let mut framework = tract_onnx::onnx().with_ignore_value_info(true);
        bfloat16::register(&mut framework.op_register);
        neuroplastic::register(&mut framework.op_register);
        ops::register(&mut framework.op_register);
        for id in graph.node_ids() {
            let node = graph.node(id);
            if !framework.op_register.0.contains_key(&node.op_type) {
                let op = if node.domain.is_empty() {
                    node.op_type.clone()
                } else {
                    format!("{}::{}", node.domain, node.op_type)
                };
                let name =
                    if node.name.is_empty() { node.output(0).map_or("", |v| graph.name_of(v)) } else { &node.name };
                return Err(RuntimeError::Unsupported { op, node: name.to_string() });
            }
        }
        let bytes = onnx::to_bytes(&model)?;
        let prepared = guarded(RuntimeError::Prepare, || {
            framework.model_for_read(&mut &bytes[..]).map_err(|e| RuntimeError::Prepare(one_line(&e)))
        })?;
        let threads = options.threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| RuntimeError::Prepare(format!("no thread pool: {e}")))?;
        Ok(Program { model: prepared, inputs, outputs, pool: Arc::new(pool), threads, plans: Vec::new() })
    }

    /// Names of the inputs in order.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(|i| i.name.as_str())
    }

    /// Names of the outputs in order.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|o| o.name.as_str())
    }

    /// Runs one step. Tensors move in and out; a parameter or state that only its update still needs is updated in place.
    ///
    /// # Errors
    /// A missing input, one of another type or shape, a failure inside an operator.
    pub fn run(&mut self, feeds: Vec<(String, HostTensor)>) -> Result<Vec<(String, HostTensor)>, RuntimeError> {
        let mut feeds: std::collections::HashMap<String, HostTensor> = feeds.into_iter().collect();
        let mut values: TVec<TValue> = tvec![];
        for input in &self.inputs {
            let tensor = match (feeds.remove(&input.name), &input.default) {
                (Some(tensor), _) => tensor,
                (None, Some(default)) => default.clone(),
                (None, None) => return Err(RuntimeError::MissingInput(input.name.clone())),
            };
            if tensor.dtype() != input.dtype {
                let (got, want) = (tensor.dtype().to_string(), input.dtype.to_string());
                return Err(RuntimeError::Input { name: input.name.clone(), got, want });
            }
            values.push(tensor.into_engine().into_tvalue());
        }
        let shapes: Vec<Vec<usize>> = values.iter().map(|v| v.shape().to_vec()).collect();
        let at = match self.plans.iter().position(|(known, _)| *known == shapes) {
            Some(at) => at,
            None => {
                let state = guarded(RuntimeError::Prepare, || self.plan(&shapes))?;
                self.plans.push((shapes, state));
                self.plans.len() - 1
            }
        };
        let state = &mut self.plans[at].1;
        let executor = if self.threads > 1 { Executor::MultiThread(self.pool.clone()) } else { Executor::SingleThread };
        // Inside the pool, so that no operator has to hand its work over to it.
        let results = guarded(RuntimeError::Step, || {
            let results = self.pool.install(|| multithread_tract_scope(executor, || state.run(values)));
            results.map_err(|e| RuntimeError::Step(one_line(&e)))
        })?;
        let results = results.into_iter().zip(&self.outputs).map(|(value, output)| {
            let tensor = HostTensor::from(value.into_tensor());
            (output.name.clone(), if output.is_bfloat16 { tensor.narrow() } else { tensor })
        });
        Ok(results.collect())
    }

    /// The step as devices plan it, with the shapes that `model` declares and `batch` for what is no number there.
    ///
    /// # Errors
    /// An input without a shape, shapes that do not fit each other.
    pub fn device_graph(&self, model: &Model, batch: usize) -> Result<DeviceGraph, PlanError> {
        let dims = |input: &Input| {
            let ty = model.graph.value_named(&input.name).and_then(|v| model.graph.value(v).ty.clone());
            match ty {
                Some(ValueType::Tensor { shape: Some(shape), .. }) => {
                    Ok(shape.iter().map(|d| if let Dim::Known(n) = d { *n } else { batch }).collect::<Vec<_>>())
                }
                _ => Err(PlanError::Graph(format!("the input '{}' has no shape", input.name))),
            }
        };
        let shapes = self.inputs.iter().map(dims).collect::<Result<Vec<_>, _>>()?;
        self.graph_for(&shapes)
    }

    /// The step for inputs of these shapes.
    pub(crate) fn graph_for(&self, shapes: &[Vec<usize>]) -> Result<DeviceGraph, PlanError> {
        let typed = self.typed(shapes).map_err(|e| PlanError::Graph(e.to_string()))?;
        let narrow = self.inputs.iter().filter(|i| i.dtype == DType::BF16);
        let names = Names {
            inputs: self.inputs.iter().map(|i| i.name.clone()).collect(),
            outputs: self.outputs.iter().map(|o| o.name.clone()).collect(),
            narrow: narrow.map(|i| i.name.clone()).collect(),
        };
        Ok(DeviceGraph { typed, names })
    }

    /// The graph for inputs of these shapes, cleaned up.
    fn typed(&self, shapes: &[Vec<usize>]) -> Result<TypedModel, RuntimeError> {
        let prepare = |e: TractError| RuntimeError::Prepare(one_line(&e));
        let mut model = self.model.clone();
        for (i, (input, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            let declared = model.input_fact(i).map_err(prepare)?.shape.concretize();
            let fits = declared.as_ref().is_none_or(|dims| {
                dims.len() == shape.len()
                    && dims.iter().zip(shape).all(|(d, n)| d.as_i64().is_none_or(|d| d == *n as i64))
            });
            if !fits {
                let want = format!("{:?}", declared.unwrap_or_default());
                return Err(RuntimeError::Input { name: input.name.clone(), got: format!("{shape:?}"), want });
            }
            model.set_input_fact(i, input.datum_type.fact(shape).into()).map_err(prepare)?;
        }
        model.into_typed().and_then(TypedModel::into_decluttered).map_err(prepare)
    }

    fn plan(&self, shapes: &[Vec<usize>]) -> Result<TypedSimpleState, RuntimeError> {
        let prepare = |e: TractError| RuntimeError::Prepare(one_line(&e));
        let mut typed = self.typed(shapes)?;
        super::prepare::run(&mut typed).map_err(prepare)?;
        typed.optimize().map_err(prepare)?;
        let plan = typed.into_runnable().map_err(prepare)?;
        plan.spawn().map_err(prepare)
    }
}
