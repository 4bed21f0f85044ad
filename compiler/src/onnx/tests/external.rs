//! Data beside the model, and files beyond 2 GiB.

use super::*;
use crate::graph::{DType, Graph, Tensor};
use crate::onnx::wire::put_varint;
use std::io::{Seek, SeekFrom, Write};

#[test]
fn external_data_is_written_beside_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let model = load(&models().join("forward/mlp_dynamo.onnx")).unwrap();
    save(&model, &path, &SaveOptions { external_data: true }).unwrap();
    let small = std::fs::metadata(&path).unwrap().len();
    assert!(folder.path().join("m.onnx.data").exists());
    assert!(small < 20_000, "{small}");
    assert_eq!(load(&path).unwrap(), model);
}

#[test]
fn external_data_may_not_leave_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    let path = folder.path().join("in/m.onnx");
    let model = load(&models().join("forward/mlp_dynamo.onnx")).unwrap();
    save(&model, &path, &SaveOptions { external_data: true }).unwrap();
    let original = std::fs::read(&path).unwrap();
    std::fs::rename(folder.path().join("in/m.onnx.data"), folder.path().join("secret")).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("copy it beside the model"));
    std::os::unix::fs::symlink("../secret", folder.path().join("in/m.onnx.data")).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("leaves the model's folder"));
    for hostile in ["../secretxx", "/etc/passwd"] {
        let mut bytes = original.clone();
        let name = b"m.onnx.data";
        let padded = format!("{hostile:.<11}");
        let mut at = 0;
        while let Some(i) = bytes[at..].windows(name.len()).position(|w| w == name) {
            bytes[at + i..at + i + name.len()].copy_from_slice(padded.as_bytes());
            at += i + 1;
        }
        std::fs::write(&path, bytes).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("outside the model's folder"), "{hostile}");
    }
}

/// A model of one uint8 tensor `w` of `len` elements, kept where `entries` say.
fn outside(len: usize, entries: &[(&str, &str)]) -> Vec<u8> {
    let mut graph = Graph::new("g");
    // data_location = EXTERNAL, then the entries, as fields the tensor does not know itself.
    let mut unknown = vec![0x70, 1];
    for (key, value) in entries {
        let entry = [&[0x0a, key.len() as u8], key.as_bytes(), &[0x12, value.len() as u8], value.as_bytes()].concat();
        unknown.extend([0x6a, entry.len() as u8]);
        unknown.extend(entry);
    }
    graph.add_initializer("w", Tensor { unknown, ..Tensor::raw(DType::U8, [len], Vec::new()) });
    to_bytes(&Model { ir_version: 10, graph, ..Model::default() }).unwrap()
}

#[test]
fn ranges_outside_the_data_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("d"), [7; 100]).unwrap();
    let read = |entries: &[(&str, &str)]| parse(outside(10, entries), Some(folder.path())).map_err(|e| e.to_string());
    let model = read(&[("location", "d"), ("offset", "90"), ("length", "10")]).unwrap();
    assert_eq!(model.graph.initializers().next().unwrap().1.bytes(), Some(&[7; 10][..]));
    assert!(read(&[("location", "./d")]).is_ok(), "offset and length may be left out");
    for (entries, word) in [
        (
            &[("location", "d"), ("offset", "91"), ("length", "10")][..],
            "asks for bytes 91 to 91+10 of 'd', which has 100",
        ),
        (&[("location", "d"), ("offset", "18446744073709551615"), ("length", "10")], "asks for bytes"),
        (&[("location", "d"), ("offset", "18446744073709551616")], "which is no number"),
        (&[("location", "d"), ("offset", "-1")], "which is no number"),
        (&[("location", "d"), ("length", "9")], "has 9 bytes of data where its shape [10] of u8 asks for 10"),
        (&[("location", "missing")], "cannot be read"),
        (&[("location", "")], "names none"),
        (&[("offset", "0")], "names none"),
        (&[("location", "../d")], "outside the model's folder"),
        (&[("location", "a/../../d")], "outside the model's folder"),
        (&[("location", "/etc/passwd")], "outside the model's folder"),
    ] {
        let error = read(entries).unwrap_err();
        assert!(error.contains(word) && error.contains("'w'"), "{entries:?}: {error}");
    }
    let error = parse(outside(10, &[("location", "d")]), None).unwrap_err().to_string();
    assert!(error.contains("not read from a folder"), "{error}");
}

#[test]
fn external_data_far_into_a_large_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut data = std::fs::File::create(folder.path().join("d")).unwrap();
    data.set_len(6 << 30).unwrap();
    data.seek(SeekFrom::Start(5 << 30)).unwrap();
    data.write_all(b"0123456789").unwrap();
    let offset = (5u64 << 30).to_string();
    let bytes = outside(10, &[("location", "d"), ("offset", &offset), ("length", "10")]);
    let model = parse(bytes, Some(folder.path())).unwrap();
    assert_eq!(model.graph.initializers().next().unwrap().1.bytes(), Some(&b"0123456789"[..]));
}

#[test]
fn a_file_beyond_two_gibibytes_loads_and_asks_for_external_data() {
    const SIZE: u64 = 3 << 30;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let length = |n: u64| {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, n);
        bytes
    };
    // dims = [SIZE], data_type = UINT8, name = "w", raw_data
    let dims = length(SIZE);
    let mut tensor = [&[0x0a, dims.len() as u8][..], &dims, &[0x10, 2, 0x42, 1, b'w', 0x4a], &length(SIZE)].concat();
    let tensor_len = tensor.len() as u64 + SIZE;
    let mut graph = [&[0x2a][..], &length(tensor_len)].concat();
    let graph_len = graph.len() as u64 + tensor_len;
    graph.append(&mut tensor);
    let head = [&[0x08, 10, 0x3a][..], &length(graph_len), &graph].concat();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&head).unwrap();
    file.set_len(head.len() as u64 + SIZE).unwrap();
    let model = load(&path).unwrap();
    assert_eq!(model.graph.initializers().next().unwrap().1.bytes().unwrap().len() as u64, SIZE);
    let target = folder.path().join("out.onnx");
    for error in [save(&model, &target, &SaveOptions::default()).unwrap_err(), to_bytes(&model).unwrap_err()] {
        assert!(error.to_string().contains("save it with --external-data"), "{error}");
    }
    assert!(!target.exists());
    let mut writer = write::Writer { sidecar: Some(write::Sidecar::new("out.onnx.data".into())) };
    assert!(writer.model(&model).unwrap().len() < 200);
}

#[test]
fn a_special_file_is_written_to_and_not_replaced() {
    let model = load(&models().join("pytorch-train-step/mlp_sgd.onnx")).unwrap();
    let null = Path::new("/dev/null");
    save(&model, null, &SaveOptions::default()).unwrap();
    assert!(!std::fs::metadata(null).unwrap().is_file());
    let error = save(&model, null, &SaveOptions { external_data: true }).unwrap_err();
    assert!(error.to_string().contains("no ordinary file"), "{error}");
    assert!(!Path::new("/dev/null.data").exists());
}

#[test]
fn a_model_may_be_saved_over_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    std::fs::copy(models().join("forward/mlp_dynamo.onnx"), &path).unwrap();
    let original = load(&path).unwrap();
    for external_data in [true, true, false] {
        save(&load(&path).unwrap(), &path, &SaveOptions { external_data }).unwrap();
        assert_eq!(load(&path).unwrap(), original);
    }
}
