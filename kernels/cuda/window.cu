// Windows that slide over planes: the columns of a convolution, and pooling. Planes have three axes, missing ones in front
// as extent 1. I is the type that positions are counted in: 32 bits where they are enough, because divisions are slow.
#include "common.cuh"

struct Window {
    u64 input[3], output[3], kernel[3], strides[3], dilations[3];
    i64 pads[3];
};

template <class I> __device__ __forceinline__ I first() { return (I)blockIdx.x * blockDim.x + threadIdx.x; }
template <class I> __device__ __forceinline__ I count() { return (I)gridDim.x * blockDim.x; }

__device__ __forceinline__ u64 volume(const u64 (&extents)[3]) { return extents[0] * extents[1] * extents[2]; }

template <class I> struct Place { I axis[3]; };

template <class I> __device__ __forceinline__ Place<I> place(I index, const u64 (&extents)[3]) {
    I h = (I)extents[1], w = (I)extents[2];
    return {{index / w / h, index / w % h, index % w}};
}

// The element of a plane that a tap of a position reads; false in the padding.
template <class I> __device__ __forceinline__ bool source(const Window& w, const Place<I>& position, const Place<I>& tap, u64& at) {
    at = 0;
#pragma unroll
    for (u32 axis = 0; axis < 3; ++axis) {
        i64 i = (i64)position.axis[axis] * (i64)w.strides[axis] + (i64)tap.axis[axis] * (i64)w.dilations[axis] - w.pads[axis];
        if (i < 0 || i >= (i64)w.input[axis]) return false;
        at = at * w.input[axis] + (u64)i;
    }
    return true;
}

// columns[channel][tap][sample][position] of x, whose samples and channels lie `sample` and `channel` elements apart.
template <class I>
__device__ __forceinline__ void columns(const float* x, float* out, const Window& w, u64 batch, u64 channels, u64 sample, u64 channel) {
    u64 taps = volume(w.kernel), positions = volume(w.output);
    for (u64 row = blockIdx.y; row < channels * taps; row += gridDim.y) {
        Place<I> tap = place<I>((I)(row % taps), w.kernel);
        const float* plane = x + row / taps * channel;
        for (I i = first<I>(); i < (I)(batch * positions); i += count<I>()) {
            u64 at;
            bool inside = source<I>(w, place<I>(i % (I)positions, w.output), tap, at);
            out[row * batch * positions + i] = inside ? plane[i / (I)positions * sample + at] : 0.0f;
        }
    }
}

// x[sample][channel][element] = bias[channel] + what the columns say was read there, taps in order.
template <class I>
__device__ __forceinline__ void data_from_columns(const float* in, const float* bias, float* x, const Window& w, u64 batch, u64 channels) {
    u64 taps = volume(w.kernel), positions = volume(w.output), elements = volume(w.input);
    for (I i = first<I>(); i < (I)(batch * channels * elements); i += count<I>()) {
        Place<I> element = place<I>(i % (I)elements, w.input);
        I channel = i / (I)elements % (I)channels, sample = i / (I)elements / (I)channels;
        float sum = bias ? bias[channel] : 0.0f;
        for (I tap = 0; tap < (I)taps; ++tap) {
            Place<I> t = place<I>(tap, w.kernel);
            u64 at = 0;
            bool hit = true;
#pragma unroll
            for (u32 axis = 0; axis < 3; ++axis) {
                i64 p = (i64)element.axis[axis] + w.pads[axis] - (i64)t.axis[axis] * (i64)w.dilations[axis];
                I stride = (I)w.strides[axis];
                hit = hit && p >= 0 && (I)p % stride == 0 && (u64)((I)p / stride) < w.output[axis];
                at = at * w.output[axis] + (u64)((I)p / stride);
            }
            if (hit) sum += in[(((u64)channel * taps + tap) * batch + sample) * positions + at];
        }
        x[i] = sum;
    }
}

// The largest element of each window and which it was: the first of equals, or the first NaN. Indices count through all
// planes, within a plane row-major or with the first axis fastest.
template <class I>
__device__ __forceinline__ void max_pool(const float* x, float* y, i64* indices, const Window& w, u64 planes, u32 column_major) {
    u64 taps = volume(w.kernel), positions = volume(w.output), elements = volume(w.input);
    for (I i = first<I>(); i < (I)(planes * positions); i += count<I>()) {
        u64 plane = i / (I)positions;
        Place<I> position = place<I>(i % (I)positions, w.output);
        float best = __uint_as_float(0xff800000);
        u64 from = 0;
        for (I tap = 0; tap < (I)taps; ++tap) {
            u64 at;
            if (!source<I>(w, position, place<I>(tap, w.kernel), at)) continue;
            float value = x[plane * elements + at];
            if (value > best || (value != value && best == best)) best = value, from = at;
        }
        y[i] = best;
        if (indices) {
            if (column_major) {
                Place<u64> p = place<u64>(from, w.input);
                from = (p.axis[2] * w.input[1] + p.axis[1]) * w.input[0] + p.axis[0];
            }
            indices[i] = (i64)(plane * elements + from);
        }
    }
}

template <class I>
__device__ __forceinline__ void average_pool(const float* x, float* y, const Window& w, u64 planes, u32 with_pads, const u64 (&end)[3]) {
    u64 taps = volume(w.kernel), positions = volume(w.output), elements = volume(w.input);
    for (I i = first<I>(); i < (I)(planes * positions); i += count<I>()) {
        Place<I> position = place<I>(i % (I)positions, w.output);
        const float* plane = x + i / (I)positions * elements;
        float sum = 0.0f;
        u32 inside = 0;
        for (I tap = 0; tap < (I)taps; ++tap) {
            Place<I> t = place<I>(tap, w.kernel);
            u64 at;
            if (source<I>(w, position, t, at)) {
                sum += plane[at];
                ++inside;
            }
        }
        u64 divisor = inside;
        if (with_pads) {
            divisor = 1;
#pragma unroll
            for (u32 axis = 0; axis < 3; ++axis) {
                u64 covered = 0;
                for (u64 t = 0; t < w.kernel[axis]; ++t) {
                    i64 p = (i64)position.axis[axis] * (i64)w.strides[axis] + (i64)(t * w.dilations[axis]) - w.pads[axis];
                    covered += p < (i64)end[axis];
                }
                divisor *= covered;
            }
        }
        y[i] = sum * (1.0f / (float)divisor);
    }
}

struct Ends { u64 axis[3]; };

#define WINDOWS(I, name)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        columns_##name(const float* x, float* out, Window w, u64 batch, u64 channels, u64 sample, u64 channel) {              \
        columns<I>(x, out, w, batch, channels, sample, channel);                                                              \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        data_from_columns_##name(const float* in, const float* bias, float* x, Window w, u64 batch, u64 channels) {           \
        data_from_columns<I>(in, bias, x, w, batch, channels);                                                                \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        max_pool_##name(const float* x, float* y, i64* indices, Window w, u64 planes, u32 column_major) {                     \
        max_pool<I>(x, y, indices, w, planes, column_major);                                                                  \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        average_pool_##name(const float* x, float* y, Window w, u64 planes, u32 with_pads, Ends end) {                        \
        average_pool<I>(x, y, w, planes, with_pads, end.axis);                                                                \
    }

WINDOWS(u32, u32)
WINDOWS(u64, u64)

extern "C" __global__ void __launch_bounds__(256) clear(float* y, u64 elements) {
    for (u64 i = first<u64>(); i < elements; i += count<u64>()) y[i] = 0.0f;
}

// y[indices[i]] = x[i] for cleared y; *bad counts indices out of range.
extern "C" __global__ void __launch_bounds__(256)
    unpool(const float* x, const i64* indices, float* y, u32* bad, u64 elements, u64 outputs) {
    for (u64 i = first<u64>(); i < elements; i += count<u64>()) {
        i64 at = indices[i];
        if (at < 0 || at >= (i64)outputs) atomicAdd(bad, 1u);
        else y[at] = x[i];
    }
}
