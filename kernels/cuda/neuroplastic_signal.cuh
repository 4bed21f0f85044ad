// What is done with gradients and traces beside the step: the controller's signal, and looking for an overflow.
#pragma once
#include "neuroplastic_kernels.cuh"

template <class T> __device__ __forceinline__ Part<T, false> ragged(const Group& group, const Item& item, float inverse_scale) {
    const Tensor& t = global(group.tensors)[item.tensor];
    return Part<T, false>(t, item.chunk, elements_of(t, item.chunk), inverse_scale);
}

// The controller's signal s = mean(log(max(α, ε) / max(α_g, ε))) of tensor i, into signals[i]: phase 1 and 2, a launch each.
template <class T> __device__ __forceinline__ void signal(const Group& group, float* signals, u32 phase) {
    __shared__ Scalars s;
    const Settings& c = group.settings;
    const Item item = global(group.items)[blockIdx.x];
    const Tensor& t = global(group.tensors)[item.tensor];
    Part<T, false> p = ragged<T>(group, item, group.inverse_scale ? *global(group.inverse_scale) : 1.0f);
    float sums[SUMS] = {};
    double totals[SUMS];
    // No base: its momenta have no part in α.
    if (phase == 1) {
        if (threadIdx.x == 0) begin<Classic>(group, s);
        __syncthreads();
        traces<Classic, false>(p, s, c, sums);
        if (finish_chunk<3>(group, t, item, sums, totals) && threadIdx.x == 0) {
            after_traces<Classic>(t, group, totals, s);
            global(group.scalars)[item.tensor] = s;
        }
        return;
    }
    take(s, &group.scalars[item.tensor]);
    const float eps = c.epsilon;
    EACH_FOUR(p, i) {
        Four g = p.g(i), a = p.read(p.activity, i), m = p.read(p.momentum, i), v = p.read(p.variance, i);
        p.unscale(g);
        EACH(k) {
            advance(g.x[k], a.x[k], m.x[k], v.x[k]);
            Alphas alpha = alphas<Classic>(g.x[k], a.x[k], m.x[k], v.x[k], s, c);
            float term = logf(ratio(fmaxf(alpha.blended, eps), fmaxf(alpha.alone, eps)));
            if (k < p.rest(i) && is_finite(term)) sums[0] += term;
        }
    }
    if (finish_chunk<1>(group, t, item, sums, totals) && threadIdx.x == 0)
        global(signals)[item.tensor] = c.flags & ABLATION ? 0.0f : (float)(totals[0] / (double)t.elements);
}

// Sets *overflow where a gradient is not finite; a block a chunk.
template <class T> __device__ __forceinline__ void find_overflow(const Group& group, u32* overflow) {
    Part<T, false> p = ragged<T>(group, global(group.items)[blockIdx.x], 1.0f);
    bool found = false;
    EACH_FOUR(p, i) {
        Four g = p.g(i);
        EACH(k) found |= !is_finite(g.x[k]);
    }
    if (__syncthreads_or(found) && threadIdx.x == 0) atomicOr(global(overflow), 1u);
}

#define NEUROPLASTIC_SIGNAL(suffix, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
        neuroplastic_signal_##suffix(const Group group, float* signals, u32 phase) {                                         \
        signal<T>(group, signals, phase);                                                                                    \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) neuroplastic_overflow_##suffix(const Group group, u32* overflow) { \
        find_overflow<T>(group, overflow);                                                                                   \
    }
