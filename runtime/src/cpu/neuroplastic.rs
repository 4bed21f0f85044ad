//! `ai.neuroplastic::NeuroPlastic` and `PlasticitySignal` as tract operators over the fused kernels.

use half::f16;
use npc_kernels::neuroplastic::{
    Config, Element, Gates, HybridBase, Inputs, Mode, ModulationTarget, OrthogonalNormalization, Tensors, Traces,
    Workspace, plasticity_signal, step, widen,
};
use std::sync::Arc;
use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

/// Registers both operators.
pub fn register(operators: &mut OnnxOpRegister) {
    operators.insert("NeuroPlastic", neuroplastic);
    operators.insert("PlasticitySignal", signal);
}

fn neuroplastic(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let op = NeuroPlastic {
        config: Shared(Arc::new(config(node)?)),
        outputs: node.output.len(),
        workspace: Shared::default(),
    };
    Ok((expand(op), Vec::new()))
}

fn signal(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Signal { config: Shared(Arc::new(config(node)?)) }), Vec::new()))
}

fn config(node: &NodeProto) -> TractResult<Config> {
    let mut c = Config::default();
    for attribute in &node.attribute {
        let text = std::str::from_utf8(&attribute.s).unwrap_or_default();
        let (number, flag) = (widen(attribute.f), attribute.i != 0);
        let unknown = || format_err!("{} = {text} is not known", attribute.name);
        match attribute.name.as_str() {
            "mode" => {
                c.mode = match text {
                    "rule_based" => Mode::RuleBased,
                    "ablation_grad_only" => Mode::AblationGradOnly,
                    _ => return Err(unknown()),
                }
            }
            "hybrid_base" => {
                c.hybrid_base = match text {
                    "classic" => HybridBase::Classic,
                    "sgd_momentum" => HybridBase::SgdMomentum,
                    "adamw" => HybridBase::AdamW,
                    _ => return Err(unknown()),
                }
            }
            "orthogonal_normalization" => {
                c.orthogonal_normalization = match text {
                    "raw" => OrthogonalNormalization::Raw,
                    "match_grad_norm" => OrthogonalNormalization::MatchGradNorm,
                    _ => return Err(unknown()),
                }
            }
            "modulation_target" => {
                c.modulation_target = match text {
                    "gain" => ModulationTarget::Gain,
                    "momentum" => ModulationTarget::Momentum,
                    "trust_ratio" => ModulationTarget::TrustRatio,
                    _ => return Err(unknown()),
                }
            }
            "activity_weight" => c.activity_weight = number,
            "gradient_weight" => c.gradient_weight = number,
            "memory_weight" => c.memory_weight = number,
            "plasticity_scale" => c.plasticity_scale = number,
            "min_alpha" => c.min_alpha = number,
            "max_alpha" => c.max_alpha = number,
            "parameterwise" => c.parameterwise = flag,
            "bounded_residual" => c.bounded_residual = flag,
            "residual_max_ratio" => c.residual_max_ratio = number,
            "orthogonal_residual" => c.orthogonal_residual = flag,
            "orthogonal_lambda" => c.orthogonal_lambda = number,
            "orthogonal_max_ratio" => c.orthogonal_max_ratio = number,
            "modulation_strength" => c.modulation_strength = number,
            "modulation_max_ratio" => c.modulation_max_ratio = number,
            "base_momentum" => c.base_momentum = number,
            "base_beta2" => c.base_beta2 = number,
            "base_eps" => c.base_eps = number,
            "eps" => c.eps = number,
            "max_update_norm" => c.max_update_norm = number,
            "target_rms" => c.target_rms = number,
            "adaptation_rate" => c.adaptation_rate = number,
            "eps_h" => c.eps_h = number,
            "weight_decay" => c.weight_decay = number,
            "decoupled_weight_decay" => c.decoupled_weight_decay = flag,
            name => bail!("the NeuroPlastic attribute {name} is not known to this version of npc"),
        }
    }
    Ok(c)
}

/// Shared by identity: two operators are equal when they are the same one.
#[derive(Debug)]
struct Shared<T>(Arc<T>);

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        Shared(Arc::default())
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Shared<T> {}

/// Buffers of one operator, reused from step to step.
#[derive(Default)]
struct Scratch(Workspace);

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}

/// One parameter's update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeuroPlastic {
    config: Shared<Config>,
    outputs: usize,
    workspace: Shared<Scratch>,
}

impl NeuroPlastic {
    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config.0
    }

    /// Number of states it keeps.
    pub fn states(&self) -> usize {
        3 + usize::from(self.config.0.has_base_momentum()) + usize::from(self.config.0.has_base_variance())
    }
}

impl Expansion for NeuroPlastic {
    fn name(&self) -> StaticName {
        "NeuroPlastic".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let states = self.states();
        if inputs.len() < 5 + states || outputs.len() != 1 + states {
            bail!("a NeuroPlastic node of this base has {} inputs and {} outputs", 5 + states, 1 + states);
        }
        for (output, input) in outputs.iter().zip([3].into_iter().chain(5..5 + states)) {
            s.equals(&output.datum_type, &inputs[input].datum_type)?;
            s.equals(&output.shape, &inputs[input].shape)?;
            s.equals(&output.shape, &inputs[4].shape)?;
        }
        s.equals(&inputs[4].datum_type, &inputs[3].datum_type)?;
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for NeuroPlastic {
    fn name(&self) -> StaticName {
        "NeuroPlastic".into()
    }

    op_as_typed_op!();
}

impl TypedOp for NeuroPlastic {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok([3].into_iter().chain(5..5 + self.states()).map(|i| inputs[i].without_value()).collect())
    }

    as_op!();
}

impl EvalOp for NeuroPlastic {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let states = self.states();
        let multiplier = match inputs.get(5 + states) {
            Some(k) => scalar::<f32>(k)?,
            None => 1.0,
        };
        let scalars = Inputs {
            learning_rate: scalar::<f32>(&inputs[0])?,
            step: scalar::<i64>(&inputs[1])?,
            gates: gates(&inputs[2])?,
            multiplier,
        };
        inputs.truncate(5 + states);
        // Popped from the back, each value is owned here alone unless the graph reads it again later; then it is copied.
        let mut owned: Vec<Tensor> = (0..states).filter_map(|_| inputs.pop()).map(IntoTensor::into_tensor).collect();
        owned.reverse();
        let (Some(gradient), Some(parameter)) = (inputs.pop(), inputs.pop()) else {
            bail!("NeuroPlastic lacks inputs")
        };
        let mut parameter = parameter.into_tensor();
        match parameter.datum_type() {
            DatumType::F32 => self.update::<f32>(&scalars, &mut parameter, &gradient, &mut owned)?,
            DatumType::F16 => self.update::<f16>(&scalars, &mut parameter, &gradient, &mut owned)?,
            other => bail!("NeuroPlastic updates float32 and float16 parameters here, not {other:?}"),
        }
        Ok(std::iter::once(parameter).chain(owned).map(IntoTValue::into_tvalue).collect())
    }
}

impl NeuroPlastic {
    fn update<T: Element + Datum>(
        &self,
        scalars: &Inputs,
        parameter: &mut Tensor,
        gradient: &Tensor,
        states: &mut [Tensor],
    ) -> TractResult<()> {
        let mut parameter = parameter.try_as_plain_ram_mut()?;
        let gradient = gradient.try_as_plain_ram()?;
        let mut views = states.iter_mut().map(Tensor::try_as_plain_ram_mut).collect::<TractResult<Vec<_>>>()?;
        let mut slices =
            views.iter_mut().map(|v| v.as_slice_mut::<f32>()).collect::<TractResult<Vec<_>>>()?.into_iter();
        let mut next = || slices.next().unwrap_or_default();
        let tensors = Tensors {
            parameter: parameter.as_slice_mut::<T>()?,
            gradient: gradient.as_slice::<T>()?,
            activity_trace: next(),
            momentum: next(),
            variance: next(),
            base_momentum: next(),
            base_variance: next(),
        };
        step(&self.config.0, scalars, tensors, &self.workspace.0.0, None).map_err(|e| format_err!("{e}"))
    }
}

fn scalar<T: Datum + Copy>(value: &Tensor) -> TractResult<T> {
    let cast = value.cast_to::<T>()?;
    Ok(*cast.try_as_plain_ram()?.as_slice::<T>()?.first().context("a scalar input is empty")?)
}

fn gates(value: &Tensor) -> TractResult<Gates> {
    match value.try_as_plain_ram()?.as_slice::<f32>()? {
        [warm_up, phase, orthogonal] => Ok(Gates { warm_up: *warm_up, phase: *phase, orthogonal: *orthogonal }),
        other => bail!("the gates have {} elements instead of 3", other.len()),
    }
}

/// One tensor's signal for the learning-rate controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    config: Shared<Config>,
}

impl Signal {
    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config.0
    }
}

impl Expansion for Signal {
    fn name(&self) -> StaticName {
        "PlasticitySignal".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 5)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].rank, 0)?;
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for Signal {
    fn name(&self) -> StaticName {
        "PlasticitySignal".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Signal {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::scalar_fact()))
    }

    as_op!();
}

impl EvalOp for Signal {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        fn traces<T: Element + Datum>(config: &Config, inputs: &[TValue]) -> TractResult<f32> {
            let [activity, momentum, variance] = [2, 3, 4].map(|i| inputs[i].try_as_plain_ram());
            let traces = Traces {
                gradient: inputs[1].try_as_plain_ram()?.as_slice::<T>()?,
                activity_trace: activity?.as_slice()?,
                momentum: momentum?.as_slice()?,
                variance: variance?.as_slice()?,
            };
            let gates = gates(&inputs[0])?;
            plasticity_signal(config, &gates, traces).map_err(|e| format_err!("{e}"))
        }
        let signal = match inputs[1].datum_type() {
            DatumType::F16 => traces::<f16>(&self.config.0, &inputs)?,
            _ => traces::<f32>(&self.config.0, &inputs)?,
        };
        Ok(tvec!(tensor0(signal).into_tvalue()))
    }
}
