use crate::graph::{DType, Graph, Node, ValueId};

/// How labels are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelKind {
    /// Integer class ids.
    Class,
    /// Float rows, one per sample.
    OneHot,
}

/// The classification task of a training step, as far as it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Unnormalised log-probabilities.
    pub logits: ValueId,
    /// Axis of `logits` that runs over the classes.
    pub class_axis: i64,
    /// Graph input with the labels.
    pub labels: ValueId,
    /// How they are written.
    pub kind: LabelKind,
}

/// The scalar float output that is nobody's next value; `fed_back` lists the outputs that are.
pub fn loss(graph: &Graph, fed_back: &[ValueId]) -> Option<ValueId> {
    let fed_back: rustc_hash::FxHashSet<&ValueId> = fed_back.iter().collect();
    let scalar = |v: &&ValueId| {
        let value = graph.value(**v);
        value.dtype().is_none_or(DType::is_float) && value.dims().is_none_or(|d| d.iter().product::<usize>() == 1)
    };
    graph.outputs.iter().filter(|v| !fed_back.contains(v)).find(scalar).copied()
}

/// Finds logits and labels: a cross-entropy operator, a log-softmax that labels index, or log-probabilities that one-hot
/// labels, given or expanded from classes, multiply. `None` when the graph shows neither.
pub fn task(graph: &Graph) -> Option<Task> {
    let order = graph.order().ok()?;
    order.iter().find_map(|id| {
        let node = graph.node(*id);
        match node.op_type.as_str() {
            "SoftmaxCrossEntropyLoss" => by_class(graph, node.input(0)?, node.input(1)?, 1),
            "NegativeLogLikelihoodLoss" => by_class(graph, before_softmax(graph, node.input(0)?).0, node.input(1)?, 1),
            "GatherElements" | "GatherND" => {
                let (_, producer) = graph.producer(node.input(0)?)?;
                let axis = producer.int("axis").unwrap_or(-1);
                producer.is("LogSoftmax").then(|| by_class(graph, producer.input(0)?, node.input(1)?, axis))?
            }
            "Mul" => by_one_hot(graph, node).or_else(|| by_expanded_class(graph, node)),
            _ => None,
        }
    })
}

fn before_softmax(graph: &Graph, value: ValueId) -> (ValueId, i64) {
    match graph.producer(value) {
        Some((_, node)) if node.is("LogSoftmax") => (node.input(0).unwrap_or(value), node.int("axis").unwrap_or(-1)),
        _ => (value, 1),
    }
}

fn by_class(graph: &Graph, logits: ValueId, index: ValueId, class_axis: i64) -> Option<Task> {
    let mut open = vec![index];
    for _ in 0..32 {
        let value = open.pop()?;
        let info = graph.value(value);
        if info.is_input && matches!(info.dtype(), Some(DType::I64 | DType::I32)) {
            return Some(Task { logits, class_axis, labels: value, kind: LabelKind::Class });
        }
        if let Some((_, node)) = graph.producer(value)
            && matches!(
                node.op_type.as_str(),
                "Unsqueeze" | "Squeeze" | "Reshape" | "Cast" | "Where" | "Identity" | "Flatten"
            )
        {
            let (first, count) = if node.op_type == "Where" { (1, 2) } else { (0, 1) };
            open.extend(node.inputs.iter().skip(first).take(count).flatten());
        }
    }
    None
}

/// `log_p · y` with a float input y: log-probabilities are logits too (their softmax is themselves).
fn by_one_hot(graph: &Graph, node: &Node) -> Option<Task> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let is_label = |v: ValueId| {
        let value = graph.value(v);
        value.is_input
            && value.initializer.is_none()
            && value.dtype() == Some(DType::F32)
            && value.dims().is_some_and(|d| d.len() == 2)
    };
    let (labels, log_p) = match (is_label(a), is_label(b)) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        _ => return None,
    };
    // Only something minus its log-sum-exp is a log-probability.
    let (_, sub) = graph.producer(log_p)?;
    let subtracts_log = sub.is("Sub") && reaches(graph, sub.input(1)?, "Log", 6);
    let fits = sub.is("LogSoftmax") || subtracts_log;
    fits.then_some(Task { logits: log_p, class_axis: -1, labels, kind: LabelKind::OneHot })
}

/// `log_p · OneHot(labels)`.
fn by_expanded_class(graph: &Graph, node: &Node) -> Option<Task> {
    let operands = [(node.input(0)?, node.input(1)?), (node.input(1)?, node.input(0)?)];
    operands.into_iter().find_map(|(log_p, one_hot)| {
        let ((_, softmax), (_, one_hot)) = (graph.producer(log_p)?, graph.producer(one_hot)?);
        let fits = softmax.is("LogSoftmax") && one_hot.is("OneHot");
        fits.then(|| by_class(graph, softmax.input(0)?, one_hot.input(0)?, softmax.int("axis").unwrap_or(-1)))?
    })
}

fn reaches(graph: &Graph, value: ValueId, op: &str, depth: u32) -> bool {
    match graph.producer(value) {
        Some((_, node)) if node.is(op) => true,
        Some((_, node)) if depth > 0 => node.inputs.iter().flatten().any(|v| reaches(graph, *v, op, depth - 1)),
        _ => false,
    }
}
