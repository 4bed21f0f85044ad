//! Which of the compiled kernels steps a group: one for each base, and a smaller one for a classic base without residuals and
//! without a decay that is part of the update.

use super::Storage;
use crate::cuda::Source;
use crate::neuroplastic::{Config, HybridBase};

/// The kernels of one base and storage: a module, the step in one launch, and a launch a phase.
pub(super) struct Kernels {
    pub source: Source,
    pub fused: &'static str,
    pub phases: [&'static str; 4],
    /// Blocks of `fused` that a multiprocessor runs at once, by the kernel's launch bounds.
    pub resident: u64,
}

macro_rules! kernels {
    ($source:ident, $name:literal, $resident:literal) => {
        Kernels {
            source: Source::$source,
            fused: concat!("neuroplastic_fused_", $name),
            phases: [
                concat!("neuroplastic_traces_", $name),
                concat!("neuroplastic_update_", $name),
                concat!("neuroplastic_project_", $name),
                concat!("neuroplastic_apply_", $name),
            ],
            resident: $resident,
        }
    };
}

impl Kernels {
    pub fn of(config: &Config, storage: Storage) -> Self {
        let is_special = !config.parameterwise
            || config.bounded_residual
            || config.orthogonal_residual
            || (config.weight_decay > 0.0 && !config.decoupled_weight_decay);
        match (config.hybrid_base, is_special, storage) {
            (HybridBase::Classic, false, Storage::F32) => kernels!(NeuroplasticPlainF32, "plain_f32", 3),
            (HybridBase::Classic, false, Storage::F16) => kernels!(NeuroplasticPlainF16, "plain_f16", 3),
            (HybridBase::Classic, false, Storage::Bf16) => kernels!(NeuroplasticPlainBf16, "plain_bf16", 3),
            (HybridBase::Classic, true, Storage::F32) => kernels!(NeuroplasticClassicF32, "classic_f32", 2),
            (HybridBase::Classic, true, Storage::F16) => kernels!(NeuroplasticClassicF16, "classic_f16", 2),
            (HybridBase::Classic, true, Storage::Bf16) => kernels!(NeuroplasticClassicBf16, "classic_bf16", 2),
            (HybridBase::SgdMomentum, _, Storage::F32) => kernels!(NeuroplasticMomentumF32, "momentum_f32", 3),
            (HybridBase::SgdMomentum, _, Storage::F16) => kernels!(NeuroplasticMomentumF16, "momentum_f16", 3),
            (HybridBase::SgdMomentum, _, Storage::Bf16) => kernels!(NeuroplasticMomentumBf16, "momentum_bf16", 3),
            (HybridBase::AdamW, _, Storage::F32) => kernels!(NeuroplasticAdamwF32, "adamw_f32", 2),
            (HybridBase::AdamW, _, Storage::F16) => kernels!(NeuroplasticAdamwF16, "adamw_f16", 2),
            (HybridBase::AdamW, _, Storage::Bf16) => kernels!(NeuroplasticAdamwBf16, "adamw_bf16", 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Residency is what the compiled kernel promises: `.minnctapersm` stands between its parameters and its body.
    #[test]
    fn as_many_blocks_are_resident_as_the_kernels_promise() {
        for hybrid_base in [HybridBase::Classic, HybridBase::SgdMomentum, HybridBase::AdamW] {
            for (bounded_residual, storage) in [false, true]
                .into_iter()
                .flat_map(|b| [Storage::F32, Storage::F16, Storage::Bf16].map(|storage| (b, storage)))
            {
                let config = Config { hybrid_base, bounded_residual, ..Config::default() };
                let kernels = Kernels::of(&config, storage);
                let entry = format!(".entry {}(", kernels.fused);
                let (_, rest) = kernels.source.ptx().split_once(&entry).unwrap();
                let (head, _) = rest.split_once('{').unwrap();
                let (_, promised) = head.split_once(".minnctapersm ").unwrap();
                assert_eq!(promised.split_whitespace().next(), Some(kernels.resident.to_string().as_str()), "{entry}");
            }
        }
    }
}
