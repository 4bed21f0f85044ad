// Dropout from a counter-based generator.
#include "common.cuh"

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011).
__device__ __forceinline__ uint4 philox(uint4 c, u32 k0, u32 k1) {
#pragma unroll
    for (u32 round = 0; round < 10; ++round) {
        if (round > 0) k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        u32 high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
        u32 high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
        c = make_uint4(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
    }
    return c;
}

// Element i is kept when word i mod 4 of Philox at counter (i / 4, *step) under the key `seed` is at least `threshold`.
extern "C" __global__ void __launch_bounds__(256)
    dropout(const float* x, float* y, unsigned char* mask, const u64* step, u64 seed, u32 threshold, float scale, u64 elements) {
    u64 at = *step;
    bool aligned = ((u64)x | (u64)y) % 16 == 0 && (u64)mask % 4 == 0;
    for (u64 four = (u64)blockIdx.x * blockDim.x + threadIdx.x; four * 4 < elements; four += (u64)gridDim.x * blockDim.x) {
        u32 rest = (u32)min(elements - four * 4, 4ull);
        Four values = load4(x + four * 4, rest, aligned);
        uint4 words = philox(make_uint4((u32)four, (u32)(four >> 32), (u32)at, (u32)(at >> 32)), (u32)seed, (u32)(seed >> 32));
        u32 word[4] = {words.x, words.y, words.z, words.w};
        uchar4 kept = make_uchar4(word[0] >= threshold, word[1] >= threshold, word[2] >= threshold, word[3] >= threshold);
#pragma unroll
        for (u32 k = 0; k < 4; ++k) values.x[k] = word[k] >= threshold ? values.x[k] * scale : 0.0f;
        store4(y + four * 4, values, rest, aligned);
        if (!mask) continue;
        if (aligned && rest == 4) {
            *reinterpret_cast<uchar4*>(mask + four * 4) = kept;
        } else {
#pragma unroll
            for (u32 k = 0; k < 4; ++k)
                if (k < rest) mask[four * 4 + k] = word[k] >= threshold;
        }
    }
}

extern "C" __global__ void count_step(u64* step) {
    if (threadIdx.x == 0) *step += 1;
}
