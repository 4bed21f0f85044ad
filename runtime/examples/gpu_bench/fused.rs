//! The fused step on lists of parameters.

use super::{Outcome, Results, time_commands};
use npc_kernels::cuda::neuroplastic::{Addresses, Storage, Tables, Tensor, is_beyond_cache, least_bytes};
use npc_kernels::cuda::{DevicePointer, Launch};
use npc_kernels::neuroplastic::{Config, HybridBase};
use npc_runtime::cuda::Gpu;
use npc_runtime::plan::command::{Command, Commands};
use npc_runtime::plan::device::Device;
use serde_json::json;

/// Sizes of ResNet-18's parameters, in its order.
fn resnet18() -> Vec<u64> {
    [9408, 64, 64]
        .into_iter()
        .chain([36_864, 64, 64].repeat(4))
        .chain([73_728, 128, 128, 147_456, 128, 128, 8192, 128, 128, 147_456, 128, 128, 147_456, 128, 128])
        .chain([294_912, 256, 256, 589_824, 256, 256, 32_768, 256, 256, 589_824, 256, 256, 589_824, 256, 256])
        .chain([
            1_179_648, 512, 512, 2_359_296, 512, 512, 131_072, 512, 512, 2_359_296, 512, 512, 2_359_296, 512, 512,
            512_000, 1000,
        ])
        .collect()
}

/// Sizes of GPT-2 small's.
fn gpt2_small() -> Vec<u64> {
    let block = [768, 768, 1_769_472, 2304, 589_824, 768, 768, 768, 2_359_296, 3072, 2_359_296, 768];
    [38_597_376, 786_432].into_iter().chain(block.repeat(12)).chain([768, 768]).collect()
}

fn put(gpu: &mut Gpu, bytes: &[u8]) -> Outcome<DevicePointer> {
    let at = gpu.allocate(bytes.len().max(1) as u64, "a tensor")?;
    gpu.write(at, bytes)?;
    Ok(at)
}

/// Parameters of 0.1, gradients of 0.01, states of 0.001.
fn tensor(gpu: &mut Gpu, config: &Config, elements: u64) -> Outcome<Tensor> {
    let mut filled = |value: f32| put(gpu, &value.to_le_bytes().repeat(elements as usize));
    let (parameter, gradient) = (filled(0.1)?, filled(0.01)?);
    let mut state = |is_kept: bool| if is_kept { filled(0.001) } else { Ok(DevicePointer::NULL) };
    Ok(Tensor {
        parameter,
        gradient,
        activity_trace: state(true)?,
        momentum: state(true)?,
        variance: state(true)?,
        base_momentum: state(config.has_base_momentum())?,
        base_variance: state(config.has_base_variance())?,
        master: DevicePointer::NULL,
        update: gradient,
        multiplier: DevicePointer::NULL,
        elements,
        target_rms: config.target_rms,
        modulation_strength: config.modulation_strength,
    })
}

/// Launches that step tensors: in one, or in one a phase.
fn launches(gpu: &mut Gpu, config: &Config, tensors: &[Tensor], is_fused: bool) -> Outcome<Vec<Launch>> {
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    let tables = Tables::new(config, Storage::F32, tensors, gpu.cache_bytes());
    let addresses = Addresses {
        descriptors: put(gpu, &tables.descriptors)?,
        chunks: put(gpu, &tables.chunks)?,
        tickets: put(gpu, &tables.tickets)?,
        working: put(gpu, &vec![0; tables.working_bytes() as usize])?,
        learning_rate: put(gpu, &1e-3f32.to_le_bytes())?,
        step: put(gpu, &[0; 8])?,
        gates: put(gpu, &[1.0f32; 3].map(f32::to_le_bytes).concat())?,
        inverse_scale: DevicePointer::NULL,
        overflow: DevicePointer::NULL,
    };
    Ok(match is_fused {
        true => tables.fused(&addresses, true, tables.resident_blocks(gpu.multiprocessors())).into_iter().collect(),
        false => tables.sweeps(&addresses, true),
    })
}

fn list(name: &str, sizes: &[u64], base: HybridBase, copy: f64, results: &mut Results) -> Outcome<()> {
    let mut gpu = Gpu::new(0)?;
    let cache = gpu.cache_bytes();
    let lifted = if base == HybridBase::Classic { 1.0 } else { 1e9 };
    let config = Config { hybrid_base: base, max_update_norm: lifted, ..Config::default() };
    let tensors = sizes.iter().map(|n| tensor(&mut gpu, &config, *n)).collect::<Outcome<Vec<Tensor>>>()?;
    let probe = tensors.first().map(|t| t.parameter).ok_or("a list without tensors")?;
    let elements: u64 = sizes.iter().sum();
    let least: u64 = sizes.iter().map(|n| least_bytes(&config, Storage::F32, *n, cache)).sum();
    // As a plan steps them: what fits the cache in one launch, the rest in one a phase.
    let is_large = |t: &&Tensor| is_beyond_cache(&config, Storage::F32, t.elements, cache);
    let large: Vec<Tensor> = tensors.iter().filter(is_large).copied().collect();
    let small: Vec<Tensor> = tensors.iter().filter(|t| !is_large(t)).copied().collect();
    let mut planned = launches(&mut gpu, &config, &small, true)?;
    planned.extend(launches(&mut gpu, &config, &large, false)?);
    let forms = [
        ("planned", planned),
        ("one launch", launches(&mut gpu, &config, &tensors, true)?),
        ("a launch a phase", launches(&mut gpu, &config, &tensors, false)?),
    ];
    for (form, launches) in forms {
        let list = launches.into_iter().map(|l| (name.to_string(), Command::Launch(l))).collect();
        gpu.prepare(Commands { list, module: String::new() })?;
        let ms = time_commands(&mut gpu, probe)?;
        let share = least as f64 / (ms / 1e3) / copy;
        println!(
            "{name:24} {base:8?} {form:18} {ms:9.4} ms  {:7.4} ns/element  {:5.1} % of copy at {:.1} bytes/element",
            ms * 1e6 / elements as f64,
            100.0 * share,
            least as f64 / elements as f64
        );
        results.add(&json!({
            "kind": "fused", "list": name, "base": format!("{base:?}").to_lowercase(), "form": form, "ms": ms,
            "elements": elements, "least_bytes": least, "share": share,
        }))?;
    }
    Ok(())
}

/// All lists with the two bases that training steps get.
pub fn lists(copy: f64, results: &mut Results) -> Outcome<()> {
    for base in [HybridBase::Classic, HybridBase::AdamW] {
        list("200 x 50,000", &[50_000; 200], base, copy, results)?;
        list("ResNet-18", &resnet18(), base, copy, results)?;
        list("GPT-2 small", &gpt2_small(), base, copy, results)?;
        list("1 x 100,000,000", &[100_000_000], base, copy, results)?;
    }
    Ok(())
}
