// Where along an axis the largest or smallest element is.
#include "common.cuh"

template <class T> __device__ __forceinline__ bool is_nan(T x) { return x != x; }

// y[outer][inner] for x[outer][extent][inner]. A NaN beats everything, as in NumPy.
template <class T>
__device__ __forceinline__ void arg(const T* x, i64* y, u64 outer, u64 extent, u64 inner, u32 smallest, u32 last) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < outer * inner; i += (u64)gridDim.x * blockDim.x) {
        const T* line = x + i / inner * extent * inner + i % inner;
        T best = line[0];
        u64 at = 0;
        for (u64 k = 1; k < extent; ++k) {
            T value = line[k * inner];
            bool better = smallest ? value < best : value > best;
            bool equal = value == best || (is_nan(value) && is_nan(best));
            if ((better && !is_nan(best)) || (is_nan(value) && !is_nan(best)) || (equal && last)) best = value, at = k;
        }
        y[i] = (i64)at;
    }
}

#define ARG(suffix, T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        arg_##suffix(const T* x, i64* y, u64 outer, u64 extent, u64 inner, u32 smallest, u32 last) {                          \
        arg<T>(x, y, outer, extent, inner, smallest, last);                                                                   \
    }

ARG(f32, float)
ARG(i32, int)
ARG(i64, i64)
