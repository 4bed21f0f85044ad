// The fused NeuroPlastic step and the controller's signal, for one storage type of parameter and gradient.
#pragma once
#include "neuroplastic.cuh"

__device__ __forceinline__ float memory_signal(float m, float v, float eps) { return fabsf(m) / (sqrtf(v) + eps); }

__device__ __forceinline__ float adamw_base(float m, float v, const Scalars& s, float eps) {
    return m * s.correction1 / (sqrtf(v * s.correction2) + eps);
}

// α_f before its clip, from the signals.
__device__ __forceinline__ float raw_alpha(float g, float a, float h, const Scalars& s) {
    return fmaf(h, s.memory, fmaf(a, s.activity, s.gradient * fabsf(g)));
}

struct Alphas { float alone, blended; };

__device__ __forceinline__ Alphas alphas(float g, float a, float m, float v, const Scalars& s, const Settings& c) {
    float low = (float)c.min_alpha, high = (float)c.max_alpha;
    if (!(c.flags & PARAMETERWISE)) return {s.alone, s.uniform};
    float alone = clip(fabsf(g) * s.alone, low, high);
    if (s.blend == 0.0f) return {alone, alone};
    float full = clip(raw_alpha(g, a, memory_signal(m, v, (float)c.eps), s), low, high);
    return {alone, s.blend == 1.0f ? full : fmaf(full - alone, s.blend, alone)};
}

// One block's share of a tensor.
template <class T> struct Part {
    T* parameter;
    const T* gradient;
    float *activity, *momentum, *variance, *base_momentum, *base_variance, *master, *update;
    u32 count;
    bool aligned;
    float inverse_scale;

    __device__ __forceinline__ Part(const Tensor& t, u32 chunk, float inverse_scale) : inverse_scale(inverse_scale) {
        u64 start = (u64)chunk * CHUNK;
        count = (u32)(t.elements - start < CHUNK ? t.elements - start : CHUNK);
        aligned = t.flags & ALIGNED;
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

    __device__ __forceinline__ u32 rest(u32 i) const { return count - i < 4 ? count - i : 4; }
    __device__ __forceinline__ Four read(const float* p, u32 i) const { return load4(p + i, rest(i), aligned); }
    __device__ __forceinline__ void write(float* p, u32 i, Four x) const { store4(p + i, x, rest(i), aligned); }
    __device__ __forceinline__ Four theta(u32 i) const {
        return master ? read(master, i) : load4(parameter + i, rest(i), aligned);
    }
    __device__ __forceinline__ void set_theta(u32 i, Four x) const {
        if (master) write(master, i, x);
        store4(parameter + i, x, rest(i), aligned);
    }
    __device__ __forceinline__ Four g(u32 i) const {
        Four x = load4(gradient + i, rest(i), aligned);
#pragma unroll
        for (u32 k = 0; k < 4; ++k) x.x[k] *= inverse_scale;
        return x;
    }
    // g for the classic base, else what the hybrid base updates by.
    __device__ __forceinline__ Four base(u32 i, const Scalars& s, const Settings& c) const {
        if (c.base == CLASSIC) return g(i);
        Four m = read(base_momentum, i);
        if (c.base == ADAMW) {
            Four v = read(base_variance, i);
#pragma unroll
            for (u32 k = 0; k < 4; ++k) m.x[k] = adamw_base(m.x[k], v.x[k], s, (float)c.base_eps);
        }
        return m;
    }
};

#define EACH_FOUR(part, i) _Pragma("unroll 1") for (u32 i = threadIdx.x * 4; i < (part).count; i += THREADS * 4)
#define EACH(k) _Pragma("unroll") for (u32 k = 0; k < 4; ++k)

// Σ|g|, Σa, Σ|m|/(√v+ε), Σbase², Σθ². With WRITE the traces are updated, without it only what they would be is summed.
template <class T, bool WRITE>
__device__ __forceinline__ void traces(const Part<T>& p, const Scalars& s, const Settings& c, float (&sums)[SUMS]) {
    const float delta_rest = (float)(1.0 - 0.95), beta1_rest = (float)(1.0 - 0.9);
    bool trust = c.base != CLASSIC && c.target == TRUST_RATIO, decays = c.base == SGD_MOMENTUM && c.weight_decay > 0.0;
    EACH_FOUR(p, i) {
        Four g = p.g(i), a = p.read(p.activity, i), m = p.read(p.momentum, i), v = p.read(p.variance, i), theta;
        if (WRITE && (trust || decays)) theta = p.theta(i);
        u32 rest = p.rest(i);
        EACH(k) {
            float size = fabsf(g.x[k]), part = beta1_rest * g.x[k];
            a.x[k] = fmaf(size - a.x[k], delta_rest, a.x[k]);
            m.x[k] = fmaf(m.x[k], 0.9f, part);
            v.x[k] = fmaf(part, part, 0.99f * v.x[k]);
            sums[0] += size;
            sums[1] += a.x[k];
            // Beyond the end everything is 0, and so is each term.
            sums[2] += memory_signal(m.x[k], v.x[k], (float)c.eps);
            if (WRITE && c.base == CLASSIC) sums[3] = fmaf(g.x[k], g.x[k], sums[3]);
            if (WRITE && trust) sums[4] = fmaf(theta.x[k], theta.x[k], sums[4]);
        }
        if (!WRITE) continue;
        p.write(p.activity, i, a);
        p.write(p.momentum, i, m);
        p.write(p.variance, i, v);
        if (c.base == CLASSIC) continue;
        Four bm = p.read(p.base_momentum, i), bv;
        if (c.base == ADAMW) bv = p.read(p.base_variance, i);
        float b1 = (float)c.base_momentum, b1_rest = (float)(1.0 - c.base_momentum);
        float b2 = (float)c.base_beta2, b2_rest = (float)(1.0 - c.base_beta2);
        EACH(k) {
            float base;
            if (c.base == ADAMW) {
                bm.x[k] = fmaf(bm.x[k], b1, b1_rest * g.x[k]);
                bv.x[k] = fmaf(bv.x[k], b2, b2_rest * g.x[k] * g.x[k]);
                base = adamw_base(bm.x[k], bv.x[k], s, (float)c.base_eps);
            } else {
                float decayed = decays ? fmaf(theta.x[k], (float)c.weight_decay, g.x[k]) : g.x[k];
                base = bm.x[k] = fmaf(bm.x[k], b1, decayed);
            }
            if (k < rest) sums[3] = fmaf(base, base, sums[3]);
        }
        p.write(p.base_momentum, i, bm);
        if (c.base == ADAMW) p.write(p.base_variance, i, bv);
    }
}

__device__ __forceinline__ double coupled_decay(const Settings& c) {
    return c.base == CLASSIC && !(c.flags & DECOUPLED) ? c.weight_decay : 0.0;
}

// Classic: u = αg + λθ. Hybrid: u = base + kσ·reference. Orthogonal: p = (α − α_g) g.
// Σu², ΣΔ², ΣΔb, Σbθ, ΣΔθ, Σθ², where u = b + Δ + λθ; for the orthogonal residual only Σpg, in ΣΔb's place.
template <class T>
__device__ __forceinline__ void update(const Part<T>& p, const Scalars& s, const Settings& c, float (&sums)[SUMS]) {
    float decay = (float)coupled_decay(c);
    bool signals = c.flags & PARAMETERWISE && s.blend != 0.0f, orthogonal = c.flags & ORTHOGONAL && c.base == CLASSIC;
    bool extras = c.base != CLASSIC || c.flags & BOUNDED;
    EACH_FOUR(p, i) {
        Four g = p.g(i), a, m, v, base = g, reference, theta, u;
        if (signals) a = p.read(p.activity, i), m = p.read(p.momentum, i), v = p.read(p.variance, i);
        if (c.base != CLASSIC) reference = base = p.base(i, s, c);
        if (c.base == ADAMW && c.target == MOMENTUM) {
            reference = p.read(p.base_momentum, i);
            EACH(k) reference.x[k] *= s.correction1;
        }
        if (decay != 0.0f && !orthogonal) theta = p.theta(i);
        EACH(k) {
            Alphas alpha = alphas(g.x[k], a.x[k], m.x[k], v.x[k], s, c);
            if (orthogonal) {
                float projection = (alpha.blended - alpha.alone) * g.x[k];
                u.x[k] = is_finite(projection) ? projection : 0.0f;
                sums[2] = fmaf(u.x[k], g.x[k], sums[2]);
                continue;
            }
            float delta;
            if (c.base == CLASSIC) {
                delta = (alpha.blended - 1.0f) * g.x[k];
                u.x[k] = alpha.blended * g.x[k];
            } else {
                delta = s.strength * (alpha.blended - 1.0f) * reference.x[k];
                u.x[k] = base.x[k] + delta;
            }
            if (k < p.rest(i)) {
                if (extras) {
                    sums[1] = fmaf(delta, delta, sums[1]);
                    sums[2] = fmaf(delta, base.x[k], sums[2]);
                }
                if (decay != 0.0f) {
                    u.x[k] = fmaf(theta.x[k], decay, u.x[k]);
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
template <class T>
__device__ __forceinline__ void project(const Part<T>& p, const Scalars& s, const Settings& c, float (&sums)[SUMS]) {
    bool decays = coupled_decay(c) != 0.0;
    EACH_FOUR(p, i) {
        Four g = p.g(i), o = p.read(p.update, i), theta;
        if (decays) theta = p.theta(i);
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

// θ ← keep·θ − rate·u.
template <class T> __device__ __forceinline__ void apply(const Part<T>& p, const Scalars& s, const Settings& c) {
    bool orthogonal = c.flags & ORTHOGONAL && c.base == CLASSIC;
    float decay = (float)coupled_decay(c);
    EACH_FOUR(p, i) {
        Four u = p.read(p.update, i), theta = p.theta(i);
        if (orthogonal || s.mix != 1.0f) {
            // What is kept is p orthogonal to g, or b + Δ + λθ, of which Δ is to be multiplied by `mix`.
            Four b = p.base(i, s, c);
            EACH(k) {
                u.x[k] = orthogonal ? fmaf(theta.x[k], decay, fmaf(u.x[k], s.mix, b.x[k]))
                                    : fmaf(u.x[k], s.mix, (1.0f - s.mix) * fmaf(theta.x[k], decay, b.x[k]));
            }
        }
        EACH(k) theta.x[k] = fmaf(u.x[k], -s.rate, s.keep * theta.x[k]);
        p.set_theta(i, theta);
    }
}

// Scalars of phase 2 from the sums of phase 1.
__device__ __forceinline__ void after_traces(const Tensor& t, const Group& group, const double (&sums)[SUMS], Scalars& s) {
    const Settings& c = group.settings;
    double n = (double)t.elements, gradient = sums[0] / n, activity = sums[1] / n, memory = sums[2] / n;
    double blend = c.flags & ABLATION ? 0.0 : (double)global(group.gates)[0] * c.plasticity_scale;
    s.activity = (float)(c.activity_weight / (activity + c.eps));
    s.gradient = (float)(c.gradient_weight / (gradient + c.eps));
    s.memory = (float)(c.memory_weight / (memory + c.eps));
    s.alone = (float)(1.0 / (gradient + c.eps));
    s.blend = (float)blend;
    if (!(c.flags & PARAMETERWISE)) {
        double g = gradient / (gradient + c.eps);
        double full = c.activity_weight * (activity / (activity + c.eps)) + c.gradient_weight * g +
                      c.memory_weight * (memory / (memory + c.eps));
        double alone = clip(g, c.min_alpha, c.max_alpha);
        s.alone = (float)alone;
        s.uniform = (float)(alone + blend * (clip(full, c.min_alpha, c.max_alpha) - alone));
    }
    double strength = t.strength * (double)global(group.gates)[1];
    if (c.target == TRUST_RATIO) strength *= clip(sqrt(sums[4]) / (sqrt(sums[3]) + 1e-12), 0.5, 1.5) - 1.0;
    s.strength = (float)strength;
    s.base_squares = sums[3];
}

// Rate and decay from Σu².
__device__ __forceinline__ void stabilise(const Tensor& t, const Group& group, double squares, Scalars& s) {
    const Settings& c = group.settings;
    double clipped = limited(sqrt(squares), c.max_update_norm, c.eps_h);
    double rms = sqrt(clipped * clipped * (squares / (double)t.elements) + c.eps_h);
    double gain = clip(1.0 + c.adaptation_rate * (t.target_rms - rms), 0.5, 1.5);
    double rate = (double)*global(group.learning_rate) * (t.multiplier ? (double)*global(t.multiplier) : 1.0);
    bool shrinks = c.base == ADAMW || (c.base == CLASSIC && c.flags & DECOUPLED);
    s.rate = (float)(rate * clipped * gain);
    s.keep = shrinks ? (float)(1.0 - rate * c.weight_decay) : 1.0f;
}

// ‖b + mix·Δ + λθ‖².
__device__ __forceinline__ double mixed_squares(double base, const double (&sums)[SUMS], double mix, double decay) {
    return base + mix * (2.0 * sums[2] + mix * sums[1]) + decay * (2.0 * (sums[3] + mix * sums[4]) + decay * sums[5]);
}

__device__ __forceinline__ void after_update(const Tensor& t, const Group& group, const double (&sums)[SUMS], Scalars& s) {
    const Settings& c = group.settings;
    if (c.flags & ORTHOGONAL && c.base == CLASSIC) {
        s.along = (float)(sums[2] / (s.base_squares + c.eps));
        return;
    }
    double mix = 1.0, norm = sqrt(s.base_squares), squares = sums[0];
    if (c.base != CLASSIC) mix = limited(sqrt(sums[1]), c.modulation_max_ratio * norm, 1e-12);
    else if (c.flags & BOUNDED) mix = limited(sqrt(sums[1]), c.residual_max_ratio * norm, 1e-12);
    if (mix < 1.0) squares = fmax(mixed_squares(s.base_squares, sums, mix, coupled_decay(c)), 0.0);
    s.mix = (float)mix;
    stabilise(t, group, squares, s);
}

__device__ __forceinline__ void after_project(const Tensor& t, const Group& group, const double (&sums)[SUMS], Scalars& s) {
    const Settings& c = group.settings;
    double gradient = sqrt(s.base_squares), norm = sqrt(sums[1]), scale = 0.0;
    if (s.base_squares > c.eps) {
        scale = c.flags & MATCH_NORM && norm > c.eps ? gradient / (norm + c.eps) : 1.0;
        scale *= c.orthogonal_lambda * (double)global(group.gates)[2];
        scale *= limited(scale * norm, c.orthogonal_max_ratio * gradient, c.eps);
    }
    s.mix = (float)scale;
    stabilise(t, group, fmax(mixed_squares(s.base_squares, sums, scale, coupled_decay(c)), 0.0), s);
}

// What the first phase reads, everything else 0.
__device__ __forceinline__ void begin(const Group& group, Scalars& s) {
    const Settings& c = group.settings;
    s = {};
    s.correction1 = s.correction2 = 1.0f;
    if (c.base != ADAMW) return;
    i64 t = *global(group.step) + 1;
    s.correction1 = (float)(1.0 / fmax(1.0 - power(c.base_momentum, t), 1e-12));
    s.correction2 = (float)(1.0 / fmax(1.0 - power(c.base_beta2, t), 1e-12));
}

// Leaves a chunk's sums in its slot. True in the block that finished the tensor's last chunk: there `totals` are the sums over
// all slots in their order.
__device__ __forceinline__ bool finish_chunk(const Group& group, const Tensor& t, const Item& item, float (&sums)[SUMS],
                                             double (&totals)[SUMS]) {
    __shared__ u32 is_last;
    block_sum<SUMS, WARPS>(sums);
    if (t.chunks == 1) {
        for (u32 i = 0; i < SUMS; ++i) totals[i] = (double)sums[i];
        // The chunk's stores are read by other threads of this block in the next phase.
        __syncthreads();
        return true;
    }
    double* slots = global(group.slots) + (u64)t.first_slot * SUMS;
    // The block's stores, and then its slot, before its arrival.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < SUMS; ++i) slots[(u64)item.chunk * SUMS + i] = (double)sums[i];
        __threadfence();
        is_last = atomicInc(&global(group.arrived)[item.tensor], t.chunks - 1) == t.chunks - 1;
        __threadfence();
    }
    __syncthreads();
    if (!is_last) return false;
    for (u32 i = 0; i < SUMS; ++i) totals[i] = 0.0;
    for (u32 chunk = threadIdx.x; chunk < t.chunks; chunk += THREADS)
        for (u32 i = 0; i < SUMS; ++i) totals[i] += __ldcg(&slots[(u64)chunk * SUMS + i]);
    block_sum<SUMS, WARPS>(totals);
    return true;
}

// One phase of one chunk, with the tensor's scalars in shared memory. True when it was the tensor's last chunk: the scalars
// are then those of the next phase.
template <class T> __device__ __forceinline__ bool run_phase(const Group& group, const Item& item, u32 phase, Scalars& s) {
    const Settings& c = group.settings;
    const Tensor& t = global(group.tensors)[item.tensor];
    Part<T> part(t, item.chunk, group.inverse_scale ? *global(group.inverse_scale) : 1.0f);
    float sums[SUMS] = {};
    double totals[SUMS];
    if (phase == TRACES) {
        if (threadIdx.x == 0) begin(group, s);
        __syncthreads();
        traces<T, true>(part, s, c, sums);
    } else if (phase == UPDATE) {
        update(part, s, c, sums);
    } else if (phase == PROJECT) {
        project(part, s, c, sums);
    } else {
        apply(part, s, c);
        return false;
    }
    if (!finish_chunk(group, t, item, sums, totals)) return false;
    if (threadIdx.x == 0) {
        if (phase == TRACES) after_traces(t, group, totals, s);
        else if (phase == UPDATE) after_update(t, group, totals, s);
        else after_project(t, group, totals, s);
    }
    __syncthreads();
    return true;
}

__device__ __forceinline__ bool skipped(const Group& group) { return group.overflow && *global(group.overflow) != 0; }

// Copies a tensor's scalars, which another block wrote, to where this block's threads read them.
__device__ __forceinline__ void take(Scalars& s, const Scalars* from) {
    const volatile u32* words = (const volatile u32*)global(from);
    __syncthreads();
    if (threadIdx.x < sizeof(Scalars) / 4) ((u32*)&s)[threadIdx.x] = words[threadIdx.x];
    __syncthreads();
}

// One phase of every chunk, a block each: the plain form, in one launch a phase.
template <class T> __device__ __forceinline__ void sweep(const Group& group, u32 phase) {
    __shared__ Scalars s;
    if (!skipped(group)) {
        const Item item = global(group.items)[blockIdx.x];
        if (phase > TRACES) take(s, &group.scalars[item.tensor]);
        if (run_phase<T>(group, item, phase, s) && threadIdx.x == 0) global(group.scalars)[item.tensor] = s;
    }
    // Only the last phase may advance the step: the first one reads it.
    if (phase == APPLY && group.settings.flags & ADVANCE && threadIdx.x == 0) {
        u32 exited = atomicInc(&global(group.control)->exited, gridDim.x - 1);
        if (exited == gridDim.x - 1 && !skipped(group)) *global(group.step) += 1;
    }
}

// All phases in one launch. Blocks take tickets in order; an item waits only for items with earlier tickets, which other
// blocks are running or have finished, so that any number of resident blocks makes progress.
template <class T> __device__ __forceinline__ void fused(const Group& group) {
    __shared__ u32 next;
    __shared__ Scalars s;
    Control* control = global(group.control);
    u32 epoch = *(volatile u32*)&control->epoch;
    while (!skipped(group)) {
        __syncthreads();
        if (threadIdx.x == 0) next = atomicAdd(&control->ticket, 1);
        __syncthreads();
        if (next >= group.items_count) break;
        const Item item = global(group.items)[next];
        volatile u32* ready = (volatile u32*)&global(group.ready)[item.tensor];
        // A tensor of one chunk goes through all phases here: nobody else has to be waited for.
        bool alone = item.phase == 0;
        if (item.phase > TRACES) {
            u32 before = item.phase == APPLY ? group.phases - 1 : item.phase - 1;
            if (threadIdx.x == 0)
                while (*ready != epoch * 4 + before) {}
            __threadfence();
            take(s, &group.scalars[item.tensor]);
        }
        for (u32 phase = alone ? TRACES : item.phase;; ++phase) {
            if (phase == PROJECT && group.phases == 3) ++phase;
            bool finished = run_phase<T>(group, item, phase, s);
            if (!alone && finished && threadIdx.x == 0) {
                global(group.scalars)[item.tensor] = s;
                __threadfence();
                *ready = epoch * 4 + phase;
            }
            if (!alone || phase == APPLY) break;
        }
    }
    // The last block to leave prepares the next launch.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        u32 exited = atomicInc(&control->exited, gridDim.x - 1);
        if (exited == gridDim.x - 1) {
            __threadfence();
            control->ticket = 0;
            control->epoch = epoch + 1;
            if (group.settings.flags & ADVANCE && !skipped(group)) *global(group.step) += 1;
        }
    }
}

// The controller's signal s = mean(log(max(α, ε) / max(α_g, ε))) of tensor i, into signals[i]: phase 1 and 2, a launch each.
template <class T> __device__ __forceinline__ void signal(const Group& group, float* signals, u32 phase) {
    __shared__ Scalars s;
    const Settings& c = group.settings;
    const Item item = global(group.items)[blockIdx.x];
    const Tensor& t = global(group.tensors)[item.tensor];
    Part<T> p(t, item.chunk, group.inverse_scale ? *global(group.inverse_scale) : 1.0f);
    float sums[SUMS] = {};
    double totals[SUMS];
    if (phase == 1) {
        if (threadIdx.x == 0) begin(group, s);
        __syncthreads();
        traces<T, false>(p, s, c, sums);
        if (finish_chunk(group, t, item, sums, totals) && threadIdx.x == 0) {
            after_traces(t, group, totals, s);
            global(group.scalars)[item.tensor] = s;
        }
        return;
    }
    take(s, &group.scalars[item.tensor]);
    const float delta_rest = (float)(1.0 - 0.95), beta1_rest = (float)(1.0 - 0.9), eps = (float)c.eps;
    EACH_FOUR(p, i) {
        Four g = p.g(i), a = p.read(p.activity, i), m = p.read(p.momentum, i), v = p.read(p.variance, i);
        EACH(k) {
            float size = fabsf(g.x[k]), part = beta1_rest * g.x[k];
            a.x[k] = fmaf(size - a.x[k], delta_rest, a.x[k]);
            m.x[k] = fmaf(m.x[k], 0.9f, part);
            v.x[k] = fmaf(part, part, 0.99f * v.x[k]);
            Alphas alpha = alphas(g.x[k], a.x[k], m.x[k], v.x[k], s, c);
            float term = logf(fmaxf(alpha.blended, eps) / fmaxf(alpha.alone, eps));
            if (k < p.rest(i) && is_finite(term)) sums[0] += term;
        }
    }
    if (finish_chunk(group, t, item, sums, totals) && threadIdx.x == 0)
        global(signals)[item.tensor] = c.flags & ABLATION ? 0.0f : (float)(totals[0] / (double)t.elements);
}

// Sets *overflow where a gradient is not finite; a block a chunk.
template <class T> __device__ __forceinline__ void find_overflow(const Group& group, u32* overflow) {
    const Item item = global(group.items)[blockIdx.x];
    const Tensor t = global(group.tensors)[item.tensor];
    Part<T> p(t, item.chunk, 1.0f);
    bool found = false;
    EACH_FOUR(p, i) {
        Four g = p.g(i);
        EACH(k) found |= !is_finite(g.x[k]);
    }
    if (__syncthreads_or(found) && threadIdx.x == 0) atomicOr(global(overflow), 1u);
}

#define NEUROPLASTIC_KERNELS(suffix, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) neuroplastic_sweep_##suffix(const Group group, u32 phase) {        \
        sweep<T>(group, phase);                                                                                              \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) neuroplastic_fused_##suffix(const Group group) { fused<T>(group); } \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
        neuroplastic_signal_##suffix(const Group group, float* signals, u32 phase) {                                         \
        signal<T>(group, signals, phase);                                                                                    \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) neuroplastic_overflow_##suffix(const Group group, u32* overflow) { \
        find_overflow<T>(group, overflow);                                                                                   \
    }
