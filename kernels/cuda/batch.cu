// What a training loop on the device needs around a step: which samples come next, and how well they were classified.
#include "common.cuh"

// indices[k] = order[*cursor + k], and the cursor moves on. One block.
extern "C" __global__ void __launch_bounds__(256) take_batch(const i64* order, u64* cursor, i64* indices, u64 batch) {
    u64 first = *cursor;
    for (u64 k = threadIdx.x; k < batch; k += blockDim.x) indices[k] = order[first + k];
    __syncthreads();
    if (threadIdx.x == 0) *cursor = first + batch;
}

struct Totals {
    double loss;     // Sum of the batches' mean losses.
    u64 batches;     // Batches so far.
    u64 not_finite;  // Number (from 1) of the first batch whose loss was no number, 0 for none.
    u64 right;       // Rows whose highest logit is the label's.
    u64 judged;      // Rows with a label that is a class.
};

// The number of the first of the highest logits of a row, by one warp; every lane gets it.
__device__ __forceinline__ u64 highest(const float* row, u64 classes) {
    u32 lane = threadIdx.x & 31;
    float best = __uint_as_float(0xff800000);
    u64 at = classes;
    for (u64 c = lane; c < classes; c += 32)
        if (at == classes || row[c] > best) best = row[c], at = c;
#pragma unroll
    for (u32 offset = 16; offset > 0; offset >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, best, offset);
        u64 other_at = __shfl_xor_sync(0xffffffffu, at, offset);
        if (at == classes || (other_at < classes && (other > best || (other == best && other_at < at)))) best = other, at = other_at;
    }
    return at;
}

// Adds a batch's loss and hits. A warp has a row; only whole numbers are added out of order.
extern "C" __global__ void __launch_bounds__(256)
    score(const float* loss, const float* logits, const i64* labels, u64 rows, u64 classes, Totals* totals) {
    u32 lane = threadIdx.x & 31;
    u64 warp = ((u64)blockIdx.x * blockDim.x + threadIdx.x) >> 5, warps = ((u64)gridDim.x * blockDim.x) >> 5;
    for (u64 row = warp; row < rows; row += warps) {
        i64 label = labels[row];
        if (label < 0 || label >= (i64)classes) continue;
        u64 found = highest(logits + row * classes, classes);
        if (lane == 0) {
            atomicAdd(&totals->judged, 1ull);
            if (found == (u64)label) atomicAdd(&totals->right, 1ull);
        }
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        totals->batches += 1;
        totals->loss += (double)*loss;
        if (totals->not_finite == 0 && !is_finite(*loss)) totals->not_finite = totals->batches;
    }
}
