// Windows that slide over planes: the columns of a convolution, and pooling. Planes have three axes, missing ones in front
// as extent 1. I is the type that positions are counted in: 32 bits where they are enough.
#include "division.cuh"

struct Window {
    u64 input[3], output[3], kernel[3];
    Divisor inputs[3], outputs[3], kernels[3], strides[3];
    u64 dilations[3];
    i64 pads[3];
};

template <class I> __device__ __forceinline__ I first() { return (I)blockIdx.x * blockDim.x + threadIdx.x; }
template <class I> __device__ __forceinline__ I count() { return (I)gridDim.x * blockDim.x; }

__device__ __forceinline__ u64 volume(const u64 (&extents)[3]) { return extents[0] * extents[1] * extents[2]; }

// The signed type as wide as I.
template <class I> struct Signed { typedef i64 Type; };
template <> struct Signed<u32> { typedef int Type; };

template <class I> struct Place { I axis[3]; };

// Takes the place in a plane out of a number that counts planes too; it becomes the plane's.
template <class I> __device__ __forceinline__ Place<I> place(I& number, const Divisor (&extents)[3]) {
    Place<I> result;
    result.axis[2] = split(number, extents[2]);
    result.axis[1] = split(number, extents[1]);
    result.axis[0] = split(number, extents[0]);
    return result;
}

// Where the first tap of a position reads along an axis.
template <class I> __device__ __forceinline__ typename Signed<I>::Type start(const Window& w, I position, u32 axis) {
    typedef typename Signed<I>::Type S;
    return (S)position * (S)w.strides[axis].value - (S)w.pads[axis];
}

// The element of a plane that a tap of a position reads; false in the padding.
template <class I> __device__ __forceinline__ bool source(const Window& w, const Place<I>& position, const Place<I>& tap, I& at) {
    at = 0;
    bool inside = true;
#pragma unroll
    for (u32 axis = 0; axis < 3; ++axis) {
        I i = (I)start<I>(w, position.axis[axis], axis) + tap.axis[axis] * (I)w.dilations[axis];
        // What is before the plane is beyond its end once the sign is dropped.
        inside = inside && i < (I)w.input[axis];
        at = at * (I)w.input[axis] + i;
    }
    return inside;
}

// Calls use(value, element of the plane) for every tap of a position that reads inside, taps in order. Taps of a row are read
// four at a time; use is told of a tap outside by a false third argument.
template <class I, class Use>
__device__ __forceinline__ void each_tap(const float* plane, const Window& w, const Place<I>& position, Use use) {
    I d = (I)start<I>(w, position.axis[0], 0), x0 = (I)start<I>(w, position.axis[2], 2);
    I dilation = (I)w.dilations[2], width = (I)w.input[2], taps = (I)w.kernel[2];
#pragma unroll 1
    for (I td = 0; td < (I)w.kernel[0]; ++td, d += (I)w.dilations[0]) {
        if (d >= (I)w.input[0]) continue;
        I h = (I)start<I>(w, position.axis[1], 1);
#pragma unroll 1
        for (I th = 0; th < (I)w.kernel[1]; ++th, h += (I)w.dilations[1]) {
            if (h >= (I)w.input[1]) continue;
            I row = (d * (I)w.input[1] + h) * width, x = x0;
#pragma unroll 1
            for (I t = 0; t < taps; t += 4) {
                float values[4];
                bool inside[4];
                I at[4];
#pragma unroll
                for (u32 k = 0; k < 4; ++k, x += dilation) {
                    at[k] = row + x;
                    inside[k] = t + k < taps && x < width;
                    values[k] = inside[k] ? plane[at[k]] : 0.0f;
                }
#pragma unroll
                for (u32 k = 0; k < 4; ++k) use(values[k], at[k], inside[k]);
            }
        }
    }
}

// columns[channel][tap][sample][position] of x, whose samples and channels lie `sample` and `channel` elements apart.
template <class I>
__device__ __forceinline__ void columns(const float* x, float* out, const Window& w, u64 batch, u64 channels, u64 sample, u64 channel) {
    u64 taps = volume(w.kernel), positions = volume(w.output);
    for (u64 row = blockIdx.y; row < channels * taps; row += gridDim.y) {
        I rest = (I)row;
        Place<I> tap = place(rest, w.kernels);
        const float* plane = x + rest * channel;
        float* to = out + row * batch * positions;
        for (I i = first<I>(); i < (I)(batch * positions); i += count<I>()) {
            I from = i, at;
            Place<I> position = place(from, w.outputs);
            bool inside = source(w, position, tap, at);
            to[i] = inside ? plane[from * sample + at] : 0.0f;
        }
    }
}

// x[sample][channel][element] = bias[channel] + what the columns say was read there, taps in order.
template <class I>
__device__ __forceinline__ void data_from_columns(const float* in, const float* bias, float* x, const Window& w, u64 batch,
                                                  u64 channels, const Divisor& by_channels) {
    u64 taps = volume(w.kernel), positions = volume(w.output), elements = volume(w.input);
    for (I i = first<I>(); i < (I)(batch * channels * elements); i += count<I>()) {
        I sample = i;
        Place<I> element = place(sample, w.inputs);
        I channel = split(sample, by_channels);
        float sum = bias ? bias[channel] : 0.0f;
#pragma unroll 1
        for (I tap = 0; tap < (I)taps; ++tap) {
            I rest = tap, at = 0;
            Place<I> t = place(rest, w.kernels);
            bool hit = true;
#pragma unroll
            for (u32 axis = 0; axis < 3; ++axis) {
                // A negative number has its highest bit set, and its quotient is of no use.
                I p = element.axis[axis] + (I)w.pads[axis] - t.axis[axis] * (I)w.dilations[axis];
                hit = hit && !(p >> (sizeof(I) * 8 - 1));
                hit = hit && split(p, w.strides[axis]) == 0 && p < (I)w.output[axis];
                at = at * (I)w.output[axis] + p;
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
    u64 elements = volume(w.input);
    for (I i = first<I>(); i < (I)(planes * volume(w.output)); i += count<I>()) {
        I plane = i;
        Place<I> position = place(plane, w.outputs);
        float best = __uint_as_float(0xff800000);
        I from = 0;
        each_tap(x + plane * elements, w, position, [&](float value, I at, bool inside) {
            bool better = inside && (value > best || (value != value && best == best));
            best = better ? value : best;
            from = better ? at : from;
        });
        y[i] = best;
        if (indices) {
            u64 within = from;
            if (column_major) {
                Place<I> p = place(from, w.inputs);
                within = ((u64)p.axis[2] * w.input[1] + p.axis[1]) * w.input[0] + p.axis[0];
            }
            indices[i] = (i64)(plane * elements + within);
        }
    }
}

template <class I>
__device__ __forceinline__ void average_pool(const float* x, float* y, const Window& w, u64 planes, u32 with_pads, const u64 (&end)[3]) {
    u64 elements = volume(w.input);
    for (I i = first<I>(); i < (I)(planes * volume(w.output)); i += count<I>()) {
        I plane = i;
        Place<I> position = place(plane, w.outputs);
        float sum = 0.0f;
        u32 taps = 0;
        each_tap(x + plane * elements, w, position, [&](float value, I, bool inside) {
            sum = inside ? sum + value : sum;
            taps += inside;
        });
        u64 divisor = taps;
        if (with_pads) {
            divisor = 1;
#pragma unroll
            for (u32 axis = 0; axis < 3; ++axis) {
                typedef typename Signed<I>::Type S;
                S p = start<I>(w, position.axis[axis], axis), limit = (S)end[axis];
                I covered = (I)w.kernel[axis];
                // Only the last windows reach beyond the padding.
                if (p + (S)(covered - 1) * (S)w.dilations[axis] >= limit) {
                    covered = 0;
                    for (I t = 0; t < (I)w.kernel[axis]; ++t, p += (S)w.dilations[axis]) covered += p < limit;
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
        data_from_columns_##name(const float* in, const float* bias, float* x, Window w, u64 batch, u64 channels,             \
                                 Divisor by_channels) {                                                                       \
        data_from_columns<I>(in, bias, x, w, batch, channels, by_channels);                                                   \
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
