// What every kernel shares: storage types, vector access, reductions in a fixed order.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// A thread's first item of a loop over more items than threads, and how far it is to its next.
__device__ __forceinline__ u64 first() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u64 count() { return (u64)gridDim.x * blockDim.x; }

// a / b. The compiler calls a function for 64 bits, and spills registers around the call.
__device__ __forceinline__ u64 quotient(u64 a, u64 b) {
    if ((a | b) >> 32 == 0) return (u32)a / (u32)b;
    u64 result = 0, rest = 0;
#pragma unroll 1
    for (u32 bit = 64; bit-- > 0;) {
        rest = rest << 1 | (a >> bit & 1);
        if (rest >= b) rest -= b, result |= 1ull << bit;
    }
    return result;
}

// A pointer read from memory is generic to the compiler until it is told better.
template <class T> __device__ __forceinline__ T* global(T* pointer) {
    __builtin_assume(__isGlobal(pointer));
    return pointer;
}

struct half { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(half x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
// The conversions of bfloat16 need sm_80; its bits are float32's upper half everywhere.
__device__ __forceinline__ float to_float(bfloat16 x) { return __uint_as_float((u32)x.bits << 16); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ half from_float<half>(float x) {
    half y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
    u32 bits = __float_as_uint(x);
    u32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return {(unsigned short)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : rounded)};
}

// Four neighbours; `aligned` says that they may be moved in one access.
struct Four { float x[4]; };

template <class T> struct alignas(4 * sizeof(T)) Packed { T x[4]; };

template <class T> __device__ __forceinline__ Four load4(const T* pointer, u32 count, bool aligned) {
    Four result;
    if (aligned && count >= 4) {
        Packed<T> packed = *reinterpret_cast<const Packed<T>*>(pointer);
#pragma unroll
        for (u32 k = 0; k < 4; ++k) result.x[k] = to_float(packed.x[k]);
    } else {
#pragma unroll
        for (u32 k = 0; k < 4; ++k) result.x[k] = k < count ? to_float(pointer[k]) : 0.0f;
    }
    return result;
}

template <class T> __device__ __forceinline__ void store4(T* pointer, Four value, u32 count, bool aligned) {
    if (aligned && count >= 4) {
        Packed<T> packed;
#pragma unroll
        for (u32 k = 0; k < 4; ++k) packed.x[k] = from_float<T>(value.x[k]);
        *reinterpret_cast<Packed<T>*>(pointer) = packed;
    } else {
#pragma unroll
        for (u32 k = 0; k < 4; ++k)
            if (k < count) pointer[k] = from_float<T>(value.x[k]);
    }
}

// Sums N values over a block of 32 · WARPS threads; every thread gets the totals. Each sum is a fixed tree.
template <u32 N, u32 WARPS, class T> __device__ __forceinline__ void block_sum(T (&values)[N]) {
    __shared__ T partial[N][WARPS];
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (u32 i = 0; i < N; ++i)
#pragma unroll
        for (u32 offset = 16; offset > 0; offset >>= 1) values[i] += __shfl_xor_sync(0xffffffffu, values[i], offset);
    // A sum before this one may still be read.
    __syncthreads();
    if (lane == 0)
#pragma unroll
        for (u32 i = 0; i < N; ++i) partial[i][warp] = values[i];
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < N; ++i) {
        T total = partial[i][0];
#pragma unroll
        for (u32 w = 1; w < WARPS; ++w) total += partial[i][w];
        values[i] = total;
    }
}

__device__ __forceinline__ float clip(float x, float low, float high) {
    // A NaN passes.
    x = x < low ? low : x;
    return x > high ? high : x;
}

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) < __uint_as_float(0x7f800000); }
