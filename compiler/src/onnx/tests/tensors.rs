//! Every element type in every form that onnx.proto allows.

use super::*;
use crate::graph::{DType, Payload, Tensor};
use onnx_protobuf as pb;
use onnx_protobuf::Message as _;

fn loaded(tensor: pb::TensorProto) -> Result<Tensor, String> {
    let mut graph = pb::GraphProto::new();
    graph.initializer.push(pb::TensorProto { name: "w".into(), ..tensor });
    let model = pb::ModelProto { ir_version: 10, graph: Some(graph).into(), ..pb::ModelProto::new() };
    let model = parse(model.write_to_bytes().unwrap(), None).map_err(|e| e.to_string())?;
    let (_, tensor) = model.graph.initializers().next().unwrap();
    Ok(tensor.clone())
}

fn proto(dtype: DType, dims: &[i64]) -> pb::TensorProto {
    pb::TensorProto { data_type: dtype.0, dims: dims.to_vec(), ..pb::TensorProto::new() }
}

#[test]
fn typed_fields_become_little_endian_bytes() {
    fn le<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|x| bytes(*x)).collect()
    }
    let floats = [1.5f32, -0.0, f32::INFINITY, f32::MIN_POSITIVE];
    for (dtype, n) in [(DType::F32, 4), (DType::C64, 2)] {
        let t = pb::TensorProto { float_data: floats.to_vec(), ..proto(dtype, &[n]) };
        assert_eq!(loaded(t).unwrap().bytes(), Some(&le(&floats, f32::to_le_bytes)[..]));
    }
    let doubles = [1.5f64, -2.5e300];
    for (dtype, n) in [(DType::F64, 2), (DType::C128, 1)] {
        let t = pb::TensorProto { double_data: doubles.to_vec(), ..proto(dtype, &[n]) };
        assert_eq!(loaded(t).unwrap().bytes(), Some(&le(&doubles, f64::to_le_bytes)[..]));
    }
    let longs = [0i64, -1, i64::MIN, i64::MAX, 300];
    let t = pb::TensorProto { int64_data: longs.to_vec(), ..proto(DType::I64, &[5]) };
    assert_eq!(loaded(t).unwrap().bytes(), Some(&le(&longs, i64::to_le_bytes)[..]));
    let t = pb::TensorProto { uint64_data: vec![u64::MAX, 5], ..proto(DType::U64, &[2]) };
    assert_eq!(loaded(t).unwrap().bytes(), Some(&le(&[u64::MAX, 5], u64::to_le_bytes)[..]));
    let t = pb::TensorProto { uint64_data: vec![u32::MAX.into(), 5], ..proto(DType::U32, &[2]) };
    assert_eq!(loaded(t).unwrap().bytes(), Some(&le(&[u32::MAX, 5], u32::to_le_bytes)[..]));
    let t = pb::TensorProto { int32_data: vec![i32::MIN, -1, 7], ..proto(DType::I32, &[3]) };
    assert_eq!(loaded(t).unwrap().bytes(), Some(&le(&[i32::MIN, -1, 7], i32::to_le_bytes)[..]));
    let t = pb::TensorProto { int32_data: vec![-2, 300], ..proto(DType::I16, &[2]) };
    assert_eq!(loaded(t).unwrap().bytes(), Some(&le(&[-2i16, 300], i16::to_le_bytes)[..]));
    for dtype in [DType::U16, DType::F16, DType::BF16] {
        let t = pb::TensorProto { int32_data: vec![0x3c00, 0xffff], ..proto(dtype, &[2]) };
        assert_eq!(loaded(t).unwrap().bytes(), Some(&[0x00, 0x3c, 0xff, 0xff][..]));
    }
    let bytes = [DType::U8, DType::BOOL, DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ];
    for dtype in bytes.into_iter().chain([DType::F8E8M0]) {
        let t = pb::TensorProto { int32_data: vec![0, 1, 255], ..proto(dtype, &[3]) };
        assert_eq!(loaded(t).unwrap().bytes(), Some(&[0, 1, 255][..]));
    }
    let t = pb::TensorProto { int32_data: vec![-1, 5], ..proto(DType::I8, &[2]) };
    assert_eq!(loaded(t).unwrap().bytes(), Some(&[255, 5][..]));
    // Sub-byte types: an int32 holds a packed byte.
    for (dtype, n) in [(DType::U4, 3), (DType::I4, 4), (DType::F4E2M1, 3), (DType::U2, 8), (DType::I2, 5)] {
        let t = pb::TensorProto { int32_data: vec![0x21, 0xf3], ..proto(dtype, &[n]) };
        assert_eq!(loaded(t).unwrap().bytes(), Some(&[0x21, 0xf3][..]), "{dtype}");
    }
    let t = pb::TensorProto { string_data: vec![b"a\xff".to_vec(), vec![]], ..proto(DType::STRING, &[2]) };
    assert_eq!(loaded(t).unwrap().payload, Payload::Strings(vec![b"a\xff".to_vec(), vec![]]));
}

#[test]
fn numbers_may_stand_unpacked_or_in_several_pieces() {
    let parts = |tensor: &[u8]| {
        let graph = [&[0x2a, tensor.len() as u8 + 3], tensor, &[0x42, 1, b'w']].concat();
        parse([&[0x08, 10, 0x3a, graph.len() as u8], &graph[..]].concat(), None).unwrap()
    };
    let bytes = |model: &Model| model.graph.initializers().next().unwrap().1.bytes().unwrap().to_vec();
    // dims 1, 2 unpacked; float_data: one packed pair of halves of the tensor, then unpacked.
    let unpacked = parts(&[0x08, 1, 0x08, 2, 0x10, 1, 0x25, 1, 2, 3, 4, 0x25, 5, 6, 7, 8]);
    assert_eq!(bytes(&unpacked), [1, 2, 3, 4, 5, 6, 7, 8]);
    let mixed = parts(&[0x0a, 2, 1, 2, 0x10, 1, 0x22, 4, 1, 2, 3, 4, 0x25, 5, 6, 7, 8]);
    assert_eq!(bytes(&mixed), [1, 2, 3, 4, 5, 6, 7, 8]);
    let pieces = parts(&[0x0a, 1, 2, 0x10, 1, 0x22, 4, 1, 2, 3, 4, 0x22, 4, 5, 6, 7, 8]);
    assert_eq!(bytes(&pieces), [1, 2, 3, 4, 5, 6, 7, 8]);
    let integers = parts(&[0x0a, 1, 3, 0x10, 5, 0x28, 1, 0x2a, 2, 2, 3]);
    assert_eq!(bytes(&integers), [1, 0, 2, 0, 3, 0]);
}

#[test]
fn large_arrays_stay_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let floats: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let mut graph = pb::GraphProto::new();
    graph.initializer.push(pb::TensorProto { name: "a".into(), float_data: floats, ..proto(DType::F32, &[1000]) });
    graph.initializer.push(pb::TensorProto { name: "b".into(), raw_data: vec![1; 1000], ..proto(DType::I8, &[1000]) });
    let model = pb::ModelProto { ir_version: 10, graph: Some(graph).into(), ..pb::ModelProto::new() };
    std::fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
    for (_, tensor) in load(&path).unwrap().graph.initializers() {
        assert!(matches!(tensor.payload, Payload::Raw(Bytes::Mapped(..))));
    }
}

#[test]
fn element_types_newer_than_this_build_are_carried() {
    let t = pb::TensorProto { raw_data: vec![1, 2, 3], ..proto(DType(99), &[7]) };
    assert_eq!(loaded(t).unwrap().bytes(), Some(&[1, 2, 3][..]));
}

#[test]
fn tensors_that_contradict_themselves_are_refused() {
    let f32 = |dims: &[i64]| proto(DType::F32, dims);
    for (tensor, words) in [
        (
            pb::TensorProto { raw_data: vec![0; 11], ..f32(&[3]) },
            "has 11 bytes of data where its shape [3] of f32 asks for 12",
        ),
        (pb::TensorProto { raw_data: vec![0; 8], ..f32(&[]) }, "asks for 4"),
        (f32(&[1]), "has 0 bytes"),
        (pb::TensorProto { raw_data: vec![0; 4], ..f32(&[-1]) }, "negative extent in its shape [-1]"),
        (pb::TensorProto { raw_data: vec![0; 4], ..f32(&[1 << 40, 1 << 40]) }, "beyond any memory"),
        (pb::TensorProto { raw_data: vec![0; 4], ..f32(&[1 << 61]) }, "beyond any memory"),
        (pb::TensorProto { float_data: vec![0.0; 2], ..f32(&[1]) }, "has 8 bytes"),
        (pb::TensorProto { int64_data: vec![0; 9], ..proto(DType::I64, &[2]) }, "more elements than"),
        (pb::TensorProto { int64_data: vec![0], ..proto(DType::I64, &[2]) }, "has 8 bytes"),
        (pb::TensorProto { int64_data: vec![0], ..f32(&[1]) }, "in the field of another type"),
        (pb::TensorProto { float_data: vec![0.0], raw_data: vec![0; 4], ..f32(&[1]) }, "in two fields at once"),
        (pb::TensorProto { float_data: vec![0.0], int32_data: vec![0], ..f32(&[1]) }, "in two fields at once"),
        (pb::TensorProto { raw_data: vec![0], ..proto(DType::UNDEFINED, &[1]) }, "no element type npc knows (code 0)"),
        (pb::TensorProto { int32_data: vec![0], ..proto(DType(99), &[1]) }, "no element type npc knows (code 99)"),
        (pb::TensorProto { string_data: vec![vec![]], ..proto(DType::STRING, &[2]) }, "has 1 strings for a shape of 2"),
        (pb::TensorProto { raw_data: vec![0], ..proto(DType::STRING, &[1]) }, "elsewhere than in string_data"),
        (
            pb::TensorProto { segment: Some(Default::default()).into(), raw_data: vec![0; 4], ..f32(&[1]) },
            "split into segments",
        ),
    ] {
        let error = loaded(tensor).unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(loaded(f32(&[0, 1 << 40])).unwrap().len(), 0);
}
