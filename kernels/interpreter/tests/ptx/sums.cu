// Sums over a whole tensor: the last block to finish adds the partial sums; a queue of tickets; a barrier over the grid.

__device__ float block_sum(float value) {
    extern __shared__ float partial[];
    partial[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half >>= 1) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    value = partial[0];
    __syncthreads();
    return value;
}

extern "C" __global__ void last_block_sum(const float4* x, float* partial, unsigned* arrived, float* total, size_t quads) {
    __shared__ bool last;
    float sum = 0.0f;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < quads; i += (size_t)gridDim.x * blockDim.x) {
        float4 quad = x[i];
        sum += (quad.x + quad.y) + (quad.z + quad.w);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    sum = 0.0f;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += ((volatile float*)partial)[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}

// Each ticket is a slice of x; slice t is scaled by the sum of slice t - 1, which its own block publishes with a flag.
extern "C" __global__ void ticket_chain(const float* x, float* sums, unsigned* flags, unsigned* next, float* y, unsigned slices,
                                        unsigned width) {
    __shared__ unsigned claimed;
    for (;;) {
        if (threadIdx.x == 0) claimed = atomicAdd(next, 1u);
        __syncthreads();
        unsigned ticket = claimed;
        __syncthreads();
        if (ticket >= slices) return;
        float sum = 0.0f;
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) sum += x[ticket * width + i];
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            sums[ticket] = sum;
            __threadfence();
            atomicExch(&flags[ticket], 1u);
            if (ticket > 0)
                while (*(volatile unsigned*)&flags[ticket - 1] == 0) __nanosleep(64);
            __threadfence();
        }
        __syncthreads();
        float factor = ticket > 0 ? sums[ticket - 1] : 1.0f;
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) y[ticket * width + i] = x[ticket * width + i] * factor;
    }
}

__device__ void grid_barrier(unsigned* arrived, volatile unsigned* generation) {
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned seen = *generation;
        __threadfence();
        if (atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1) {
            __threadfence();
            *generation = seen + 1;
        } else {
            while (*generation == seen) {}
        }
        __threadfence();
    }
    __syncthreads();
}

extern "C" __global__ void neighbours(float* a, float* b, unsigned* barrier, int n, int rounds) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    for (int round = 0; round < rounds; ++round) {
        float* from = round & 1 ? b : a;
        float* to = round & 1 ? a : b;
        if (i < n) to[i] = 0.5f * from[i] + 0.25f * (from[i == 0 ? n - 1 : i - 1] + from[i == n - 1 ? 0 : i + 1]);
        grid_barrier(barrier, barrier + 1);
    }
}

extern "C" __global__ void histogram(const unsigned char* x, unsigned* counts, float* weights, double* energy, size_t n) {
    __shared__ unsigned local[256];
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        atomicAdd(&local[x[i]], 1u);
        atomicAdd(&weights[x[i]], 0.5f);
        atomicAdd(energy, 0.25);
        atomicMax((int*)&counts[256], (int)x[i]);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x)
        if (local[i]) atomicAdd(&counts[i], local[i]);
}
