// What a finished phase leaves to the next: scalars of a tensor from the sums over all its elements.
#pragma once
#include "neuroplastic_phases.cuh"

// λ where it is part of u.
template <class V> __device__ __forceinline__ double coupled_decay(const Settings& c) {
    return has_coupled_decay<V>(c) ? c.weight_decay : 0.0;
}

// Scalars of phase 2 from the sums of phase 1.
template <class V>
__device__ __forceinline__ void after_traces(const Tensor& t, const Group& group, const double (&sums)[SUMS], Scalars& s) {
    const Settings& c = group.settings;
    double n = (double)t.elements, gradient = sums[0] / n, activity = sums[1] / n, memory = sums[2] / n;
    double blend = c.flags & ABLATION ? 0.0 : (double)global(group.gates)[0] * c.plasticity_scale;
    s.activity = (float)(c.activity_weight / (activity + c.eps));
    s.gradient = (float)(c.gradient_weight / (gradient + c.eps));
    s.memory = (float)(c.memory_weight / (memory + c.eps));
    s.alone = (float)(1.0 / (gradient + c.eps));
    s.blend = (float)blend;
    if (!V::plain && !(c.flags & PARAMETERWISE)) {
        double g = gradient / (gradient + c.eps);
        double full = c.activity_weight * (activity / (activity + c.eps)) + c.gradient_weight * g +
                      c.memory_weight * (memory / (memory + c.eps));
        double alone = clip(g, c.min_alpha, c.max_alpha);
        s.alone = (float)alone;
        s.uniform = (float)(alone + blend * (clip(full, c.min_alpha, c.max_alpha) - alone));
    }
    double strength = t.strength * (double)global(group.gates)[1];
    if (V::base != CLASSIC && c.target == TRUST_RATIO)
        strength *= clip(sqrt(sums[4]) / (sqrt(sums[3]) + 1e-12), 0.5, 1.5) - 1.0;
    s.strength = (float)strength;
    s.base_squares = sums[3];
}

// Rate and decay from Σu².
template <class V>
__device__ __forceinline__ void stabilise(const Tensor& t, const Group& group, double squares, Scalars& s) {
    const Settings& c = group.settings;
    double clipped = limited(sqrt(squares), c.max_update_norm, c.eps_h);
    double rms = sqrt(clipped * clipped * (squares / (double)t.elements) + c.eps_h);
    double gain = clip(1.0 + c.adaptation_rate * (t.target_rms - rms), 0.5, 1.5);
    double rate = (double)*global(group.learning_rate) * (t.multiplier ? (double)*global(t.multiplier) : 1.0);
    bool shrinks = V::base == ADAMW || (V::base == CLASSIC && c.flags & DECOUPLED);
    s.rate = (float)(rate * clipped * gain);
    s.keep = shrinks ? (float)(1.0 - rate * c.weight_decay) : 1.0f;
}

// ‖b + mix·Δ + λθ‖².
__device__ __forceinline__ double mixed_squares(double base, const double (&sums)[SUMS], double mix, double decay) {
    return base + mix * (2.0 * sums[2] + mix * sums[1]) + decay * (2.0 * (sums[3] + mix * sums[4]) + decay * sums[5]);
}

template <class V>
__device__ __forceinline__ void after_update(const Tensor& t, const Group& group, const double (&sums)[SUMS], Scalars& s) {
    const Settings& c = group.settings;
    if (is_orthogonal<V>(c)) {
        s.along = (float)(sums[2] / (s.base_squares + c.eps));
        return;
    }
    double mix = 1.0, norm = sqrt(s.base_squares), squares = sums[0];
    if (V::base != CLASSIC) mix = limited(sqrt(sums[1]), c.modulation_max_ratio * norm, 1e-12);
    else if (!V::plain && c.flags & BOUNDED) mix = limited(sqrt(sums[1]), c.residual_max_ratio * norm, 1e-12);
    if (mix < 1.0) squares = fmax(mixed_squares(s.base_squares, sums, mix, coupled_decay<V>(c)), 0.0);
    s.mix = (float)mix;
    stabilise<V>(t, group, squares, s);
}

template <class V>
__device__ __forceinline__ void after_project(const Tensor& t, const Group& group, const double (&sums)[SUMS], Scalars& s) {
    const Settings& c = group.settings;
    double gradient = sqrt(s.base_squares), norm = sqrt(sums[1]), scale = 0.0;
    if (s.base_squares > c.eps) {
        scale = c.flags & MATCH_NORM && norm > c.eps ? gradient / (norm + c.eps) : 1.0;
        scale *= c.orthogonal_lambda * (double)global(group.gates)[2];
        scale *= limited(scale * norm, c.orthogonal_max_ratio * gradient, c.eps);
    }
    s.mix = (float)scale;
    stabilise<V>(t, group, fmax(mixed_squares(s.base_squares, sums, scale, coupled_decay<V>(c)), 0.0), s);
}

// What the first phase reads, everything else 0.
template <class V> __device__ __forceinline__ void begin(const Group& group, Scalars& s) {
    const Settings& c = group.settings;
    s = {};
    s.correction1 = s.correction2 = 1.0f;
    if (V::base != ADAMW) return;
    i64 t = *global(group.step) + 1;
    s.correction1 = (float)(1.0 / fmax(1.0 - power(c.base_momentum, t), 1e-12));
    s.correction2 = (float)(1.0 / fmax(1.0 - power(c.base_beta2, t), 1e-12));
}
