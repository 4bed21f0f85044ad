//! `Pad` with negative pads, which tract does not know: the crop becomes a `Slice` in front of it.

use npc_compiler::graph::{AttributeValue, Graph, Node, NodeId, Tensor, ValueId};

/// Rewrites every `Pad` of constant value whose pads are known and partly negative.
pub fn separate(graph: &mut Graph) {
    let pads: Vec<NodeId> = graph.node_ids().filter(|id| graph.node(*id).is("Pad")).collect();
    for id in pads {
        let node = graph.node(id);
        let is_constant = node.string("mode").is_none_or(|mode| mode == "constant");
        let (Some(data), Some(list)) = (node.input(0), node.input(1)) else { continue };
        let Some(pads) = integers(graph, list).filter(|p| is_constant && node.input(3).is_none() && p.len() % 2 == 0)
        else {
            continue;
        };
        if pads.iter().all(|p| *p >= 0) {
            continue;
        }
        let (before, after) = pads.split_at(pads.len() / 2);
        let starts: Vec<i64> = before.iter().map(|p| -p.min(&0)).collect();
        let ends: Vec<i64> = after.iter().map(|p| if *p < 0 { *p } else { i64::MAX }).collect();
        let axes: Vec<i64> = (0..before.len() as i64).collect();
        let rest: Vec<i64> = pads.iter().map(|p| *p.max(&0)).collect();
        let [starts, ends, axes, rest] =
            [starts, ends, axes, rest].map(|list| graph.add_initializer("crop", Tensor::i64([list.len()], &list)));
        let [cropped] = graph.add(Node::new("Slice", [data, starts, ends, axes]), ["cropped"]);
        graph.set_input(id, 0, cropped);
        graph.set_input(id, 1, rest);
    }
}

fn integers(graph: &Graph, value: ValueId) -> Option<Vec<i64>> {
    if let Some(constant) = graph.constant(value) {
        return constant.to_i64();
    }
    match &graph.producer(value).filter(|(_, n)| n.is("Constant"))?.1.attributes.first()?.value {
        AttributeValue::Tensor(tensor) => tensor.to_i64(),
        AttributeValue::Ints(list) => Some(list.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostTensor;
    use crate::cpu::{Program, ProgramOptions};
    use npc_compiler::graph::{DType, Model, Opset, ValueType};

    /// What `Pad` makes of the rows 1 2 3 and 4 5 6.
    fn padded(pads: &[i64]) -> (Vec<usize>, Vec<f32>) {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", ValueType::tensor(DType::F32, &[2, 3]));
        let pads = graph.add_initializer("pads", Tensor::i64([4], pads));
        let [y] = graph.add(Node::new("Pad", [x, pads]), ["y"]);
        graph.outputs.push(y);
        let opsets = vec![Opset { domain: String::new(), version: 17 }];
        let model = Model { ir_version: 8, opsets, graph, ..Model::default() };
        let mut program = Program::new(&model, &ProgramOptions::default()).unwrap();
        let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let (_, y) = program.run(vec![("x".into(), x)]).unwrap().remove(0);
        (y.dims().to_vec(), y.as_f32().unwrap().to_vec())
    }

    #[test]
    fn negative_pads_crop() {
        assert_eq!(padded(&[0, -1, 0, 1]), (vec![2, 3], vec![2.0, 3.0, 0.0, 5.0, 6.0, 0.0]));
        assert_eq!(padded(&[-1, 1, 0, -2]), (vec![1, 2], vec![0.0, 4.0]));
        assert_eq!(padded(&[0, -1, -1, -1]), (vec![1, 1], vec![2.0]));
        assert_eq!(padded(&[0, 0, 1, 0]), (vec![3, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0]));
    }
}
