//! The GPT-2-like step: its mask, and training it through an archive of tokens.

use super::root;
use ndarray::Array2;
use npc_compiler::{CompileOptions, Compiled, compile, onnx};
use npc_runtime::HostTensor;
use npc_runtime::cpu::{Program, ProgramOptions};
use npc_runtime::train::{Epoch, Observer, Progress, State, TrainOptions, train};
use std::path::Path;

const BATCH: usize = 4;
const CONTEXT: usize = 16;
const VOCABULARY: usize = 64;

fn compiled() -> Compiled {
    let model = onnx::load(&root().join("models/gpt-train-step/gpt_adamw.onnx")).unwrap();
    compile(model, &CompileOptions::default()).unwrap()
}

fn options(data: String, out: &Path, epochs: u32) -> TrainOptions {
    TrainOptions { data, epochs, lr: Some(0.003), seed: 5, out: out.to_path_buf(), ..TrainOptions::default() }
}

/// Every token follows from the one before it.
fn sequence(seed: usize) -> Vec<i64> {
    let mut tokens = vec![seed * 29 % 13];
    while tokens.len() <= CONTEXT {
        tokens.push((5 * tokens[tokens.len() - 1] + 3) % 13);
    }
    tokens.into_iter().map(|t| t as i64).collect()
}

#[test]
fn no_position_sees_a_later_one() {
    let compiled = compiled();
    let outputs = Some(vec!["loss.log_p".to_string()]);
    let mut program = Program::new(&compiled.model, &ProgramOptions { outputs, threads: 1 }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = State::initial(&compiled.model, &compiled.bindings, &options(String::new(), folder.path(), 1)).unwrap();
    let mut run = |tokens: Vec<i64>| {
        let targets = HostTensor::i64(&[BATCH, CONTEXT], &vec![0; BATCH * CONTEXT]).unwrap();
        let tokens = HostTensor::i64(&[BATCH, CONTEXT], &tokens).unwrap();
        let mut feeds: Vec<(String, HostTensor)> =
            state.tensors().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
        feeds.extend([("tokens".to_string(), tokens), ("targets".to_string(), targets)]);
        let known: Vec<String> = program.inputs().map(str::to_string).collect();
        feeds.retain(|(name, _)| known.contains(name));
        program.run(feeds).unwrap().remove(0).1.to_f64()
    };
    let tokens: Vec<i64> = (0..BATCH).flat_map(|i| sequence(i)[..CONTEXT].to_vec()).collect();
    let mut changed = tokens.clone();
    changed.iter_mut().skip(10).step_by(CONTEXT).for_each(|t| *t += 40);
    let (before, after) = (run(tokens), run(changed));
    for (position, (a, b)) in before.chunks(VOCABULARY).zip(after.chunks(VOCABULARY)).enumerate() {
        assert_eq!(a == b, position % CONTEXT < 10, "position {position}");
    }
}

#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn step(&mut self, _: &Progress) {}
    fn epoch(&mut self, epoch: &Epoch) {
        self.0.push(epoch.train_loss);
    }
    fn stop(&mut self) -> bool {
        false
    }
}

#[test]
fn it_learns_a_language_from_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.npz");
    let samples = 400;
    let column = |from: usize| {
        let all = (0..samples).flat_map(|i| sequence(i)[from..from + CONTEXT].to_vec()).collect();
        Array2::from_shape_vec((samples, CONTEXT), all).unwrap()
    };
    let mut archive = ndarray_npy::NpzWriter::new(std::fs::File::create(&path).unwrap());
    archive.add_array("tokens", &column(0)).unwrap();
    archive.add_array("targets", &column(1)).unwrap();
    archive.finish().unwrap();
    let compiled = compiled();
    let mut losses = Losses::default();
    let options = options(path.display().to_string(), &folder.path().join("run"), 8);
    train(&compiled.model, &compiled.bindings, &options, &mut losses).unwrap();
    // It starts from about the vocabulary's ln 64 = 4.16; ln 13 = 2.56 is what counting tokens reaches.
    let (first, last) = (losses.0[0], losses.0[losses.0.len() - 1]);
    assert!(first < 4.2 && last < 1.0, "{:?}", losses.0);
}
