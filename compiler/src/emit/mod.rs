//! Forms of the result: functions, inline, training information.

mod training_info;

pub use training_info::training_info;

use crate::compile::{CompileError, Emit};
use crate::graph::{DType, Function, Opset};
use crate::neuroplastic::{self, DOMAIN, OP, Settings, Shape, VERSION};
use crate::onnx::inline_functions;
use crate::passes::Compilation;

/// First IR version with model-local functions.
const FUNCTIONS_IR: i64 = 8;

/// Brings a rewritten model into its final form.
///
/// # Errors
/// An opset too old, or settings that one function cannot hold.
pub fn emit(c: &mut Compilation, emit: Emit) -> Result<(), CompileError> {
    if c.model.opset_of("").is_none() {
        // A model of training operators alone imports no standard operators yet.
        c.model.opsets.push(Opset { domain: String::new(), version: 17 });
    }
    let opset = c.model.opset();
    if opset < neuroplastic::OPSET {
        return Err(CompileError::Opset(opset, "NeuroPlastic's body", neuroplastic::OPSET));
    }
    let graph = &c.model.graph;
    let casts = c.updates.iter().any(|u| graph.value(u.theta).dtype().is_some_and(|d| d != DType::F32));
    if casts && opset < 15 {
        return Err(CompileError::Opset(opset, "a float16 or bfloat16 parameter", 15));
    }
    let controller = c.updates.first().is_some_and(|u| u.settings.lr_controller_mode != neuroplastic::ControllerMode::Off);
    let decays = c.updates.iter().any(|u| u.settings.weight_decay > 0.0);
    let shape = Shape { opset, controller, casts, decays };
    let functions = |s: &Settings| -> Vec<Function> {
        let signal = controller.then(|| neuroplastic::signal_function(s, opset, casts));
        std::iter::once(neuroplastic::neuroplastic_function(s, shape)).chain(signal).collect()
    };
    if emit == Emit::Functions {
        one_body(c)?;
        c.model.functions.extend(functions(&c.updates[0].settings));
        c.model.opsets.push(Opset { domain: DOMAIN.into(), version: VERSION });
        c.model.ir_version = c.model.ir_version.max(FUNCTIONS_IR);
        return Ok(());
    }
    // Expanded one group of equal settings at a time, so that each node gets the body of its own settings.
    let mut done: Vec<Settings> = Vec::new();
    let own = std::mem::take(&mut c.model.functions);
    for index in 0..c.updates.len() {
        let settings = structural(&c.updates[index].settings);
        if done.contains(&settings) {
            continue;
        }
        let members: rustc_hash::FxHashSet<String> = c
            .updates
            .iter()
            .filter(|u| structural(&u.settings) == settings)
            .map(|u| format!("NeuroPlastic.{}", c.model.graph.name_of(u.theta)))
            .collect();
        c.model.functions = functions(&settings);
        inline_functions(&mut c.model, |node| node.op_type == OP && !members.contains(&node.name))?;
        done.push(settings);
    }
    c.model.functions = own;
    c.model.opsets.retain(|o| o.domain != DOMAIN);
    if emit == Emit::TrainingInfo {
        let bindings = crate::bindings::read(&c.model).map_err(|e| CompileError::TrainingInfo(e.to_string()))?;
        training_info(&mut c.model, &bindings)?;
    }
    Ok(())
}

/// Settings with everything that is an attribute of the node blanked out.
fn structural(s: &Settings) -> Settings {
    let d = Settings::default();
    Settings {
        lr: d.lr,
        weight_decay: d.weight_decay,
        modulation_strength: d.modulation_strength,
        target_rms: d.target_rms,
        early_target_rms_scale: d.early_target_rms_scale,
        middle_target_rms_scale: d.middle_target_rms_scale,
        late_target_rms_scale: d.late_target_rms_scale,
        ..s.clone()
    }
}

fn one_body(c: &Compilation) -> Result<(), CompileError> {
    let first = &c.updates[0];
    match c.updates.iter().find(|u| structural(&u.settings) != structural(&first.settings)) {
        None => Ok(()),
        Some(other) => {
            let name = |u: &crate::passes::Update| c.model.graph.name_of(u.theta).to_string();
            Err(CompileError::Mixed(name(first), name(other)))
        }
    }
}
