// Moving elements: strided copies, gathers and scatters. Elements are moved as bits of 1, 2, 4 or 8 bytes.
#include "common.cuh"

const u32 RANK = 8;

// A dense tensor of `shape`, read or written through `strides` (in elements) of another memory.
struct Layout {
    u32 rank, padding;
    u64 elements;
    u64 shape[RANK];
    i64 strides[RANK];
};

// Where element `index` of the dense tensor lies in the strided memory.
__device__ __forceinline__ i64 strided(const Layout& layout, u64 index) {
    i64 offset = 0;
    for (u32 axis = layout.rank; axis-- > 0;) {
        u64 extent = layout.shape[axis];
        offset += (i64)(index % extent) * layout.strides[axis];
        index /= extent;
    }
    return offset;
}

// An index counted from the end where it is negative; `extent` where it is out of range.
__device__ __forceinline__ u64 settled(i64 index, u64 extent) {
    if (index < 0) index += (i64)extent;
    return index < 0 || index >= (i64)extent ? extent : (u64)index;
}

template <class T> __device__ __forceinline__ void copy(const T* from, T* to, const Layout& layout) {
    for (u64 i = first(); i < layout.elements; i += count()) to[i] = from[strided(layout, i)];
}

template <class T> __device__ __forceinline__ void scatter_copy(const T* from, T* to, const Layout& layout) {
    for (u64 i = first(); i < layout.elements; i += count()) to[strided(layout, i)] = from[i];
}

// y[o, k, i] = x[o, indices[k], i] for x[outer, extent, inner]; *bad counts indices out of range, whose results are zero.
template <class T>
__device__ __forceinline__ void gather(const T* x, const i64* indices, T* y, u32* bad, u64 outer, u64 extent, u64 inner, u64 picks) {
    for (u64 i = first(); i < outer * picks * inner; i += count()) {
        u64 at = i % inner, pick = i / inner % picks, o = i / inner / picks;
        u64 index = settled(indices[pick], extent);
        y[i] = index < extent ? x[(o * extent + index) * inner + at] : T();
        if (index == extent) atomicAdd(bad, 1u);
    }
}

// y[o, k, i] = x[o, indices[o, k, i], i].
template <class T>
__device__ __forceinline__ void gather_elements(const T* x, const i64* indices, T* y, u32* bad, u64 outer, u64 extent, u64 inner, u64 picks) {
    for (u64 i = first(); i < outer * picks * inner; i += count()) {
        u64 at = i % inner, o = i / inner / picks;
        u64 index = settled(indices[i], extent);
        y[i] = index < extent ? x[(o * extent + index) * inner + at] : T();
        if (index == extent) atomicAdd(bad, 1u);
    }
}

// y[o, indices[o, k, i], i] = updates[o, k, i], the last k winning, or their sum added in order of k. One thread has a line of
// k, so that nothing depends on the order of threads. y holds the data already.
template <class T, bool ADD>
__device__ __forceinline__ void scatter_elements(T* y, const i64* indices, const T* updates, u32* bad, u64 outer, u64 extent, u64 inner, u64 picks) {
    for (u64 line = first(); line < outer * inner; line += count()) {
        u64 at = line % inner, o = line / inner;
        for (u64 k = 0; k < picks; ++k) {
            u64 from = (o * picks + k) * inner + at;
            u64 index = settled(indices[from], extent);
            if (index == extent) {
                atomicAdd(bad, 1u);
                continue;
            }
            T& target = y[(o * extent + index) * inner + at];
            if constexpr (ADD) target = from_float<T>(to_float(target) + to_float(updates[from]));
            else target = updates[from];
        }
    }
}

// y[rows[k], i] += (or =) updates[k, i] for y[extent, inner], in order of k. The block of the first k that names a row does
// that row: it lists the others 256 at a time, and each thread takes columns.
template <class T, bool ADD>
__device__ __forceinline__ void scatter_rows(T* y, const i64* rows, const T* updates, u32* bad, u64 extent, u64 inner, u64 picks) {
    __shared__ u32 counts[8], listed[256];
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (u64 k = blockIdx.x; k < picks; k += gridDim.x) {
        u64 row = settled(rows[k], extent);
        if (row == extent) {
            if (threadIdx.x == 0) atomicAdd(bad, 1u);
            continue;
        }
        int is_named = 0;
        for (u64 j = threadIdx.x; j < k && !is_named; j += 256) is_named = settled(rows[j], extent) == row;
        if (__syncthreads_or(is_named)) continue;
        for (u64 start = k; start < picks; start += 256) {
            u64 j = start + threadIdx.x;
            bool hit = j < picks && settled(rows[j], extent) == row;
            u32 hits = __ballot_sync(0xffffffffu, hit);
            // The list before this one is used up.
            __syncthreads();
            if (lane == 0) counts[warp] = __popc(hits);
            __syncthreads();
            u32 before = 0, total = 0;
#pragma unroll
            for (u32 w = 0; w < 8; ++w) {
                before += w < warp ? counts[w] : 0;
                total += counts[w];
            }
            if (hit) listed[before + __popc(hits & ((1u << lane) - 1))] = threadIdx.x;
            __syncthreads();
            if (total == 0) continue;
            for (u64 i = threadIdx.x; i < inner; i += 256) {
                T value = y[row * inner + i];
                for (u32 n = 0; n < total; ++n) {
                    T update = updates[(start + listed[n]) * inner + i];
                    if constexpr (ADD) value = from_float<T>(to_float(value) + to_float(update));
                    else value = update;
                }
                y[row * inner + i] = value;
            }
        }
    }
}

// rows[k] = Σ indices[k, j] · weights[j]: tuples of indices as rows of the leading axes joined. Out of range gives `extent`.
extern "C" __global__ void __launch_bounds__(256)
    join_indices(const i64* indices, i64* rows, Layout leading, u64 picks) {
    u64 extent = 1;
    for (u32 j = 0; j < leading.rank; ++j) extent *= leading.shape[j];
    for (u64 k = first(); k < picks; k += count()) {
        u64 row = 0;
        for (u32 j = 0; j < leading.rank; ++j) {
            u64 index = settled(indices[k * leading.rank + j], leading.shape[j]);
            row = index == leading.shape[j] || row == extent ? extent : row + index * (u64)leading.strides[j];
        }
        rows[k] = (i64)row;
    }
}

#define MOVES(bits, T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) copy_b##bits(const T* from, T* to, Layout layout) {                     \
        copy<T>(from, to, layout);                                                                                            \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) scatter_copy_b##bits(const T* from, T* to, Layout layout) {             \
        scatter_copy<T>(from, to, layout);                                                                                    \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        gather_b##bits(const T* x, const i64* indices, T* y, u32* bad, u64 outer, u64 extent, u64 inner, u64 picks) {         \
        gather<T>(x, indices, y, bad, outer, extent, inner, picks);                                                           \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        gather_elements_b##bits(const T* x, const i64* indices, T* y, u32* bad, u64 outer, u64 extent, u64 inner, u64 picks) { \
        gather_elements<T>(x, indices, y, bad, outer, extent, inner, picks);                                                  \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) scatter_elements_b##bits(T* y, const i64* indices, const T* updates,    \
                                                                               u32* bad, u64 outer, u64 extent, u64 inner,    \
                                                                               u64 picks) {                                   \
        scatter_elements<T, false>(y, indices, updates, bad, outer, extent, inner, picks);                                    \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        scatter_rows_b##bits(T* y, const i64* rows, const T* updates, u32* bad, u64 extent, u64 inner, u64 picks) {           \
        scatter_rows<T, false>(y, rows, updates, bad, extent, inner, picks);                                                  \
    }

MOVES(8, unsigned char)
MOVES(16, unsigned short)
MOVES(32, u32)
MOVES(64, u64)

#define SUMS_OF(suffix, T)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) scatter_elements_add_##suffix(T* y, const i64* indices,                 \
                                                                                    const T* updates, u32* bad, u64 outer,    \
                                                                                    u64 extent, u64 inner, u64 picks) {       \
        scatter_elements<T, true>(y, indices, updates, bad, outer, extent, inner, picks);                                     \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        scatter_rows_add_##suffix(T* y, const i64* rows, const T* updates, u32* bad, u64 extent, u64 inner, u64 picks) {      \
        scatter_rows<T, true>(y, rows, updates, bad, extent, inner, picks);                                                   \
    }

SUMS_OF(f32, float)
SUMS_OF(f16, half)
SUMS_OF(bf16, bfloat16)
