// Softmax and normalisations.
#include "rows.cuh"

// Where the elements of a result go: to float32, to 16 bits, or to both. A null pointer is not wanted.
struct Output {
    float* wide;
    unsigned short* narrow;
    u32 is_bfloat;

    __device__ __forceinline__ void set(u64 at, float x) const {
        if (wide) global(wide)[at] = x;
        if (narrow) global(narrow)[at] = is_bfloat ? from_float<bfloat16>(x).bits : from_float<half>(x).bits;
    }
};

template <class Team, u32 SLOTS>
__device__ __forceinline__ void softmax(u64 rows, u64 columns, const float* x, Output y, u32 log) {
    for (u64 row = Team::first(); row < rows; row += Team::count()) {
        Row<Team, SLOTS> values(x + row * columns, columns);
        u64 out = row * columns;
        Exponentials e = exponentials(values, columns);
        if (log) {
            float shift = logf(e.sum);
            each(values, columns, [&](u64 j, float x) { y.set(out + j, x - e.largest - shift); });
        } else {
            float scale = 1.0f / e.sum;
            each(values, columns, [&](u64 j, float x) { y.set(out + j, expf(x - e.largest) * scale); });
        }
    }
}

// dx = y · (dy − Σ y · dy), or dy − exp(y) · Σ dy of the logarithm.
template <class Team>
__device__ __forceinline__ void softmax_gradient(u64 rows, u64 columns, const float* y, const float* dy, Output dx, u32 log) {
    for (u64 row = Team::first(); row < rows; row += Team::count()) {
        const float *of = y + row * columns, *from = dy + row * columns;
        u64 out = row * columns;
        float sum[1] = {0.0f};
        each<Team>(columns, of, from, [&](u64, float y, float dy) { sum[0] += log ? dy : y * dy; });
        Team::sum(sum);
        each<Team>(columns, of, from, [&](u64 j, float y, float dy) {
            dx.set(out + j, log ? dy - expf(y) * sum[0] : y * (dy - sum[0]));
        });
    }
}

// Factor and shift of each element of a row: one an element, or one for `positions` neighbours of each channel.
struct EachColumn {
    const float *scale, *bias;
    __device__ __forceinline__ u64 start(u64) const { return 0; }
    __device__ __forceinline__ u64 at(u64, u64 j) const { return j; }
};

struct EachChannel {
    const float *scale, *bias;
    // `channels` are those of a group.
    u64 groups, channels, positions;
    __device__ __forceinline__ u64 start(u64 row) const { return (row - quotient(row, groups) * groups) * channels; }
    __device__ __forceinline__ u64 at(u64 start, u64 j) const { return start + quotient(j, positions); }
};

// y = (x − mean) / √(variance + ε) · scale + bias of every row.
template <class Team, u32 SLOTS, class Affine>
__device__ __forceinline__ void normalise(u64 rows, u64 columns, float epsilon, const float* x, Affine affine, Output y,
                                          float* means, float* inverses) {
    for (u64 row = Team::first(); row < rows; row += Team::count()) {
        Row<Team, SLOTS> values(x + row * columns, columns);
        u64 out = row * columns;
        float sum[1] = {0.0f}, sums[2] = {0.0f, 0.0f};
        each(values, columns, [&](u64, float x) { sum[0] += x; });
        Team::sum(sum);
        float centre = sum[0] / (float)columns;
        each(values, columns, [&](u64, float x) {
            float apart = x - centre;
            sums[0] += apart;
            sums[1] += apart * apart;
        });
        Team::sum(sums);
        // What the rounding of the mean left over is taken out again.
        float rest = sums[0] / (float)columns, mean = centre + rest, variance = sums[1] / (float)columns - rest * rest;
        // A NaN passes.
        float inverse = 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + epsilon);
        u64 start = affine.start(row);
        each(values, columns, [&](u64 j, float x) {
            u64 at = affine.at(start, j);
            float bias = affine.bias ? affine.bias[at] : 0.0f;
            y.set(out + j, (x - mean) * inverse * affine.scale[at] + bias);
        });
        if (Team::lane() == 0) {
            if (means) means[row] = mean;
            if (inverses) inverses[row] = inverse;
        }
    }
}

// With x̂ = (x − mean) · inverse and g = dy · scale: dx = inverse · (g − mean of g − x̂ · mean of g · x̂).
template <class Team, class Affine>
__device__ __forceinline__ void normalise_gradient(u64 rows, u64 columns, const float* dy, const float* x, Affine affine,
                                                   const float* means, const float* inverses, Output dx) {
    for (u64 row = Team::first(); row < rows; row += Team::count()) {
        const float *from = dy + row * columns, *of = x + row * columns;
        u64 out = row * columns, start = affine.start(row);
        float mean = means[row], inverse = inverses[row], sums[2] = {0.0f, 0.0f};
        each<Team>(columns, of, from, [&](u64 j, float x, float dy) {
            float g = dy * affine.scale[affine.at(start, j)];
            sums[0] += g;
            sums[1] += g * ((x - mean) * inverse);
        });
        Team::sum(sums);
        float along = sums[0] / (float)columns, across = sums[1] / (float)columns;
        each<Team>(columns, of, from, [&](u64 j, float x, float dy) {
            float g = dy * affine.scale[affine.at(start, j)];
            dx.set(out + j, inverse * (g - along - (x - mean) * inverse * across));
        });
    }
}

#define ROWS(suffix, Team, SLOTS)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 3)                                                                      \
        softmax_##suffix(u64 rows, u64 columns, const float* x, Output y, u32 log) {                                          \
        softmax<Team, SLOTS>(rows, columns, x, y, log);                                                                       \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, 3)                                                                      \
        layer_norm_##suffix(u64 rows, u64 columns, float epsilon, const float* x, const float* scale, const float* bias,      \
                            Output y, float* mean, float* inverse) {                                                          \
        normalise<Team, SLOTS>(rows, columns, epsilon, x, EachColumn{scale, bias}, y, mean, inverse);                         \
    }

ROWS(warp_few, Warp, FEW)
ROWS(warp, Warp, HELD)
ROWS(block_few, Block, FEW)
ROWS(block, Block, HELD)
ROWS(long, Block, 0)

#define GROUPS(suffix, Team, SLOTS)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256, 3)                                                                      \
        group_norm_##suffix(u64 batch, u64 groups, u64 channels, u64 positions, float epsilon, const float* x,                \
                            const float* scale, const float* bias, float* y, float* mean, float* inverse) {                   \
        EachChannel affine = {scale, bias, groups, channels, positions};                                                      \
        normalise<Team, SLOTS>(batch * groups, channels * positions, epsilon, x, affine, Output{y, nullptr, 0}, mean, inverse);\
    }

GROUPS(warp, Warp, HELD)
GROUPS(block, Block, HELD)
GROUPS(long, Block, 0)

#define ROW_GRADIENTS(suffix, Team)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        softmax_gradient_##suffix(u64 rows, u64 columns, const float* y, const float* dy, Output dx, u32 log) {               \
        softmax_gradient<Team>(rows, columns, y, dy, dx, log);                                                                \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        layer_norm_gradient_##suffix(u64 rows, u64 columns, const float* dy, const float* x, const float* scale,              \
                                     const float* mean, const float* inverse, Output dx) {                                    \
        normalise_gradient<Team>(rows, columns, dy, x, EachColumn{scale, nullptr}, mean, inverse, dx);                        \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        group_norm_gradient_##suffix(u64 batch, u64 groups, u64 channels, u64 positions, const float* dy, const float* x,     \
                                     const float* scale, const float* mean, const float* inverse, float* dx) {                \
        EachChannel affine = {scale, nullptr, groups, channels, positions};                                                   \
        normalise_gradient<Team>(batch * groups, channels * positions, dy, x, affine, mean, inverse, Output{dx, nullptr, 0}); \
    }

ROW_GRADIENTS(warp, Warp)
ROW_GRADIENTS(block, Block)

// Slab s of the rows: partial[s, 0, j] = Σ dy · x̂ and partial[s, 1, j] = Σ dy. A block has 32 columns, its warps take turns at
// the rows of the slab.
extern "C" __global__ void __launch_bounds__(256)
    layer_norm_columns(u64 rows, u64 columns, u64 slab, const float* dy, const float* x, const float* mean, const float* inverse,
                       float* partial) {
    __shared__ float sums[2][WARPS][32];
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u64 start = blockIdx.y * slab, end = start + slab < rows ? start + slab : rows;
    for (u64 tile = blockIdx.x; tile * 32 < columns; tile += gridDim.x) {
        u64 j = tile * 32 + lane;
        float scale = 0.0f, bias = 0.0f;
        if (j < columns)
            for (u64 row = start + warp; row < end; row += WARPS) {
                float g = dy[row * columns + j];
                scale += g * ((x[row * columns + j] - mean[row]) * inverse[row]);
                bias += g;
            }
        __syncthreads();
        sums[0][warp][lane] = scale;
        sums[1][warp][lane] = bias;
        __syncthreads();
        if (warp < 2 && j < columns) {
            float total = 0.0f;
#pragma unroll
            for (u32 w = 0; w < WARPS; ++w) total += sums[warp][w][lane];
            partial[(blockIdx.y * 2 + warp) * columns + j] = total;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
    layer_norm_slabs(u64 columns, u32 slabs, const float* partial, float* dscale, float* dbias) {
    for (u64 j = first(); j < columns; j += count()) {
        float scale = 0.0f, bias = 0.0f;
        for (u64 s = 0; s < slabs; ++s) {
            scale += partial[s * 2 * columns + j];
            bias += partial[(s * 2 + 1) * columns + j];
        }
        dscale[j] = scale;
        if (dbias) dbias[j] = bias;
    }
}
