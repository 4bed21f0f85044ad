// The arithmetic of one chunk in each phase.
//
// A chunk is FULL when all of it is there and its arrays are aligned: then every access moves four elements and no branch is
// within an iteration, so that all of its loads are under way before the first result is used. PTX keeps loads behind stores
// and branches in front of them, so each loop is written that way: loads, arithmetic, stores.
#pragma once
#include "neuroplastic.cuh"

// √ and ÷ of the element arithmetic, from the hardware's estimates: PTX has the root within 2^-23 relative and the reciprocal
// within one unit in the last place. Divisors are a root and an ε, or α, between 2^-126 and 2^65. The exact forms branch to a function
// where an operand is 0, as all of an embedding's unused rows are. The product is one that the assembler may not merge with a
// sum, so that every kernel gives the same bits; architectures may differ in the last ones.
__device__ __forceinline__ float root(float x) {
    float y;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float ratio(float a, float b) {
    float inverse;
    asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(b));
    return __fmul_rn(a, inverse);
}

__device__ __forceinline__ float memory_signal(float m, float v, float eps) { return ratio(fabsf(m), root(v) + eps); }

__device__ __forceinline__ float adamw_base(float m, float v, const Scalars& s, float eps) {
    return ratio(m * s.correction1, root(v * s.correction2) + eps);
}

// α_f before its clip, from the signals.
__device__ __forceinline__ float raw_alpha(float g, float a, float h, const Scalars& s) {
    return fmaf(h, s.memory, fmaf(a, s.activity, s.gradient * fabsf(g)));
}

struct Alphas { float alone, blended; };

// Where α_f is not asked for (`blend` is 0) its signals may be anything finite.
template <class V>
__device__ __forceinline__ Alphas alphas(float g, float a, float m, float v, const Scalars& s, const Settings& c) {
    if (!V::plain && !(c.flags & PARAMETERWISE)) return {s.alone, s.uniform};
    float alone = clip(fabsf(g) * s.alone, c.low, c.high);
    float full = clip(raw_alpha(g, a, memory_signal(m, v, c.epsilon), s), c.low, c.high);
    return {alone, fmaf(full, s.blend, alone * (1.0f - s.blend))};
}

// One block's share of a tensor.
template <class T, bool FULL> struct Part {
    T* parameter;
    const T* gradient;
    float *activity, *momentum, *variance, *base_momentum, *base_variance, *master, *update;
    u32 count;
    bool aligned;
    float inverse_scale;

    __device__ __forceinline__ Part(const Tensor& t, u32 chunk, u32 count, float inverse_scale)
        : count(count), inverse_scale(inverse_scale) {
        u64 start = (u64)chunk * t.chunk_elements;
        aligned = FULL || t.flags & ALIGNED;
        parameter = global((T*)t.parameter) + start;
        gradient = global((const T*)t.gradient) + start;
        activity = global(t.activity) + start;
        momentum = global(t.momentum) + start;
        variance = global(t.variance) + start;
        base_momentum = global(t.base_momentum) + start;
        base_variance = global(t.base_variance) + start;
        master = t.master ? global(t.master) + start : nullptr;
        update = global(t.update) + start;
    }

    __device__ __forceinline__ u32 rest(u32 i) const { return FULL ? 4 : count - i < 4 ? count - i : 4; }
    __device__ __forceinline__ Four read(const float* p, u32 i) const { return load4(p + i, rest(i), aligned); }
    __device__ __forceinline__ void write(float* p, u32 i, Four x) const { store4(p + i, x, rest(i), aligned); }
    __device__ __forceinline__ Four theta(u32 i) const {
        return master ? read(master, i) : load4(parameter + i, rest(i), aligned);
    }
    __device__ __forceinline__ void set_theta(u32 i, Four x) const {
        if (master) write(master, i, x);
        store4(parameter + i, x, rest(i), aligned);
    }
    // The gradient as it lies there: still to be `unscaled`, once every other load is under way.
    __device__ __forceinline__ Four g(u32 i) const { return load4(gradient + i, rest(i), aligned); }
    __device__ __forceinline__ void unscale(Four& g) const {
#pragma unroll
        for (u32 k = 0; k < 4; ++k) g.x[k] *= inverse_scale;
    }
};

#define EACH_FOUR(part, i) _Pragma("unroll 1") for (u32 i = threadIdx.x * 4; i < (part).count; i += THREADS * 4)
#define EACH(k) _Pragma("unroll") for (u32 k = 0; k < 4; ++k)

// What the signals are computed from, one element on.
__device__ __forceinline__ void advance(float g, float& a, float& m, float& v) {
    const float delta_rest = (float)(1.0 - 0.95), beta1_rest = (float)(1.0 - 0.9);
    float part = beta1_rest * g;
    a = fmaf(fabsf(g) - a, delta_rest, a);
    m = fmaf(m, 0.9f, part);
    v = fmaf(part, part, 0.99f * v);
}

// Σ|g|, Σa, Σ|m|/(√v+ε), Σbase², Σθ². With WRITE the traces are updated, without it only what they would be is summed.
template <class V, bool WRITE, class P>
__device__ __forceinline__ void traces(const P& p, const Scalars& s, const Settings& c, float (&sums)[SUMS]) {
    constexpr bool keeps_momentum = WRITE && V::base != CLASSIC, keeps_variance = WRITE && V::base == ADAMW;
    const bool trust = keeps_momentum && c.target == TRUST_RATIO, decays = V::base == SGD_MOMENTUM && c.decay > 0.0f;
    EACH_FOUR(p, i) {
        Four g = p.g(i), a = p.read(p.activity, i), m = p.read(p.momentum, i), v = p.read(p.variance, i), bm, bv, theta;
        if (keeps_momentum) bm = p.read(p.base_momentum, i);
        if (keeps_variance) bv = p.read(p.base_variance, i);
        if (keeps_momentum && (trust || decays)) theta = p.theta(i);
        p.unscale(g);
        EACH(k) {
            advance(g.x[k], a.x[k], m.x[k], v.x[k]);
            sums[0] += fabsf(g.x[k]);
            sums[1] += a.x[k];
            // Beyond the end everything is 0, and so is each term.
            sums[2] += memory_signal(m.x[k], v.x[k], c.epsilon);
            if (WRITE && V::base == CLASSIC) sums[3] = fmaf(g.x[k], g.x[k], sums[3]);
            if (keeps_momentum && trust) sums[4] = fmaf(theta.x[k], theta.x[k], sums[4]);
        }
        if (!WRITE) continue;
        p.write(p.activity, i, a);
        p.write(p.momentum, i, m);
        p.write(p.variance, i, v);
        if (!keeps_momentum) continue;
        EACH(k) {
            float base;
            if (V::base == ADAMW) {
                bm.x[k] = fmaf(bm.x[k], c.first_decay, c.first_decay_rest * g.x[k]);
                bv.x[k] = fmaf(bv.x[k], c.second_decay, c.second_decay_rest * g.x[k] * g.x[k]);
                base = adamw_base(bm.x[k], bv.x[k], s, c.base_epsilon);
            } else {
                float decayed = decays ? fmaf(theta.x[k], c.decay, g.x[k]) : g.x[k];
                base = bm.x[k] = fmaf(bm.x[k], c.first_decay, decayed);
            }
            if (k < p.rest(i)) sums[3] = fmaf(base, base, sums[3]);
        }
        p.write(p.base_momentum, i, bm);
        if (keeps_variance) p.write(p.base_variance, i, bv);
    }
}

// Whether λ is part of u.
template <class V> __device__ __forceinline__ bool has_coupled_decay(const Settings& c) {
    return V::base == CLASSIC && !V::plain && !(c.flags & DECOUPLED) && c.decay != 0.0f;
}

template <class V> __device__ __forceinline__ bool is_orthogonal(const Settings& c) {
    return V::base == CLASSIC && !V::plain && c.flags & ORTHOGONAL;
}

// What the hybrid bases update by: base, and the reference that the modulation multiplies.
template <class V>
__device__ __forceinline__ void hybrid(Four m, Four v, const Scalars& s, const Settings& c, Four& base, Four& reference) {
    EACH(k) {
        base.x[k] = V::base == ADAMW ? adamw_base(m.x[k], v.x[k], s, c.base_epsilon) : m.x[k];
        reference.x[k] = V::base == ADAMW && c.target == MOMENTUM ? m.x[k] * s.correction1 : base.x[k];
    }
}

// Classic: u = αg + λθ. Hybrid: u = base + kσ·reference. Orthogonal: p = (α − α_g) g.
// Σu², ΣΔ², ΣΔb, Σbθ, ΣΔθ, Σθ², where u = b + Δ + λθ; for the orthogonal residual only Σpg, in ΣΔb's place.
template <class V, class P>
__device__ __forceinline__ void update(const P& p, const Scalars& s, const Settings& c, float (&sums)[SUMS]) {
    const bool signals = (V::plain || c.flags & PARAMETERWISE) && s.blend != 0.0f, orthogonal = is_orthogonal<V>(c);
    const bool extras = V::base != CLASSIC || (!V::plain && c.flags & BOUNDED), decays = has_coupled_decay<V>(c) && !orthogonal;
    EACH_FOUR(p, i) {
        Four g = p.g(i), a = {}, m = {}, v = {}, bm, bv, base, reference, theta, u;
        if (V::base != CLASSIC) bm = p.read(p.base_momentum, i);
        if (V::base == ADAMW) bv = p.read(p.base_variance, i);
        if (signals) a = p.read(p.activity, i), m = p.read(p.momentum, i), v = p.read(p.variance, i);
        if (decays) theta = p.theta(i);
        p.unscale(g);
        if (V::base == CLASSIC) base = reference = g;
        else hybrid<V>(bm, bv, s, c, base, reference);
        EACH(k) {
            Alphas alpha = alphas<V>(g.x[k], a.x[k], m.x[k], v.x[k], s, c);
            if (orthogonal) {
                float projection = (alpha.blended - alpha.alone) * g.x[k];
                u.x[k] = is_finite(projection) ? projection : 0.0f;
                sums[2] = fmaf(u.x[k], g.x[k], sums[2]);
                continue;
            }
            float factor = alpha.blended - 1.0f, delta;
            if (V::base == CLASSIC) {
                delta = factor * g.x[k];
                u.x[k] = alpha.blended * g.x[k];
            } else {
                float scale = s.strength * factor;
                delta = scale * reference.x[k];
                u.x[k] = fmaf(scale, reference.x[k], base.x[k]);
            }
            if (k < p.rest(i)) {
                if (extras) {
                    sums[1] = fmaf(delta, delta, sums[1]);
                    sums[2] = fmaf(delta, base.x[k], sums[2]);
                }
                if (decays) {
                    u.x[k] = fmaf(theta.x[k], c.decay, u.x[k]);
                    sums[3] = fmaf(base.x[k], theta.x[k], sums[3]);
                    sums[4] = fmaf(delta, theta.x[k], sums[4]);
                    sums[5] = fmaf(theta.x[k], theta.x[k], sums[5]);
                }
                sums[0] = fmaf(u.x[k], u.x[k], sums[0]);
            }
        }
        p.write(p.update, i, u);
    }
}

// o = p − along·g; Σo², Σog, and with a coupled decay Σgθ, Σoθ, Σθ².
template <class V, class P>
__device__ __forceinline__ void project(const P& p, const Scalars& s, const Settings& c, float (&sums)[SUMS]) {
    const bool decays = has_coupled_decay<V>(c);
    EACH_FOUR(p, i) {
        Four g = p.g(i), o = p.read(p.update, i), theta;
        if (decays) theta = p.theta(i);
        p.unscale(g);
        EACH(k) {
            float rest = fmaf(-s.along, g.x[k], o.x[k]);
            o.x[k] = is_finite(rest) ? rest : 0.0f;
            sums[1] = fmaf(o.x[k], o.x[k], sums[1]);
            sums[2] = fmaf(o.x[k], g.x[k], sums[2]);
            if (decays) {
                sums[3] = fmaf(g.x[k], theta.x[k], sums[3]);
                sums[4] = fmaf(o.x[k], theta.x[k], sums[4]);
                sums[5] = fmaf(theta.x[k], theta.x[k], sums[5]);
            }
        }
        p.write(p.update, i, o);
    }
}

// θ ← keep·θ − rate·u. With MIXED, u is put together from what is kept: p orthogonal to g, or b + Δ + λθ, of which Δ is to be
// multiplied by `mix`.
template <class V, bool MIXED, class P>
__device__ __forceinline__ void apply(const P& p, const Scalars& s, const Settings& c) {
    const bool orthogonal = is_orthogonal<V>(c);
    const float decay = has_coupled_decay<V>(c) ? c.decay : 0.0f, mix = s.mix, rate = s.rate, keep = s.keep;
    EACH_FOUR(p, i) {
        Four u = p.read(p.update, i), theta, g, bm, bv;
        if (MIXED && V::base == CLASSIC) g = p.g(i);
        if (MIXED && V::base != CLASSIC) bm = p.read(p.base_momentum, i);
        if (MIXED && V::base == ADAMW) bv = p.read(p.base_variance, i);
        theta = p.theta(i);
        if (MIXED) {
            Four b, reference;
            if (V::base == CLASSIC) p.unscale(g), b = g;
            else hybrid<V>(bm, bv, s, c, b, reference);
            EACH(k) {
                u.x[k] = orthogonal ? fmaf(theta.x[k], decay, fmaf(u.x[k], mix, b.x[k]))
                                    : fmaf(u.x[k], mix, (1.0f - mix) * fmaf(theta.x[k], decay, b.x[k]));
            }
        }
        EACH(k) theta.x[k] = fmaf(u.x[k], -rate, keep * theta.x[k]);
        p.set_theta(i, theta);
    }
}
