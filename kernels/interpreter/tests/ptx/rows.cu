// Row-wise kernels: one block a row, warp shuffles and a shared array for the block's sums.

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int offset = 16; offset > 0; offset >>= 1) value = fmaxf(value, __shfl_down_sync(0xffffffffu, value, offset));
    return __shfl_sync(0xffffffffu, value, 0);
}

template <bool MAXIMUM>
__device__ float block_reduce(float value) {
    __shared__ float partial[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    value = MAXIMUM ? warp_max(value) : warp_sum(value);
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    value = lane < warps ? partial[lane] : (MAXIMUM ? -3.0e38f : 0.0f);
    value = MAXIMUM ? warp_max(value) : warp_sum(value);
    __syncthreads();
    return value;
}

extern "C" __global__ void __launch_bounds__(256)
layer_norm(const float* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ bias, float* y,
           float* mean, float* inverse_deviation, int width, float epsilon) {
    const float* row = x + (size_t)blockIdx.x * width;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += row[i];
    float centre = block_reduce<false>(sum) / width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares += (row[i] - centre) * (row[i] - centre);
    float inverse = rsqrtf(block_reduce<false>(squares) / width + epsilon);
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        y[(size_t)blockIdx.x * width + i] = (row[i] - centre) * inverse * scale[i] + bias[i];
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = centre;
        inverse_deviation[blockIdx.x] = inverse;
    }
}

extern "C" __global__ void softmax_cross_entropy(const float* logits, const long long* labels, float* loss, float* gradient,
                                                 int classes, float scale) {
    const float* row = logits + (size_t)blockIdx.x * classes;
    float highest = -3.0e38f;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) highest = fmaxf(highest, row[i]);
    highest = block_reduce<true>(highest);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) sum += expf(row[i] - highest);
    sum = block_reduce<false>(sum);
    int label = (int)labels[blockIdx.x];
    for (int i = threadIdx.x; i < classes; i += blockDim.x)
        gradient[(size_t)blockIdx.x * classes + i] = (expf(row[i] - highest) / sum - (i == label ? 1.0f : 0.0f)) * scale;
    if (threadIdx.x == 0) loss[blockIdx.x] = logf(sum) - (row[label] - highest);
}

extern "C" __global__ void transpose(const float* x, float* y, int rows, int columns) {
    __shared__ float tile[32][33];
    int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8)
        if (row + k < rows && column < columns) tile[threadIdx.y + k][threadIdx.x] = x[(size_t)(row + k) * columns + column];
    __syncthreads();
    column = blockIdx.y * 32 + threadIdx.x, row = blockIdx.x * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8)
        if (row + k < columns && column < rows) y[(size_t)(row + k) * rows + column] = tile[threadIdx.x][threadIdx.y + k];
}
