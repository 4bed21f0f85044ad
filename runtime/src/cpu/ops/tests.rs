//! Every model of `tests/data/ops` against what onnxruntime computed for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use ndarray_npy::NpzReader;
use tract_onnx::Onnx;
use tract_onnx::prelude::Framework;
use tract_onnx::tract_hir::internal::*;

use super::register;

pub(crate) fn folder() -> PathBuf {
    crate::testing::root().join("tests/data/ops")
}

pub(super) fn framework() -> Onnx {
    let mut onnx = tract_onnx::onnx();
    register(&mut onnx.op_register);
    onnx
}

/// Runs a model; with `known`, shapes are fixed to the inputs' before planning.
pub(super) fn run(mut model: InferenceModel, inputs: &[Tensor], known: bool) -> TractResult<TVec<TValue>> {
    for (at, input) in inputs.iter().enumerate().filter(|_| known) {
        model.set_input_fact(at, InferenceFact::dt_shape(input.datum_type(), input.shape()))?;
    }
    let values = inputs.iter().map(|i| i.clone().into_tvalue()).collect();
    model.into_typed()?.into_optimized()?.into_runnable()?.run(values)
}

pub(crate) type Tensors = BTreeMap<String, Tensor>;

pub(crate) fn archive() -> Tensors {
    let mut npz = NpzReader::new(File::open(folder().join("expected.npz")).unwrap()).unwrap();
    let names = npz.names().unwrap();
    let mut tensors = Tensors::new();
    for name in names {
        macro_rules! try_types {
            ($($type:ty),*) => {$(
                if let Ok(array) = npz.by_name::<ndarray::OwnedRepr<$type>, ndarray::IxDyn>(&name) {
                    let data = array.iter().copied().collect::<Vec<$type>>();
                    tensors.insert(name.trim_end_matches(".npy").into(), Tensor::from_shape(array.shape(), &data).unwrap());
                    continue;
                }
            )*};
        }
        try_types!(f32, i64, i32, bool);
        panic!("{name} has a type this test does not read");
    }
    tensors
}

/// The inputs of `case` in the model's order, and the expected outputs.
fn case(name: &str, model: &InferenceModel, archive: &Tensors) -> (Vec<Tensor>, Vec<Tensor>) {
    let inputs = model.input_outlets().unwrap().iter().map(|o| model.node(o.node).name.clone());
    let outputs = model.output_outlets().unwrap().iter().map(|o| model.outlet_label(*o).unwrap().to_string());
    let find = |kind: &str, key: String| archive[&format!("{name}/{kind}/{key}")].clone();
    (inputs.map(|key| find("in", key)).collect(), outputs.map(|key| find("out", key)).collect())
}

fn assert_close(name: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.shape(), expected.shape(), "{name}: shape");
    assert_eq!(found.datum_type(), expected.datum_type(), "{name}: type");
    let (found, expected) = (found.cast_to::<f32>().unwrap(), expected.cast_to::<f32>().unwrap());
    let values = |t: &Tensor| t.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
    for (i, (f, e)) in values(&found).into_iter().zip(values(&expected)).enumerate() {
        let same = f == e || (f.is_nan() && e.is_nan());
        assert!(same || (f - e).abs() <= 2e-6 + 2e-5 * e.abs(), "{name}[{i}] is {f}, onnxruntime has {e}");
    }
}

/// Every case of the folder.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".onnx").map(String::from))
        .collect();
    names.sort();
    assert!(names.len() > 30, "the folder of cases is not complete: {names:?}");
    names
}

#[test]
fn agrees_with_onnxruntime() {
    let (archive, onnx) = (archive(), framework());
    // The operators of our own; the engine as a whole is compared in `plan::conformance`.
    let own = ["conv", "sce", "nll"];
    for name in names().into_iter().filter(|name| own.iter().any(|o| name.starts_with(o))) {
        let model = onnx.model_for_path(folder().join(format!("{name}.onnx"))).unwrap();
        let (inputs, outputs) = case(&name, &model, &archive);
        for known in [true, false] {
            let results =
                run(model.clone(), &inputs, known).unwrap_or_else(|e| panic!("{name}, shapes known {known}: {e:?}"));
            assert_eq!(results.len(), outputs.len());
            for (found, expected) in results.iter().zip(&outputs) {
                assert_close(&name, found, expected);
            }
        }
    }
}

/// Runs a case with one input replaced and returns the error.
pub(super) fn error_with(name: &str, input: usize, tensor: Tensor) -> String {
    let archive = archive();
    let model = framework().model_for_path(folder().join(format!("{name}.onnx"))).unwrap();
    let (mut inputs, _) = case(name, &model, &archive);
    inputs[input] = tensor;
    format!("{:?}", run(model, &inputs, true).expect_err("the input is wrong"))
}

#[test]
fn a_label_that_is_no_class_is_an_error_that_names_it() {
    let labels = Tensor::from_shape(&[6], &[0i64, 1, 2, 3, 4, 5]).unwrap();
    for name in ["sce_mean", "nll_mean"] {
        let error = error_with(name, 1, labels.clone());
        assert!(error.contains(&format!("node \"{name}\"")), "{error}");
        assert!(error.contains("label 5 at position 5 is outside 0..5"), "{error}");
    }
}

#[test]
fn shapes_that_contradict_each_other_are_errors_that_name_the_node() {
    let error = error_with("conv_2d", 1, Tensor::zero::<f32>(&[6, 5, 3, 2]).unwrap());
    assert!(
        error.contains("Conv node \"conv_2d\"") && error.contains("number of input channels is 4, expected 5"),
        "{error}"
    );
    let error = error_with("conv_2d", 1, Tensor::zero::<f32>(&[6, 4, 30, 2]).unwrap());
    assert!(error.contains("conv_2d") && error.contains("window of 30 does not fit"), "{error}");
    let error = error_with("sce_mean", 1, Tensor::zero::<i64>(&[7]).unwrap());
    assert!(error.contains("sce_mean") && error.contains("labels' axis 0 is 7, expected 6"), "{error}");
}

#[test]
fn an_empty_batch_passes_through_convolutions() {
    let archive = archive();
    for name in ["conv_2d", "conv_depthwise", "conv_transpose_2d"] {
        let model = framework().model_for_path(folder().join(format!("{name}.onnx"))).unwrap();
        let (mut inputs, outputs) = case(name, &model, &archive);
        let mut shape = inputs[0].shape().to_vec();
        shape[0] = 0;
        inputs[0] = Tensor::zero::<f32>(&shape).unwrap();
        for known in [true, false] {
            let results = run(model.clone(), &inputs, known).unwrap();
            assert_eq!(results[0].shape()[0], 0);
            assert_eq!(results[0].shape()[1..], outputs[0].shape()[1..]);
        }
    }
}
