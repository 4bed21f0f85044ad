//! Writes what `tests/onnx_runtime.py` checks: step models for the golden vectors, and every shipped training step compiled.
//!
//! Usage: `emit_all OUT_DIR GOLDEN_DIR MODELS_DIR`

use npc_compiler::neuroplastic::{Settings, step_model};
use npc_compiler::{CompileOptions, Emit, Optimizer, compile, onnx};
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(Into::into).collect();
    let [out, golden, models] = &arguments[..] else { return Err("usage: emit_all OUT GOLDEN MODELS".into()) };
    std::fs::create_dir_all(out)?;
    let write =
        |model: &npc_compiler::graph::Model, name: String| onnx::save(model, &out.join(name), &Default::default());
    for path in files(golden, "json")? {
        let case: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let settings: Settings = serde_json::from_value(case["settings"].clone())?;
        let shapes: Vec<Vec<usize>> = serde_json::from_value(case["shapes"].clone())?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (emit, suffix) in
            [(Emit::Functions, "functions"), (Emit::Inline, "inline"), (Emit::TrainingInfo, "training")]
        {
            write(&step_model(&shapes, &settings, emit)?.model, format!("golden-{stem}-{suffix}.onnx"))?;
        }
        let epochs = case["total_epochs"].as_u64().unwrap_or(1) as u32;
        let gates: Vec<[f32; 3]> = case["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| settings.gates(s["epoch"].as_u64().unwrap_or(1) as u32, epochs))
            .collect();
        std::fs::write(out.join(format!("golden-{stem}.gates.json")), serde_json::to_vec(&gates)?)?;
    }
    for folder in ["pytorch-train-step", "jax-train-step", "cnn-train-step", "gpt-train-step"] {
        for path in files(&models.join(folder), "onnx")? {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            for (optimizer, emit, suffix) in [
                (Optimizer::NeuroPlastic, Emit::Functions, "functions"),
                (Optimizer::NeuroPlastic, Emit::Inline, "inline"),
                (Optimizer::NeuroPlastic, Emit::TrainingInfo, "training"),
                (Optimizer::Keep, Emit::TrainingInfo, "keep-training"),
                (Optimizer::Keep, Emit::Functions, "keep"),
            ] {
                let options = CompileOptions { optimizer, emit, ..CompileOptions::default() };
                write(&compile(onnx::load(&path)?, &options)?.model, format!("step-{stem}-{suffix}.onnx"))?;
            }
            std::fs::copy(&path, out.join(format!("step-{stem}-original.onnx")))?;
        }
    }
    Ok(())
}

fn files(folder: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    found.retain(|p| p.extension().is_some_and(|e| e == extension));
    found.sort();
    Ok(found)
}
