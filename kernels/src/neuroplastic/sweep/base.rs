//! A hybrid base: its moments' update, and the update they give. Either sweep may do it, to the same bits.

use super::{Lanes, Row};

pub(in super::super) struct BaseConstants {
    /// b₁.
    pub momentum: f32,
    /// Weight of g in M: 1 − b₁ for AdamW, 1 for SGD with momentum.
    pub momentum_gain: f32,
    /// b₂.
    pub beta2: f32,
    pub beta2_rest: f32,
    /// (1 − b₁ᵗ) / √(1 − b₂ᵗ): both corrections, on the divisor.
    pub root_scale: f32,
    /// `base_eps` · (1 − b₁ᵗ).
    pub eps: f32,
    /// λ inside M, for SGD with momentum.
    pub weight_decay: f32,
}

pub(super) struct BaseSplat<L> {
    momentum: L,
    momentum_gain: L,
    beta2: L,
    beta2_rest: L,
    root_scale: L,
    eps: L,
    weight_decay: L,
}

impl<L: Lanes> BaseSplat<L> {
    #[inline(always)]
    pub fn new(c: &BaseConstants) -> Self {
        BaseSplat {
            momentum: L::splat(c.momentum),
            momentum_gain: L::splat(c.momentum_gain),
            beta2: L::splat(c.beta2),
            beta2_rest: L::splat(c.beta2_rest),
            root_scale: L::splat(c.root_scale),
            eps: L::splat(c.eps),
            weight_decay: L::splat(c.weight_decay),
        }
    }

    /// M̃ / (√Ṽ + ε) = M / (√V · `root_scale` + `eps`).
    #[inline(always)]
    pub fn adamw(&self, g: L, momentum: &mut Row, variance: &mut Row) -> L {
        let m = L::load(momentum).mul_add(self.momentum, self.momentum_gain.mul(g));
        let v = L::load(variance).mul_add(self.beta2, self.beta2_rest.mul(g).mul(g));
        m.store(momentum);
        v.store(variance);
        m.div(v.sqrt().mul_add(self.root_scale, self.eps))
    }

    /// M.
    #[inline(always)]
    pub fn sgd(&self, g: L, parameter: &Row, momentum: &mut Row) -> L {
        let decayed = L::load(parameter).mul_add(self.weight_decay, g);
        let m = L::load(momentum).mul_add(self.momentum, decayed);
        m.store(momentum);
        m
    }
}
