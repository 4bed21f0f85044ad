// Sums over the channels of (batch, channels, positions): batch normalisation, and the affine gradients of group normalisation.
#include "common.cuh"

const u32 THREADS = 1024, WARPS = THREADS / 32;

struct Shape { u64 batch, channels, positions; };

// Elements that a thread reads before it uses the first.
const u32 AHEAD = 4;

// Calls use(load(index), sample) for the elements of a channel that are this thread's.
template <class Load, class Use>
__device__ __forceinline__ void each(const Shape& shape, u64 channel, Load load, Use use) {
    if (shape.positions == 0) return;
    u64 n = quotient(threadIdx.x, shape.positions), at = threadIdx.x - n * shape.positions;
    u64 step_n = quotient(THREADS, shape.positions), step = THREADS - step_n * shape.positions;
    while (n < shape.batch) {
        u64 index[AHEAD], sample[AHEAD];
        decltype(load((u64)0)) values[AHEAD];
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k) {
            sample[k] = n;
            index[k] = (n * shape.channels + channel) * shape.positions + at;
            n += step_n;
            at += step;
            if (at >= shape.positions) at -= shape.positions, ++n;
        }
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k)
            if (sample[k] < shape.batch) values[k] = load(index[k]);
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k)
            if (sample[k] < shape.batch) use(values[k], sample[k]);
    }
}

struct Pair { float dy, x; };

// The mean and the population's variance of every channel; a block has a channel at a time.
extern "C" __global__ void __launch_bounds__(1024)
    channel_statistics(Shape shape, const float* x, float* mean, float* variance) {
    float elements = (float)(shape.batch * shape.positions);
    for (u64 c = blockIdx.x; c < shape.channels; c += gridDim.x) {
        float sum[1] = {0.0f}, sums[2] = {0.0f, 0.0f};
        auto load = [&](u64 i) { return x[i]; };
        each(shape, c, load, [&](float x, u64) { sum[0] += x; });
        block_sum<1, WARPS>(sum);
        float centre = sum[0] / elements;
        each(shape, c, load, [&](float x, u64) {
            float apart = x - centre;
            sums[0] += apart;
            sums[1] += apart * apart;
        });
        block_sum<2, WARPS>(sums);
        if (threadIdx.x > 0) continue;
        // What the rounding of the mean left over is taken out again.
        float rest = sums[0] / elements, spread = sums[1] / elements - rest * rest;
        mean[c] = centre + rest;
        variance[c] = spread < 0.0f ? 0.0f : spread;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm(Shape shape, float epsilon, const float* x, const float* scale, const float* bias, const float* mean,
               const float* variance, float* y) {
    for (u64 i = first(); i < shape.batch * shape.channels * shape.positions; i += count()) {
        u64 plane = quotient(i, shape.positions), c = plane - quotient(plane, shape.channels) * shape.channels;
        float factor = scale[c] / sqrtf(variance[c] + epsilon);
        y[i] = (x[i] - mean[c]) * factor + bias[c];
    }
}

// dscale = Σ dy · x̂ and dbias = Σ dy of every channel.
extern "C" __global__ void __launch_bounds__(1024)
    batch_norm_sums(Shape shape, float epsilon, const float* dy, const float* x, const float* mean, const float* variance,
                    float* dscale, float* dbias) {
    for (u64 c = blockIdx.x; c < shape.channels; c += gridDim.x) {
        float centre = mean[c], inverse = 1.0f / sqrtf(variance[c] + epsilon), sums[2] = {0.0f, 0.0f};
        auto load = [&](u64 i) { return Pair{dy[i], x[i]}; };
        each(shape, c, load, [&](Pair own, u64) {
            sums[0] += own.dy * ((own.x - centre) * inverse);
            sums[1] += own.dy;
        });
        block_sum<2, WARPS>(sums);
        if (threadIdx.x > 0) continue;
        dscale[c] = sums[0];
        dbias[c] = sums[1];
    }
}

// dx = scale · inverse · (dy − dbias / elements − x̂ · dscale / elements).
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_data(Shape shape, float epsilon, const float* dy, const float* x, const float* scale, const float* mean,
                    const float* variance, const float* dscale, const float* dbias, float* dx) {
    float elements = (float)(shape.batch * shape.positions);
    for (u64 i = first(); i < shape.batch * shape.channels * shape.positions; i += count()) {
        u64 plane = quotient(i, shape.positions), c = plane - quotient(plane, shape.channels) * shape.channels;
        float inverse = 1.0f / sqrtf(variance[c] + epsilon), normal = (x[i] - mean[c]) * inverse;
        dx[i] = scale[c] * inverse * (dy[i] - dbias[c] / elements - normal * (dscale[c] / elements));
    }
}

// The same sums with a mean and an inverse deviation for every sample and group of channels.
extern "C" __global__ void __launch_bounds__(1024)
    group_norm_sums(Shape shape, u64 groups, const float* dy, const float* x, const float* mean, const float* inverse,
                    float* dscale, float* dbias) {
    for (u64 c = blockIdx.x; c < shape.channels; c += gridDim.x) {
        u64 group = quotient(c, quotient(shape.channels, groups));
        float sums[2] = {0.0f, 0.0f};
        auto load = [&](u64 i) { return Pair{dy[i], x[i]}; };
        each(shape, c, load, [&](Pair own, u64 n) {
            u64 row = n * groups + group;
            sums[0] += own.dy * ((own.x - mean[row]) * inverse[row]);
            sums[1] += own.dy;
        });
        block_sum<2, WARPS>(sums);
        if (threadIdx.x > 0) continue;
        dscale[c] = sums[0];
        if (dbias) dbias[c] = sums[1];
    }
}
