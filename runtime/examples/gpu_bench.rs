//! Times the fused step and whole training steps on the first GPU, beside its measured copy bandwidth.
//!
//!     gpu_bench [MODEL.onnx ...]

use npc_compiler::{CompileOptions, compile, onnx};
use npc_kernels::cuda::DevicePointer;
use npc_kernels::cuda::neuroplastic::{Addresses, Storage, Tables, Tensor};
use npc_kernels::neuroplastic::{Config, HybridBase};
use npc_runtime::HostTensor;
use npc_runtime::cpu::{Program, ProgramOptions};
use npc_runtime::cuda::Gpu;
use npc_runtime::plan::PlanOptions;
use npc_runtime::plan::command::{Command, Commands};
use npc_runtime::plan::device::{Device, DeviceError, Scalars, Session};
use std::path::Path;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Milliseconds of one run of the prepared commands: the least of several rounds.
fn time(gpu: &mut Gpu, probe: DevicePointer, runs: u32) -> Result<f64, DeviceError> {
    let mut best = f64::INFINITY;
    let mut byte = [0];
    for _ in 0..5 {
        gpu.read(probe, &mut byte)?;
        let start = Instant::now();
        (0..runs).try_for_each(|_| gpu.step())?;
        gpu.read(probe, &mut byte)?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3 / f64::from(runs));
    }
    Ok(best)
}

/// Bytes per second that a copy reads and writes.
fn bandwidth() -> Outcome<f64> {
    let mut gpu = Gpu::new(0)?;
    let bytes = 1u64 << 30;
    let (from, to) = (gpu.allocate(bytes, "a copy")?, gpu.allocate(bytes, "a copy")?);
    gpu.prepare(Commands { list: vec![("copy".into(), Command::Copy { from, to, bytes })], module: String::new() })?;
    Ok(2.0 * bytes as f64 / (time(&mut gpu, from, 20)? / 1e3))
}

fn fused(name: &str, sizes: &[u64], base: HybridBase, copy: f64) -> Outcome<()> {
    let mut gpu = Gpu::new(0)?;
    let config = Config { hybrid_base: base, ..Config::default() };
    let mut tensors = Vec::new();
    for &elements in sizes {
        let array = |gpu: &mut Gpu| -> Outcome<DevicePointer> {
            let at = gpu.allocate(4 * elements, "a tensor")?;
            gpu.write(at, &vec![1u8; 4 * elements as usize])?;
            Ok(at)
        };
        let gradient = array(&mut gpu)?;
        let adamw = base == HybridBase::AdamW;
        tensors.push(Tensor {
            parameter: array(&mut gpu)?,
            gradient,
            activity_trace: array(&mut gpu)?,
            momentum: array(&mut gpu)?,
            variance: array(&mut gpu)?,
            base_momentum: if adamw { array(&mut gpu)? } else { DevicePointer::NULL },
            base_variance: if adamw { array(&mut gpu)? } else { DevicePointer::NULL },
            master: DevicePointer::NULL,
            update: gradient,
            multiplier: DevicePointer::NULL,
            elements,
            target_rms: config.target_rms,
            modulation_strength: config.modulation_strength,
        });
    }
    let cache = gpu.cache_bytes();
    let tables = Tables::new(&config, Storage::F32, &tensors, cache);
    let mut put = |bytes: &[u8]| -> Outcome<DevicePointer> {
        let at = gpu.allocate(bytes.len() as u64, "tables")?;
        gpu.write(at, bytes)?;
        Ok(at)
    };
    let addresses = Addresses {
        descriptors: put(&tables.descriptors)?,
        chunks: put(&tables.chunks)?,
        tickets: put(&tables.tickets)?,
        working: put(&vec![0; tables.working_bytes() as usize])?,
        learning_rate: put(&1e-3f32.to_le_bytes())?,
        step: put(&[0; 8])?,
        gates: put(&[1.0f32; 3].map(f32::to_le_bytes).concat())?,
        inverse_scale: DevicePointer::NULL,
        overflow: DevicePointer::NULL,
    };
    let elements: u64 = sizes.iter().sum();
    let states = if base == HybridBase::AdamW { 5.0 } else { 3.0 };
    // Parameter, gradient and states read, parameter and states written.
    let least = elements as f64 * 4.0 * (3.0 + 2.0 * states);
    let blocks = gpu.resident_blocks();
    let forms = [
        ("one launch", tables.fused(&addresses, true, blocks).into_iter().collect::<Vec<_>>()),
        ("a launch a phase", tables.sweeps(&addresses, true)),
    ];
    for (form, launches) in forms {
        let list = launches.into_iter().map(|l| (name.to_string(), Command::Launch(l))).collect();
        gpu.prepare(Commands { list, module: String::new() })?;
        let ms = time(&mut gpu, addresses.step, 50)?;
        let share = 100.0 * least / (ms / 1e3) / copy;
        println!(
            "{name:24} {base:8?} {form:18} {ms:9.4} ms  {:7.4} ns/element  {share:5.1} % of copy at the least bytes",
            ms * 1e6 / elements as f64
        );
    }
    Ok(())
}

fn whole(path: &Path) -> Outcome<()> {
    let compiled = compile(onnx::load(path)?, &CompileOptions::default())?;
    let program = Program::new(&compiled.model, &ProgramOptions::default())?;
    let mut gpu = Gpu::new(0)?;
    let graph = program.device_graph(&compiled.model, 128)?;
    let plan = graph.plan(&compiled.bindings, &PlanOptions::default(), &mut gpu)?;
    let arena = plan.arena_bytes >> 10;
    let commands = plan.work.len();
    let probe = compiled.bindings.parameters[0].name.clone();
    let mut session = Session::new(plan, gpu, &Scalars::of(&compiled.bindings))?;
    if let Some(rate) = &compiled.bindings.learning_rate {
        session.set(&rate.name, &HostTensor::f32(&[], &[1e-3])?)?;
    }
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        session.get(&probe, None)?;
        let start = Instant::now();
        (0..200).try_for_each(|_| session.step())?;
        session.get(&probe, None)?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3 / 200.0);
    }
    println!("{:40} {best:9.4} ms a step as one graph ({commands} pieces of work, arena {arena} KiB)", path.display());
    Ok(())
}

fn main() -> Outcome<()> {
    let copy = bandwidth()?;
    println!("copy: {:.0} GB/s read and written", copy / 1e9);
    // ResNet-18's and GPT-2 small's parameters, a tensor beyond any L2, and 200 small ones.
    let resnet: Vec<u64> = [9408, 64, 64]
        .into_iter()
        .chain([36_864, 64, 64].repeat(4))
        .chain([73_728, 128, 128, 147_456, 128, 128, 8192, 128, 128, 147_456, 128, 128, 147_456, 128, 128])
        .chain([294_912, 256, 256, 589_824, 256, 256, 32_768, 256, 256, 589_824, 256, 256, 589_824, 256, 256])
        .chain([
            1_179_648, 512, 512, 2_359_296, 512, 512, 131_072, 512, 512, 2_359_296, 512, 512, 2_359_296, 512, 512,
            512_000, 1000,
        ])
        .collect();
    let block = [768, 768, 1_769_472, 2304, 589_824, 768, 768, 768, 2_359_296, 3072, 2_359_296, 768];
    let gpt2: Vec<u64> = [38_597_376, 786_432].into_iter().chain(block.repeat(12)).chain([768, 768]).collect();
    for base in [HybridBase::Classic, HybridBase::AdamW] {
        fused("200 x 50,000", &[50_000; 200], base, copy)?;
        fused("ResNet-18", &resnet, base, copy)?;
        fused("GPT-2 small", &gpt2, base, copy)?;
        fused("1 x 100,000,000", &[100_000_000], base, copy)?;
    }
    for path in std::env::args().skip(1) {
        whole(Path::new(&path))?;
    }
    Ok(())
}
