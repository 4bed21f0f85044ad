// Rows that a team of threads has: a warp each where they are short, a block each where they are long.
#pragma once
#include "common.cuh"

const u32 THREADS = 256, WARPS = THREADS / 32;
// Elements that a thread keeps in registers, so that a row is read once: few where rows are short enough.
const u32 HELD = 16, FEW = 4;

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

// A row. Where it has slots, each thread keeps its elements; a row of any length has none and is read when it is needed.
template <class Team, u32 SLOTS> struct Row {
    const float* x;
    float held[SLOTS > 0 ? SLOTS : 1];

    __device__ __forceinline__ Row(const float* x, u64 columns) : x(x) {
#pragma unroll
        for (u32 k = 0; k < SLOTS; ++k) {
            u32 j = k * Team::SIZE + Team::lane();
            if (j < columns) held[k] = x[j];
        }
    }
};

// Elements of rows without slots that a thread reads before it uses the first.
const u32 AHEAD = 4;

// Calls f(j, x) for the elements of a row that are this thread's.
template <class Team, u32 SLOTS, class F>
__device__ __forceinline__ void each(const Row<Team, SLOTS>& row, u64 columns, F f) {
    if constexpr (SLOTS > 0) {
#pragma unroll
        for (u32 k = 0; k < SLOTS; ++k) {
            u32 j = k * Team::SIZE + Team::lane();
            if (j < columns) f((u64)j, row.held[k]);
        }
    } else {
        u64 j = Team::lane();
        for (; j + (AHEAD - 1) * Team::SIZE < columns; j += AHEAD * Team::SIZE) {
            float x[AHEAD];
#pragma unroll
            for (u32 k = 0; k < AHEAD; ++k) x[k] = row.x[j + k * Team::SIZE];
#pragma unroll
            for (u32 k = 0; k < AHEAD; ++k) f(j + k * Team::SIZE, x[k]);
        }
        for (; j < columns; j += Team::SIZE) f(j, row.x[j]);
    }
}

// Calls f(j, x, y) for the elements of two rows that are this thread's.
template <class Team, class F>
__device__ __forceinline__ void each(u64 columns, const float* x, const float* y, F f) {
    u64 j = Team::lane();
    for (; j + (AHEAD - 1) * Team::SIZE < columns; j += AHEAD * Team::SIZE) {
        float of_x[AHEAD], of_y[AHEAD];
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k) of_x[k] = x[j + k * Team::SIZE];
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k) of_y[k] = y[j + k * Team::SIZE];
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k) f(j + k * Team::SIZE, of_x[k], of_y[k]);
    }
    for (; j < columns; j += Team::SIZE) f(j, x[j], y[j]);
}

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
        each(row, columns, [&](u64, float x) { result.largest = fmaxf(result.largest, x); });
        result.largest = Team::largest(result.largest);
        each(row, columns, [&](u64, float x) { sum[0] += expf(x - result.largest); });
    } else {
        each(row, columns, [&](u64, float x) { result.add(x); });
        float largest = Team::largest(result.largest);
        sum[0] = is_finite(largest) ? result.rebased(largest) : __uint_as_float(0x7fffffff);
        result.largest = largest;
    }
    Team::sum(sum);
    result.sum = sum[0];
    return result;
}
