//! Steps that are legal but unusual: nothing may panic, and what is matched must be right.

use super::testing::{number, recognised, refused};
use super::*;
use crate::graph::{Attribute, DType, Dim, Node, Tensor, ValueType};

const ADAM: &str =
    "m' = 0.9*m + 0.1*g; v' = 0.999*v + 0.001*g*g; w' = w - lr*(m'/(1 - 0.9^t))/(sqrt(v'/(1 - 0.999^t)) + 1e-8)";

/// `formulas` with another shape and type for the parameter, its gradient and states.
fn shaped(formulas: &str, dtype: DType, dims: &[usize]) -> Model {
    let mut model = testing::step(formulas);
    let graph = &mut model.graph;
    for id in graph.value_ids() {
        let value = graph.value_mut(id);
        if value.dims().is_some_and(|d| d == [4, 3]) {
            value.ty = Some(ValueType::tensor(dtype, dims));
        } else if value.dtype() == Some(DType::F32) {
            let dims = value.dims().unwrap_or_default();
            value.ty = Some(ValueType::tensor(dtype, &dims));
        }
    }
    model
}

fn found(model: &Model) -> Recognition {
    recognise(model, &RecogniseOptions::default()).unwrap()
}

fn one(model: &Model, kind: Kind) -> Match {
    let found = found(model);
    assert_eq!(found.unmatched, []);
    assert_eq!(found.matches.len(), 1);
    assert_eq!(found.matches[0].kind, kind);
    found.matches[0].clone()
}

#[test]
fn parameters_of_one_element_and_of_none() {
    for dims in [&[][..], &[1], &[1, 1], &[0], &[0, 3]] {
        for (kind, formulas) in [(Kind::Sgd, "w' = w - lr*g"), (Kind::Adam, ADAM)] {
            let model = shaped(formulas, DType::F32, dims);
            assert_eq!(found(&model).unmatched, [], "{kind:?} {dims:?}");
            let m = one(&model, kind);
            assert_eq!(m.states.len(), if kind == Kind::Adam { 2 } else { 0 }, "{dims:?}");
        }
    }
}

#[test]
fn other_float_types() {
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let m = one(&shaped(ADAM, dtype, &[4, 3]), Kind::Adam);
        assert_eq!(number(&m, "beta1"), 0.9);
    }
}

#[test]
fn parameters_in_float16_with_states_in_float32() {
    let mut model = testing::step(ADAM);
    let graph = &mut model.graph;
    let w = graph.value_named("w").unwrap();
    let next = graph.value_named("w'").unwrap();
    let half = || Some(ValueType::tensor(DType::F16, &[4, 3]));
    graph.value_mut(w).ty = half();
    graph.value_mut(next).ty = half();
    let readers = graph.value(w).consumers.clone();
    let [wide] = graph.add(Node::new("Cast", [w]).with("to", i64::from(DType::F32.0)), ["wide"]);
    for reader in readers {
        let slots: Vec<usize> = (0..graph.node(reader).inputs.len()).collect();
        for slot in slots.into_iter().filter(|s| graph.node(reader).input(*s) == Some(w)).collect::<Vec<_>>() {
            graph.set_input(reader, slot, wide);
        }
    }
    let (identity, _) = graph.producer(next).unwrap();
    let node = graph.node_mut(identity);
    node.op_type = "Cast".into();
    node.attributes.push(Attribute::new("to", i64::from(DType::F16.0)));
    let m = one(&model, Kind::Adam);
    assert_eq!((m.parameter, m.states.len()), (w, 2));
    let compiled = crate::compile::compile(model, &Default::default()).unwrap();
    let graph = &compiled.model.graph;
    let step = graph.node_ids().map(|id| graph.node(id)).find(|n| n.op_type == "NeuroPlastic").unwrap();
    let types: Vec<_> = [3, 4, 5].map(|slot| graph.value(step.input(slot).unwrap()).dtype()).into();
    assert_eq!(types, [Some(DType::F16), Some(DType::F16), Some(DType::F32)]);
    assert_eq!(graph.producer(step.input(4).unwrap()).unwrap().1.op_type, "Cast");
}

#[test]
fn a_learning_rate_that_may_be_overridden_or_is_fixed() {
    let mut model = testing::step("w' = w - lr*g");
    let lr = model.graph.value_named("lr").unwrap();
    model.graph.value_mut(lr).initializer = Some(Tensor::f32([], &[0.05]));
    assert_eq!(one(&model, Kind::Sgd).learning_rate, Rate { value: Some(lr), scale: 1.0 });
    model.graph.inputs.retain(|v| *v != lr);
    model.graph.value_mut(lr).is_input = false;
    assert_eq!(one(&model, Kind::Sgd).learning_rate, Rate { value: None, scale: 0.05 });
}

#[test]
fn a_tied_weight_is_updated_with_the_sum_of_its_gradients() {
    let mut model = testing::step("w' = w - lr*g");
    let graph = &mut model.graph;
    let g = graph.value_named("g").unwrap();
    let readers = graph.value(g).consumers.clone();
    let (matmul, _) = graph.producer(g).unwrap();
    let inputs: Vec<ValueId> = graph.node(matmul).inputs.iter().flatten().copied().collect();
    let [second] = graph.add(Node::new("MatMul", inputs), ["second"]);
    let [sum] = graph.add(Node::new("Add", [g, second]), ["sum"]);
    for v in [second, sum] {
        graph.value_mut(v).ty = Some(ValueType::tensor(DType::F32, &[4, 3]));
    }
    for reader in readers {
        let slot = graph.node(reader).inputs.iter().position(|v| *v == Some(g)).unwrap();
        graph.set_input(reader, slot, sum);
    }
    assert_eq!(one(&model, Kind::Sgd).gradient, sum);
}

#[test]
fn one_parameter_with_two_next_values_gets_one_update() {
    let found = recognised("w' = w - lr*g; other = w - 0.5*g; w2' = other");
    assert!(found.matches.len() <= 1, "{:?}", found.matches);
    assert!(found.matches.iter().map(|m| m.parameter).collect::<FxHashSet<_>>().len() == found.matches.len());
}

#[test]
fn one_state_shared_by_two_parameters_is_not_updated_twice() {
    // Both parameters read and scale by the same accumulator, which follows the first one's gradient.
    let found = recognised("h' = h + g*g; w' = w - lr*g/(sqrt(h') + 1e-6); u' = u - lr*g/(sqrt(h') + 1e-6)");
    assert_eq!(found.matches, []);
    assert_eq!(found.unmatched.len(), 2);
    assert_eq!(found.unmatched[0].reason, "its state 'h' belongs to 'u' as well");
    assert_eq!(found.unmatched[1].reason, "its state 'h' belongs to 'w' as well");
}

#[test]
fn two_step_counters() {
    let mut model = testing::step(&format!("{ADAM}; t' = t + 1"));
    let other = testing::step(&format!("{ADAM}; t' = t + 1"));
    // The second step stands in the same graph under other names.
    let mut to: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    let graph = &mut model.graph;
    for id in other.graph.value_ids() {
        let value = other.graph.value(id);
        let copy = graph.add_value(&format!("{}.2", value.name), value.ty.clone());
        graph.value_mut(copy).initializer.clone_from(&value.initializer);
        to.insert(id, copy);
    }
    other.graph.inputs.iter().for_each(|v| graph.make_input(to[v]));
    for id in other.graph.node_ids() {
        let mut node = other.graph.node(id).clone();
        node.inputs.iter_mut().chain(&mut node.outputs).flatten().for_each(|v| *v = to[&*v]);
        graph.add_node(node);
    }
    graph.outputs.extend(other.graph.outputs.iter().map(|v| to[v]));
    let found = found(&model);
    assert_eq!(found.unmatched, []);
    let steps: Vec<_> = found.matches.iter().map(|m| model.graph.name_of(m.step.unwrap().value).to_string()).collect();
    assert_eq!(steps, ["t", "t.2"]);
}

#[test]
fn a_symbolic_parameter_is_left_alone() {
    let mut model = testing::step("w' = w - lr*g");
    let w = model.graph.value_named("w").unwrap();
    let symbol = vec![Dim::Symbol("n".into()), Dim::Known(3)];
    model.graph.value_mut(w).ty = Some(ValueType::Tensor { dtype: DType::F32, shape: Some(symbol) });
    assert_eq!(found(&model).matches, []);
}

#[test]
fn an_update_inside_a_branch_is_not_touched() {
    let mut model = testing::step("w' = w - lr*g");
    let mut branch = crate::graph::Graph::new("branch");
    let (w, g) = (branch.add_value("w", None), branch.add_value("g", None));
    let [next] = branch.add(Node::new("Sub", [w, g]), ["next"]);
    branch.outputs.push(next);
    let graph = &mut model.graph;
    let (w, g, old) = ("w", "g", graph.value_named("w'").unwrap());
    let captures = [w, g].map(|name| graph.value_named(name).unwrap());
    let condition = graph.add_input("condition", ValueType::tensor(DType::BOOL, &[]));
    let node = Node::new("If", [condition]).with("then_branch", branch.clone()).with("else_branch", branch);
    let [chosen] = graph.add(Node { captures: captures.to_vec(), ..node }, ["chosen"]);
    graph.value_mut(chosen).ty = graph.value(old).ty.clone();
    graph.outputs = vec![chosen];
    assert_eq!(found(&model).matches, []);
    let error = crate::compile::compile(model, &Default::default()).err().unwrap().to_string();
    assert!(error.contains("no optimizer"), "{error}");
}

#[test]
fn updates_that_never_end_or_never_begin() {
    // Infinite and missing numbers in constants are no hyperparameters.
    for formulas in ["w' = w - lr*g/0", "w' = w - 0*g", "w' = w - lr*g*1e39", "w' = w"] {
        let _ = recognised(formulas);
    }
    assert!(!refused("w' = w - lr*g/(g - g)").reason.is_empty());
}

#[test]
fn a_bound_pair_is_taken_where_data_flow_would_choose_another() {
    let model = testing::step("w' = w - lr*g; p' = 0.5*a + 0.5*b - lr*g");
    for old in ["a", "b"] {
        let bind = vec![("p'".to_string(), old.to_string())];
        let found = recognise(&model, &RecogniseOptions { bind }).unwrap();
        assert_eq!(found.unmatched.iter().map(|u| &u.parameter[..]).collect::<Vec<_>>(), [old]);
        assert_eq!(found.matches.len(), 1);
    }
    for (new, old) in [("nothing", "a"), ("p'", "nothing"), ("a", "p'")] {
        let bind = vec![(new.to_string(), old.to_string())];
        assert!(recognise(&model, &RecogniseOptions { bind }).is_err());
    }
}
