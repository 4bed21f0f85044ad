//! Every model of `tests/data/ops` on a device, against what onnxruntime computed for it.

use super::device::{Device, Scalars, Session};
use super::testing::Reference;
use super::{PlanError, PlanOptions};
use crate::HostTensor;
use crate::cpu::ops::tests::{archive, folder, names};
use crate::cpu::{Program, ProgramOptions};
use npc_compiler::bindings::Bindings;
use npc_compiler::neuroplastic::Settings;
use npc_compiler::onnx;

/// Bindings of a model that nothing is fed back in.
fn plain() -> Bindings {
    Bindings {
        version: 1,
        optimizer: "keep".into(),
        inputs: Vec::new(),
        learning_rate: None,
        step: None,
        gates: None,
        outputs: Default::default(),
        parameters: Vec::new(),
        state: Vec::new(),
        settings: Settings::default(),
    }
}

/// Runs every case; gives those that were refused, with the reason.
fn refused_on<D: Device>(device: impl Fn() -> D) -> Vec<(String, String)> {
    let archive = archive();
    let mut refused = Vec::new();
    for name in names() {
        let model = onnx::load(&folder().join(format!("{name}.onnx"))).unwrap();
        let program = Program::new(&model, &ProgramOptions::default()).unwrap();
        let given: Vec<(String, HostTensor)> = (program.inputs())
            .map(|key| (key.to_string(), HostTensor::from(archive[&format!("{name}/in/{key}")].clone())))
            .collect();
        let shapes: Vec<Vec<usize>> = given.iter().map(|(_, t)| t.dims().to_vec()).collect();
        let plan = program.graph_for(&shapes).and_then(|graph| graph.plan(&plain(), &PlanOptions::default()));
        let plan = match plan {
            Ok(plan) => plan,
            Err(PlanError::Unsupported { op, why, .. }) => {
                refused.push((name, format!("{op}{why}")));
                continue;
            }
            Err(PlanError::Type { dtype, .. }) => {
                refused.push((name, dtype));
                continue;
            }
            Err(other) => panic!("{name}: {other}"),
        };
        let mut session = Session::new(plan, device(), &Scalars::default()).unwrap();
        for (key, tensor) in &given {
            session.set(key, tensor).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        session.step().unwrap();
        session.check().unwrap_or_else(|e| panic!("{name}: {e}"));
        for key in program.outputs() {
            let want = HostTensor::from(archive[&format!("{name}/out/{key}")].clone());
            let got = session.get(key, None).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{name}: {key}");
            let largest = want.to_f64().iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
            for (i, (got, want)) in got.to_f64().iter().zip(want.to_f64()).enumerate() {
                let same = *got == want || (got.is_nan() && want.is_nan());
                let near = (got - want).abs() <= 2e-6 + 2e-5 * want.abs() + 2e-6 * largest;
                assert!(same || near, "{name}: {key}[{i}] is {got}, onnxruntime has {want}");
            }
        }
    }
    refused
}

/// Cases that no kernel runs: each is refused by name.
const REFUSED: &[&str] = &[];

#[test]
fn operators_agree_with_onnxruntime() {
    let refused = refused_on(Reference::default);
    let found: Vec<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(found, REFUSED, "{refused:#?}");
}

#[test]
#[ignore = "needs a GPU: tests/gpu.sh"]
fn on_a_gpu_operators_agree_with_onnxruntime() {
    let refused = refused_on(|| crate::cuda::Gpu::new(0).unwrap());
    assert_eq!(refused.len(), REFUSED.len(), "{refused:#?}");
}
