//! Forms of the result: functions, inline, training information.

mod initialization;
mod training_info;

pub use training_info::training_info;

use crate::compile::{CompileError, Emit};
use crate::graph::{DType, Function, Opset};
use crate::neuroplastic::{self, ControllerMode, DOMAIN, HybridBase, Settings, Shape, VERSION};
use crate::onnx::inline_functions;
use crate::passes::Compilation;
use rustc_hash::FxHashSet;

/// First IR version with model-local functions.
const FUNCTIONS_IR: i64 = 8;
/// First opset with `CastLike`, which gives a parameter its own type back.
const CAST_LIKE: i64 = 15;

/// Brings the NeuroPlastic nodes of a rewritten model into their final form.
///
/// # Errors
/// An opset too old, settings that one function cannot hold, a step that the standard's training information cannot
/// express.
pub fn emit(c: &mut Compilation, emit: Emit) -> Result<(), CompileError> {
    let bodies = bodies(c);
    if bodies.is_empty() {
        return Ok(());
    }
    if c.model.opset_of("").is_none() {
        // A model of training operators alone imports no standard operators yet.
        c.model.opsets.push(Opset { domain: String::new(), version: 17 });
    }
    let shape = shape(c)?;
    match (emit, &bodies[..]) {
        (Emit::Functions, [body]) => {
            c.model.functions.extend(functions(&body.settings, shape));
            c.model.opsets.push(Opset { domain: DOMAIN.into(), version: VERSION });
            c.model.ir_version = c.model.ir_version.max(FUNCTIONS_IR);
        }
        (Emit::Functions, [one, other, ..]) => {
            return Err(CompileError::Mixed(one.first.clone(), other.first.clone()));
        }
        (_, bodies) => {
            // One body at a time, so that each node gets the one of its own settings.
            let own = std::mem::take(&mut c.model.functions);
            for body in bodies {
                c.model.functions = functions(&body.settings, shape);
                inline_functions(&mut c.model, |node| node.domain == DOMAIN && !body.nodes.contains(&node.name))?;
            }
            c.model.functions = own;
        }
    }
    Ok(())
}

fn shape(c: &Compilation) -> Result<Shape, CompileError> {
    let opset = c.model.opset();
    if opset < neuroplastic::OPSET {
        return Err(CompileError::Opset(opset, "NeuroPlastic's body", neuroplastic::OPSET));
    }
    let graph = &c.model.graph;
    let is_narrow = |v| graph.value(v).dtype().is_some_and(|d| d != DType::F32);
    let casts = c.updates.iter().any(|u| is_narrow(u.theta) || is_narrow(u.gradient));
    if casts && opset < CAST_LIKE {
        return Err(CompileError::Opset(opset, "a float16 or bfloat16 parameter", CAST_LIKE));
    }
    let controller = c.updates.iter().any(|u| u.settings.lr_controller_mode != ControllerMode::Off);
    let decays = c.updates.iter().any(|u| u.settings.weight_decay > 0.0);
    Ok(Shape { opset, controller, casts, decays })
}

fn functions(settings: &Settings, shape: Shape) -> Vec<Function> {
    let signal = shape.controller.then(|| neuroplastic::signal_function(settings, shape.opset, shape.casts));
    std::iter::once(neuroplastic::neuroplastic_function(settings, shape)).chain(signal).collect()
}

/// Nodes that one pair of functions serves.
struct Body {
    settings: Settings,
    /// The first parameter of them, for messages.
    first: String,
    /// Names of the nodes.
    nodes: FxHashSet<String>,
}

fn bodies(c: &Compilation) -> Vec<Body> {
    // Where nothing decays, how it would decay makes no difference.
    let decoupled = c.updates.iter().find(|u| u.settings.weight_decay > 0.0);
    let decoupled = decoupled.is_some_and(|u| u.settings.decoupled_weight_decay);
    let mut bodies: Vec<Body> = Vec::new();
    for update in &c.updates {
        let mut settings = structural(&update.settings);
        if update.settings.weight_decay == 0.0 {
            settings.decoupled_weight_decay = decoupled;
        }
        if settings.hybrid_base != HybridBase::Classic {
            settings.decoupled_weight_decay = false;
        }
        let parameter = c.model.graph.name_of(update.theta);
        let at = bodies.iter().position(|b| b.settings == settings).unwrap_or_else(|| {
            bodies.push(Body { settings, first: parameter.to_string(), nodes: FxHashSet::default() });
            bodies.len() - 1
        });
        let names = std::iter::once(update.node).chain(update.signal).map(|id| c.model.graph.node(id).name.clone());
        bodies[at].nodes.extend(names);
    }
    bodies
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
