//! Models that cannot be right, given to every command that reads models.

use crate::bad_input::{file, one_sentence, refused};
use crate::{model, npc, stdout, text};
use onnx_protobuf as pb;
use onnx_protobuf::Message as _;
use std::path::Path;

/// A shipped SGD step with something done to its graph.
fn step(change: impl FnOnce(&mut pb::GraphProto)) -> pb::ModelProto {
    let bytes = std::fs::read(model("pytorch-train-step/mlp_sgd.onnx")).unwrap();
    let mut model = pb::ModelProto::parse_from_bytes(&bytes).unwrap();
    change(model.graph.as_mut().unwrap());
    model
}

/// No command makes anything of `bad`: one sentence with `word`, and the code for bad input.
fn no_command_takes(bad: &Path, word: &str) {
    refused(bad, &[], 3, word);
    let folder = tempfile::tempdir().unwrap();
    let (bad, out, good) = (text(bad), folder.path().join("run"), model("pytorch-train-step/mlp_sgd.onnx"));
    for arguments in [
        &["inspect", bad][..],
        &["diff", text(&good), bad],
        &["verify", text(&good), bad],
        &["verify", bad, text(&good)],
        &["train", bad, "--data", "fashion-mnist-10k", "--out", text(&out)],
    ] {
        one_sentence(&npc(arguments), 3, word);
    }
    assert!(!out.exists(), "a run was begun");
}

fn nobody_takes(bad: &pb::ModelProto, word: &str) {
    no_command_takes(file(&bad.write_to_bytes().unwrap()).path(), word);
}

#[test]
fn damaged_files() {
    let good = std::fs::read(model("pytorch-train-step/mlp_sgd.onnx")).unwrap();
    no_command_takes(file(&good[..good.len() * 2 / 3]).path(), "truncated");
    no_command_takes(file(b"").path(), "empty");
    no_command_takes(Path::new("/no/such/model.onnx"), "cannot read");
}

#[test]
fn cycles_and_duplicated_names() {
    nobody_takes(
        &step(|g| {
            let last = g.node.last().unwrap().output[0].clone();
            g.node[0].input[0] = last;
        }),
        "cycle",
    );
    nobody_takes(&step(|g| g.node[1].output[0] = g.node[0].output[0].clone()), "already has another source");
    nobody_takes(&step(|g| g.node[1].output[0] = g.input[0].name.clone()), "already has another source");
    nobody_takes(&step(|g| g.input.push(g.input[0].clone())), "is declared twice");
    nobody_takes(&step(|g| g.initializer.push(g.initializer[0].clone())), "stands in the file twice");
    nobody_takes(&step(|g| g.node[0].input[0] = "nowhere".into()), "reads 'nowhere'");
}

#[test]
fn tensors_that_do_not_fit_their_shapes() {
    let raw = |g: &pb::GraphProto| g.initializer.iter().position(|t| !t.raw_data.is_empty()).unwrap();
    nobody_takes(
        &step(|g| {
            let at = raw(g);
            g.initializer[at].raw_data.push(0);
        }),
        "bytes of data where its shape",
    );
    nobody_takes(
        &step(|g| {
            let at = raw(g);
            g.initializer[at].dims = vec![i64::MAX, i64::MAX];
        }),
        "shape",
    );
    nobody_takes(
        &step(|g| {
            let at = raw(g);
            g.initializer[at].dims = vec![-1];
        }),
        "-1",
    );
}

#[test]
fn an_update_of_another_shape_than_its_parameter() {
    let odd = step(|g| {
        let at = g.output.iter().position(|o| o.name == "net.0.bias.next").unwrap();
        let shape = g.output[at].type_.as_mut().unwrap().mut_tensor_type().shape.as_mut().unwrap();
        shape.dim.iter_mut().for_each(|d| d.set_dim_value(77));
    });
    let odd = file(&odd.write_to_bytes().unwrap());
    let words = "computes the shape [64], but its result 'net.0.bias.next' is declared as [77]";
    refused(odd.path(), &[], 3, words);
    refused(odd.path(), &["--optimizer", "keep"], 3, words);
    one_sentence(&npc(["train", text(odd.path()), "--data", "fashion-mnist-10k"]), 3, words);
}

#[test]
fn deep_nesting_and_huge_lengths() {
    let field = |number: u8, body: &[u8]| {
        let mut out = vec![number << 3 | 2];
        let mut length = body.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend(body);
        out
    };
    // A graph in an attribute of a node of a graph in an attribute …
    let graph = (0..5_000).fold(Vec::new(), |inner, _| field(1, &field(5, &field(6, &inner))));
    no_command_takes(file(&[vec![0x08, 8], field(7, &graph)].concat()).path(), "100 deep");
    let huge = [0x08, 8, 0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    no_command_takes(file(&huge).path(), "beyond");
}

/// The shipped step with its first large initializer kept in another file.
fn outside(location: &str) -> pb::ModelProto {
    step(|g| {
        let tensor = g.initializer.iter_mut().max_by_key(|t| t.raw_data.len()).unwrap();
        tensor.raw_data.clear();
        let entry = pb::StringStringEntryProto { key: "location".into(), value: location.into(), ..Default::default() };
        tensor.external_data.push(entry);
        tensor.data_location = pb::tensor_proto::DataLocation::EXTERNAL.into();
    })
}

#[test]
fn external_data_that_is_missing_or_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    std::fs::write(folder.path().join("secret"), [0; 1 << 16]).unwrap();
    std::os::unix::fs::symlink("../secret", folder.path().join("in/link")).unwrap();
    let path = folder.path().join("in/m.onnx");
    for (location, word) in [
        ("missing.data", "copy it beside the model"),
        ("../secret", "outside the model's folder"),
        ("/etc/passwd", "outside the model's folder"),
        ("link", "a link that leaves the model's folder"),
        (".", "cannot be read"),
    ] {
        std::fs::write(&path, outside(location).write_to_bytes().unwrap()).unwrap();
        no_command_takes(&path, word);
    }
    // Too short for the tensor.
    std::fs::write(folder.path().join("in/short"), [0; 3]).unwrap();
    std::fs::write(&path, outside("short").write_to_bytes().unwrap()).unwrap();
    no_command_takes(&path, "which has 3");
}

#[test]
fn models_too_large_for_any_memory() {
    let folder = tempfile::tempdir().unwrap();
    let huge = step(|g| {
        let input = g.input.iter_mut().find(|v| v.name == "input").unwrap();
        let shape = input.type_.as_mut().unwrap().mut_tensor_type().shape.as_mut().unwrap();
        shape.dim[0].set_dim_value(1 << 60);
    });
    let file = file(&huge.write_to_bytes().unwrap());
    one_sentence(&npc(["verify", text(file.path()), text(file.path())]), 3, "does not fit into memory");
    let out = folder.path().join("run");
    one_sentence(
        &npc(["train", text(file.path()), "--data", "fashion-mnist-10k", "--out", text(&out)]),
        3,
        "do not fill one batch",
    );
}

/// What the engine's library answers with a panic.
#[test]
fn indices_out_of_range_inside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let reads = |op: &str, indices: &[i64]| {
        step(|g| {
            let raw_data = indices.iter().flat_map(|i| i.to_le_bytes()).collect();
            let (name, dims) = ("odd".to_string(), vec![indices.len() as i64]);
            g.initializer.push(pb::TensorProto { name, dims, data_type: 7, raw_data, ..Default::default() });
            let (input, output) = (vec!["input".into(), "odd".into()], vec!["taken".into()]);
            g.node.insert(0, pb::NodeProto { op_type: op.into(), input, output, ..Default::default() });
            let reader = g.node[1..].iter_mut().flat_map(|n| &mut n.input).find(|i| *i == "input").unwrap();
            *reader = "taken".into();
        })
    };
    let path = folder.path().join("odd.onnx");
    let write =
        |op: &str, indices: &[i64]| std::fs::write(&path, reads(op, indices).write_to_bytes().unwrap()).unwrap();
    write("Gather", &(0..15).chain([99]).collect::<Vec<i64>>());
    one_sentence(&npc(["verify", text(&path), text(&path)]), 3, "its library gave up");
    let out = folder.path().join("run");
    let train = ["train", text(&path), "--data", "fashion-mnist-10k", "--epochs", "1", "--out", text(&out)];
    one_sentence(&npc(train), 3, "its library gave up");
    // A crop written as a Pad is no such thing.
    write("Pad", &[0, 0, 0, -1, 0, 0, 0, 1]);
    stdout(&npc(["verify", text(&path), text(&path)]));
}

#[test]
fn models_that_are_not_the_same_step() {
    let (mlp, other) = (model("pytorch-train-step/mlp_sgd.onnx"), model("pytorch-train-step/transformer_adamw.onnx"));
    one_sentence(&npc(["verify", text(&mlp), text(&other)]), 3, "the first model has no value");
    let forward = model("forward/mlp_dynamo.onnx");
    one_sentence(&npc(["verify", text(&mlp), text(&forward)]), 3, "no optimizer");
    one_sentence(&npc(["verify", text(&forward), text(&mlp)]), 3, "the first model has no value");
}
