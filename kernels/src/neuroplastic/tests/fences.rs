//! Each fence of the one-launch form is needed: without any one of them the interpreter finds a race.

use npc_ptx_interpreter::Schedule;

use super::cuda::{Group, PLAIN, owned};
use crate::cuda::Launch;
use crate::neuroplastic::{Config, Gates, HybridBase};

const FENCE: &str = "fence.acq_rel.gpu;";

/// The PTX without the fence that is the `nth` of a kernel's; `None` behind the last.
fn without(ptx: &str, kernel: &str, nth: usize) -> Option<String> {
    let start = ptx.find(&format!(".entry {kernel}("))?;
    let end = ptx[start..].find("\n}").map(|length| start + length)?;
    let (at, _) = ptx[start..end].match_indices(FENCE).nth(nth)?;
    Some(format!("{}{}", &ptx[..start + at], &ptx[start + at + FENCE.len()..]))
}

/// Whether the interpreter finds something in one of a few schedules.
fn is_caught(config: Config, planted: impl Fn(&Launch) -> Option<String>) -> Option<bool> {
    let tensors = owned(&config, &[2500, 9000], |x| x);
    let gates = Gates { warm_up: 1.0, phase: 1.0, orthogonal: 1.0 };
    for schedule in [Schedule::InOrder, Schedule::Reversed, Schedule::Random(1), Schedule::Random(2)] {
        let mut setup = PLAIN;
        (setup.schedule, setup.chunk_elements) = (schedule, |_| 1024);
        let mut group = Group::new(&[config; 2], &tensors, setup);
        group.set(&gates, 0.1, &tensors.iter().map(|t| t.gradient.clone()).collect::<Vec<_>>());
        let launch = group.tables.fused(&group.addresses, true, 5).unwrap();
        group.device.replace(launch.source, &planted(&launch)?);
        if group.device.attempt(&launch).is_err() {
            return Some(true);
        }
    }
    Some(false)
}

#[test]
fn every_fence_is_needed() {
    let orthogonal = Config { orthogonal_residual: true, ..Config::default() };
    let adamw = Config { hybrid_base: HybridBase::AdamW, ..Config::default() };
    // Arrival and the order after it in two phases (three with a projection), ready, the wait for it, leaving and after it.
    for (config, fences) in [(Config::default(), 8), (orthogonal, 10), (adamw, 8)] {
        let whole = |launch: &Launch| Some(launch.source.ptx().to_string());
        assert_eq!(is_caught(config, whole), Some(false), "{config:?}");
        let planted = |nth| is_caught(config, |launch| without(launch.source.ptx(), launch.kernel, nth));
        for nth in 0..fences {
            assert_eq!(planted(nth), Some(true), "fence {nth} of {config:?}");
        }
        assert_eq!(planted(fences), None, "{config:?}");
    }
}
