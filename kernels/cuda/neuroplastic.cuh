// The NeuroPlastic step: tables that the host prepares once, and the arithmetic of one tensor's chunk.
//
// A step has phases with a barrier between them, because means and norms of a whole tensor are needed before any of its
// elements can be finished:
//   1 TRACES   a, m, v (M, V); the sums behind the means and the base's norm
//   2 UPDATE   α and the update before any limit by a norm of it; the sums behind those limits
//   3 PROJECT  only with the orthogonal residual: what of the update is orthogonal to the gradient
//   4 APPLY    θ
// Sums are taken per chunk into slots; the last chunk of a tensor to finish a phase adds the slots in their order and turns
// them into the scalars of the next phase. So no result depends on the order in which blocks run.
#pragma once
#include "common.cuh"

enum Base { CLASSIC = 0, SGD_MOMENTUM = 1, ADAMW = 2 };
enum Target { GAIN = 0, MOMENTUM = 1, TRUST_RATIO = 2 };
enum Phase { TRACES = 1, UPDATE = 2, PROJECT = 3, APPLY = 4 };
enum Flag {
    PARAMETERWISE = 1, BOUNDED = 2, ORTHOGONAL = 4, MATCH_NORM = 8, DECOUPLED = 16, ABLATION = 32, ADVANCE = 64,
};
// A tensor's arrays all start at multiples of 16 bytes.
enum TensorFlag { ALIGNED = 1 };

const u32 THREADS = 256, WARPS = THREADS / 32;
const u32 SUMS = 6;

// What kernels are compiled for: a base, and whether nothing beyond it is set. PLAIN: parameterwise, no residual, no decay
// that is part of u; what it does without costs registers.
struct Plain { static constexpr u32 base = CLASSIC; static constexpr bool plain = true; };
struct Classic { static constexpr u32 base = CLASSIC; static constexpr bool plain = false; };
struct Momentum { static constexpr u32 base = SGD_MOMENTUM; static constexpr bool plain = false; };
struct Adamw { static constexpr u32 base = ADAMW; static constexpr bool plain = false; };

struct Settings {
    double base_momentum, base_beta2;
    double eps, max_update_norm, adaptation_rate, eps_h, weight_decay, base_eps;
    double residual_max_ratio, orthogonal_lambda, orthogonal_max_ratio, modulation_max_ratio;
    double plasticity_scale, activity_weight, gradient_weight, memory_weight, min_alpha, max_alpha;
    // Rounded once, for the element arithmetic; `_rest` is 1 less the number.
    float low, high, epsilon, base_epsilon, decay;
    float first_decay, first_decay_rest, second_decay, second_decay_rest;
    u32 target, flags, padding;
};

struct Tensor {
    void* parameter;
    const void* gradient;
    float *activity, *momentum, *variance, *base_momentum, *base_variance;
    float* master;            // the parameter in float32, or null
    float* update;            // as many floats as elements; may be the gradient's own memory where nothing needs it again
    const float* multiplier;  // κ, or null for 1
    u64 elements;
    u32 first_slot, chunks;
    double target_rms, strength;
    u32 flags, chunk_elements;  // a multiple of 4 · THREADS
};

// What a phase leaves to the next ones.
struct Scalars {
    float activity, gradient, memory, alone;  // what |g|, a, |m|/(√v+ε) are multiplied by in α_f, |g| in α_g
    float blend, uniform, strength;
    float along;   // of g in the projection
    float mix;     // what the modulation is multiplied by
    float rate, keep;
    float correction1, correction2;
    u32 padding;
    double base_squares;
};

struct Item { u32 tensor, chunk, phase, padding; };

struct Control {
    u32 ticket, exited, epoch, padding;
};

struct Group {
    const Tensor* tensors;
    const Item* items;
    Scalars* scalars;      // one a tensor
    float* slots;          // SUMS a chunk
    u32* arrived;          // one a tensor, zero between phases
    u32* ready;            // one a tensor: epoch · 4 + phases finished
    Control* control;
    const float* learning_rate;
    i64* step;
    const float* gates;          // warm-up, phase, orthogonal
    const float* inverse_scale;  // what the loss was scaled by, inverted; or null
    const u32* overflow;         // not 0: this step is skipped; or null
    u32 items_count, phases;
    Settings settings;
};

__device__ __forceinline__ double power(double base, i64 exponent) {
    double result = 1.0;
    for (; exponent > 0; exponent >>= 1, base *= base)
        if (exponent & 1) result *= base;
    return result;
}

__device__ __forceinline__ double clip(double x, double low, double high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// The factor that brings `norm` down to `limit`, 1 when it is not above.
__device__ __forceinline__ double limited(double norm, double limit, double eps) {
    return norm > limit ? limit / (norm + eps) : 1.0;
}
