//! What one operator says about itself, and the adapter that makes a tract operator of it.

use std::fmt::Debug;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

/// A value as far as it is known before anything runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub dtype: DatumType,
    pub shape: TVec<TDim>,
}

impl Fact {
    pub fn new(dtype: DatumType, shape: impl IntoIterator<Item = TDim>) -> Self {
        Fact { dtype, shape: shape.into_iter().collect() }
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }
}

/// An ONNX operator. Inputs and outputs are the schema's slots in order; a slot that the node leaves out is `None`.
pub trait Operator: Debug + Clone + PartialEq + Eq + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// The facts of every output slot, wanted or not.
    ///
    /// # Errors
    /// When types or shapes are not the schema's: the message becomes part of the load error, after the node's name.
    fn facts(&self, inputs: &[Option<Fact>]) -> TractResult<TVec<Fact>>;

    /// Computes the outputs; `wanted` says which slots somebody reads, the others may be left `None`.
    fn run(&self, inputs: &mut [Option<TValue>], wanted: &[bool]) -> TractResult<TVec<Option<Tensor>>>;

    /// False for operators whose result is not a function of their inputs alone.
    fn is_pure(&self) -> bool {
        true
    }

    /// A cheaper form of this node, given what feeds it.
    fn declutter(
        &self,
        _node: &OnnxNode<Self>,
        _model: &TypedModel,
        _at: &TypedNode,
    ) -> TractResult<Option<TypedModelPatch>> {
        Ok(None)
    }
}

/// An operator at one node of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnnxNode<O> {
    pub operator: O,
    /// The node's name, or its first output's when it has none.
    pub node: String,
    /// Which input slots are connected, and which output slots are read.
    pub inputs: TVec<bool>,
    pub outputs: TVec<bool>,
}

pub type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Puts `operator` at `node`.
pub fn build<O: Operator>(operator: O, node: &NodeProto) -> Built {
    let named = |names: &[String]| names.iter().map(|name| !name.is_empty()).collect::<TVec<bool>>();
    let name = if node.name.is_empty() { node.output.first().cloned().unwrap_or_default() } else { node.name.clone() };
    let node = OnnxNode { operator, node: name, inputs: named(&node.input), outputs: named(&node.output) };
    Ok((Box::new(node), vec![]))
}

impl<O: Operator> OnnxNode<O> {
    fn place(&self) -> String {
        format!("{} node \"{}\"", self.operator.name(), self.node)
    }

    /// Spreads what is connected over the schema's slots.
    fn slots<T>(&self, connected: impl IntoIterator<Item = T>) -> Vec<Option<T>> {
        let mut connected = connected.into_iter();
        self.inputs.iter().map(|present| if *present { connected.next() } else { None }).collect()
    }

    fn facts(&self, inputs: impl IntoIterator<Item = Fact>) -> TractResult<TVec<Fact>> {
        let facts = self.operator.facts(&self.slots(inputs)).with_context(|| self.place())?;
        if self.outputs.iter().skip(facts.len()).any(|wanted| *wanted) {
            bail!("{} has more outputs than the operator's {}", self.place(), facts.len());
        }
        Ok(facts.into_iter().zip(&self.outputs).filter(|(_, wanted)| **wanted).map(|(fact, _)| fact).collect())
    }
}

impl<O: Operator> Op for OnnxNode<O> {
    fn name(&self) -> StaticName {
        self.operator.name().into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.operator)])
    }

    op_as_typed_op!();
}

impl<O: Operator> EvalOp for OnnxNode<O> {
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let outputs = self.operator.run(&mut self.slots(inputs), &self.outputs).with_context(|| self.place())?;
        let wanted = outputs.into_iter().zip(&self.outputs).filter(|(_, wanted)| **wanted);
        wanted.map(|(output, _)| Ok(output.with_context(|| self.place())?.into_tvalue())).collect()
    }

    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        if self.operator.is_pure() { Ok(Some(self.eval(&EvalContext::out_of_plan(), inputs)?)) } else { Ok(None) }
    }
}

impl<O: Operator> InferenceRulesOp for OnnxNode<O> {
    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.inputs.iter().filter(|present| **present).count())?;
        check_output_arity(outputs, InferenceRulesOp::nboutputs(self)?)?;
        s.given_all(inputs.iter().map(|i| &i.datum_type), move |s, dtypes| {
            s.given_all(inputs.iter().map(|i| &i.shape), move |s, shapes| {
                let known = dtypes.iter().zip(shapes).map(|(dtype, shape)| Fact { dtype: *dtype, shape });
                for (output, fact) in outputs.iter().zip(self.facts(known)?) {
                    s.equals(&output.datum_type, fact.dtype)?;
                    s.equals(&output.shape, fact.shape)?;
                }
                Ok(())
            })
        })
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs.iter().filter(|wanted| **wanted).count())
    }

    as_op!();
    to_typed!();
}

impl<O: Operator> TypedOp for OnnxNode<O> {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let known = inputs.iter().map(|i| Fact::new(i.datum_type, i.shape.iter().cloned()));
        Ok(self.facts(known)?.into_iter().map(|fact| fact.dtype.fact(&*fact.shape)).collect())
    }

    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        self.operator.declutter(self, model, node)
    }
}
