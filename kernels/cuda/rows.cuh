// Rows that a team of threads has: a warp each where they are short, a block each where they are long.
#pragma once
#include "common.cuh"

const u32 THREADS = 256, WARPS = THREADS / 32;
// Elements that a thread keeps in registers, so that a row is read once.
const u32 HELD = 16;

struct Warp {
    static const u32 SIZE = 32;
    static __device__ __forceinline__ u32 lane() { return threadIdx.x & 31; }
    static __device__ __forceinline__ u64 first() { return (u64)blockIdx.x * WARPS + (threadIdx.x >> 5); }
    static __device__ __forceinline__ u64 count() { return (u64)gridDim.x * WARPS; }
    template <u32 N> static __device__ __forceinline__ void sum(float (&values)[N]) {
#pragma unroll
        for (u32 i = 0; i < N; ++i)
#pragma unroll
            for (u32 offset = 16; offset > 0; offset >>= 1)
                values[i] += __shfl_xor_sync(0xffffffffu, values[i], offset);
    }
    // The largest; a NaN loses.
    static __device__ __forceinline__ float largest(float value) {
#pragma unroll
        for (u32 offset = 16; offset > 0; offset >>= 1) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
        return value;
    }
};

struct Block {
    static const u32 SIZE = THREADS;
    static __device__ __forceinline__ u32 lane() { return threadIdx.x; }
    static __device__ __forceinline__ u64 first() { return blockIdx.x; }
    static __device__ __forceinline__ u64 count() { return gridDim.x; }
    template <u32 N> static __device__ __forceinline__ void sum(float (&values)[N]) { block_sum<N, WARPS>(values); }
    static __device__ __forceinline__ float largest(float value) {
        __shared__ float partial[WARPS];
        value = Warp::largest(value);
        // What was found before may still be read.
        __syncthreads();
        if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = value;
        __syncthreads();
        value = partial[0];
#pragma unroll
        for (u32 w = 1; w < WARPS; ++w) value = fmaxf(value, partial[w]);
        return value;
    }
};

// Calls f(k, j) for the elements j of a row that are this thread's, k counting them if they are `SLOTS` at most. A row of any
// length has no slots: k stays 0.
template <class Team, u32 SLOTS, class F> __device__ __forceinline__ void each(u64 columns, F f) {
    if constexpr (SLOTS > 0) {
#pragma unroll
        for (u32 k = 0; k < SLOTS; ++k) {
            u32 j = k * Team::SIZE + Team::lane();
            if (j < columns) f(k, (u64)j);
        }
    } else {
        for (u64 j = Team::lane(); j < columns; j += Team::SIZE) f(0u, j);
    }
}

// A row, from registers or from memory.
template <class Team, u32 SLOTS> struct Row {
    const float* x;
    float held[SLOTS > 0 ? SLOTS : 1];

    __device__ __forceinline__ Row(const float* x, u64 columns) : x(x) {
        if constexpr (SLOTS > 0) each<Team, SLOTS>(columns, [&](u32 k, u64 j) { held[k] = x[j]; });
    }
    __device__ __forceinline__ float get(u32 k, u64 j) const {
        if constexpr (SLOTS > 0) return held[k];
        else return x[j];
    }
};

// The largest of some numbers and Σ exp(x − largest), one number at a time.
struct Exponentials {
    float largest, sum;

    __device__ __forceinline__ void add(float x) {
        if (x > largest) {
            sum = sum * expf(largest - x) + 1.0f;
            largest = x;
        } else {
            // Both may be −∞.
            sum += x == largest ? 1.0f : expf(x - largest);
        }
    }
    // What the sum becomes for a largest number that others found.
    __device__ __forceinline__ float rebased(float to) const { return largest == to ? sum : sum * expf(largest - to); }
};

// The largest of a row and Σ exp(x − largest); the sum is NaN where an x is NaN or the largest is infinite.
template <class Team, u32 SLOTS>
__device__ __forceinline__ Exponentials exponentials(const Row<Team, SLOTS>& row, u64 columns) {
    Exponentials result = {-__uint_as_float(0x7f800000), 0.0f};
    float sum[1] = {0.0f};
    if constexpr (SLOTS > 0) {
        each<Team, SLOTS>(columns, [&](u32 k, u64 j) { result.largest = fmaxf(result.largest, row.get(k, j)); });
        result.largest = Team::largest(result.largest);
        each<Team, SLOTS>(columns, [&](u32 k, u64 j) { sum[0] += expf(row.get(k, j) - result.largest); });
    } else {
        each<Team, SLOTS>(columns, [&](u32 k, u64 j) { result.add(row.get(k, j)); });
        float largest = Team::largest(result.largest);
        sum[0] = is_finite(largest) ? result.rebased(largest) : __uint_as_float(0x7fffffff);
        result.largest = largest;
    }
    Team::sum(sum);
    result.sum = sum[0];
    return result;
}
