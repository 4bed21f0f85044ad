// Moving elements: strided copies, gathers and scatters. Elements are moved as bits of 1, 2, 4, 8 or, where the host found that
// neighbours move together, 16 bytes. I is the type that elements are counted in.
#include "division.cuh"

const u32 RANK = 8;

// Items that a thread takes at a time, a block's width apart.
const u32 ITEMS = 4;

// Elements of the same shape in two memories; strides are in elements.
struct Move {
    u32 rank, padding;
    u64 elements;
    Divisor shape[RANK];
    i64 from[RANK], to[RANK];
};

// The same where the memories have neighbours along different axes: `columns` lie side by side in the one that is read, `rows`
// in the one that is written. `rest` are the other axes.
struct Tiles {
    u32 rank, padding;
    u64 tiles, columns, rows;
    // How far a row is from the next where it is read, a column where it is written.
    i64 row, column;
    Divisor across_columns, across_rows;
    Divisor rest[RANK];
    i64 from[RANK], to[RANK];
};

// A dense tensor of `shape` whose elements have `strides` in another memory.
struct Layout {
    u32 rank, padding;
    u64 elements;
    u64 shape[RANK];
    i64 strides[RANK];
};

// An index counted from the end where it is negative; `extent` where it is out of range.
__device__ __forceinline__ u64 settled(i64 index, u64 extent) {
    if (index < 0) index += (i64)extent;
    return index < 0 || index >= (i64)extent ? extent : (u64)index;
}

// A coordinate's way along an axis. In 32 bits the host has made sure that strides fit.
__device__ __forceinline__ i64 way(u32 coordinate, i64 stride) { return (i64)(int)coordinate * (int)stride; }
__device__ __forceinline__ i64 way(u64 coordinate, i64 stride) { return (i64)coordinate * stride; }

template <class T, class I> __device__ __forceinline__ void copy(const T* from, T* to, const Move& move) {
    I elements = (I)move.elements;
    for (I start = (I)blockIdx.x * (ITEMS * 256) + threadIdx.x; start < elements; start += (I)gridDim.x * (ITEMS * 256)) {
        I rest[ITEMS];
        i64 source[ITEMS], target[ITEMS];
#pragma unroll
        for (u32 k = 0; k < ITEMS; ++k) rest[k] = start + k * 256, source[k] = 0, target[k] = 0;
#pragma unroll 1
        for (u32 axis = move.rank; axis-- > 1;) {
            const Divisor extent = move.shape[axis];
            i64 step = move.from[axis], stride = move.to[axis];
#pragma unroll
            for (u32 k = 0; k < ITEMS; ++k) {
                I at = split(rest[k], extent);
                source[k] += way(at, step), target[k] += way(at, stride);
            }
        }
        T values[ITEMS];
#pragma unroll
        for (u32 k = 0; k < ITEMS; ++k)
            if (start + k * 256 < elements) values[k] = from[source[k] + way(rest[k], move.from[0])];
#pragma unroll
        for (u32 k = 0; k < ITEMS; ++k)
            if (start + k * 256 < elements) to[target[k] + way(rest[k], move.to[0])] = values[k];
    }
}

// A tile of 32 columns and 32 rows at a time goes through shared memory, so that both sides move neighbours.
template <class T> __device__ __forceinline__ void transpose(const T* from, T* to, const Tiles& t) {
    __shared__ T tile[32][33];
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (u32 number = blockIdx.x; number < (u32)t.tiles; number += gridDim.x) {
        u32 rest = number;
        u64 column = (u64)split(rest, t.across_columns) * 32, row = (u64)split(rest, t.across_rows) * 32;
        const T* source = from + column + (i64)row * t.row;
        T* target = to + row + (i64)column * t.column;
        for (u32 axis = t.rank; axis-- > 0;) {
            i64 at = (i64)split(rest, t.rest[axis]);
            source += at * t.from[axis];
            target += at * t.to[axis];
        }
        u32 columns = (u32)min(t.columns - column, 32ull), rows = (u32)min(t.rows - row, 32ull);
#pragma unroll
        for (u32 k = 0; k < 32; k += 8)
            if (lane < columns && warp + k < rows) tile[warp + k][lane] = source[lane + (i64)(warp + k) * t.row];
        __syncthreads();
#pragma unroll
        for (u32 k = 0; k < 32; k += 8)
            if (lane < rows && warp + k < columns) target[lane + (i64)(warp + k) * t.column] = tile[lane][warp + k];
        // The next tile overwrites this one.
        __syncthreads();
    }
}

// What an axis of `extent` splits x into, [outer, extent, inner], and how many are picked of it.
struct Picks {
    u64 items, extent;
    Divisor inner, picks;
};

// y[o, k, i] = x[o, indices[k], i] for x[outer, extent, inner], or x[o, indices[o, k, i], i] for EACH; *bad counts indices out
// of range, whose results are zero.
template <class T, class I, bool EACH>
__device__ __forceinline__ void gather(const T* x, const i64* indices, T* y, u32* bad, const Picks& p) {
    I items = (I)p.items;
    for (I start = (I)blockIdx.x * (ITEMS * 256) + threadIdx.x; start < items; start += (I)gridDim.x * (ITEMS * 256)) {
        u64 from[ITEMS];
        bool reads[ITEMS];
#pragma unroll
        for (u32 k = 0; k < ITEMS; ++k) {
            I i = start + k * 256, o = i;
            reads[k] = false;
            if (i >= items) continue;
            I at = split(o, p.inner), pick = split(o, p.picks);
            u64 index = settled(indices[EACH ? i : pick], p.extent);
            reads[k] = index < p.extent;
            from[k] = (o * p.extent + index) * p.inner.value + at;
            if (!reads[k] && (EACH || (at == 0 && o == 0))) atomicAdd(bad, 1u);
        }
        T values[ITEMS];
#pragma unroll
        for (u32 k = 0; k < ITEMS; ++k) values[k] = reads[k] ? x[from[k]] : T();
#pragma unroll
        for (u32 k = 0; k < ITEMS; ++k)
            if (start + k * 256 < items) y[start + k * 256] = values[k];
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

#define COUNTED(bits, T, I, name)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) copy_b##bits##_##name(const T* from, T* to, Move move) {                \
        copy<T, I>(from, to, move);                                                                                           \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        gather_b##bits##_##name(const T* x, const i64* indices, T* y, u32* bad, Picks picks) {                                \
        gather<T, I, false>(x, indices, y, bad, picks);                                                                       \
    }

#define BY_ELEMENT(bits, T, I, name)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        gather_elements_b##bits##_##name(const T* x, const i64* indices, T* y, u32* bad, Picks picks) {                       \
        gather<T, I, true>(x, indices, y, bad, picks);                                                                        \
    }

#define MOVES(bits, T)                                                                                                        \
    COUNTED(bits, T, u32, u32)                                                                                                \
    COUNTED(bits, T, u64, u64)                                                                                                \
    BY_ELEMENT(bits, T, u32, u32)                                                                                             \
    BY_ELEMENT(bits, T, u64, u64)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) transpose_b##bits(const T* from, T* to, Tiles tiles) {                  \
        transpose<T>(from, to, tiles);                                                                                        \
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
COUNTED(128, uint4, u32, u32)
COUNTED(128, uint4, u64, u64)

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
