// Each kernel twice: `…_wrong` has one planted bug, `…_right` is its twin without it.
// x has n numbers, y has n, words are zero at first. n is four times the block.

#define PAIR(NAME)                                                                                              \
    template <bool RIGHT>                                                                                       \
    __device__ __forceinline__ void NAME(const int* x, int* y, unsigned* words, unsigned n);                    \
    extern "C" __global__ void NAME##_right(const int* x, int* y, unsigned* words, unsigned n) {                \
        NAME<true>(x, y, words, n);                                                                             \
    }                                                                                                           \
    extern "C" __global__ void NAME##_wrong(const int* x, int* y, unsigned* words, unsigned n) {                \
        NAME<false>(x, y, words, n);                                                                            \
    }                                                                                                           \
    template <bool RIGHT>                                                                                       \
    __device__ __forceinline__ void NAME(const int* x, int* y, unsigned* words, unsigned n)

// The bound of the array is forgotten.
PAIR(past_the_end) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (!RIGHT || i < n) y[i] = x[i];
}

// The first thread looks before the array.
PAIR(before_the_start) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[RIGHT && i == 0 ? 0 : (long long)i - 1];
}

PAIR(past_shared) {
    __shared__ int tile[64];
    __shared__ int behind[64];
    tile[threadIdx.x] = behind[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[RIGHT ? 63 - threadIdx.x : threadIdx.x + 1] + behind[threadIdx.x ^ 1];
}

PAIR(past_local) {
    int digits[8];
    int left = x[threadIdx.x] & 0xffff, count = 0;
    do digits[count++] = left % 3; while ((left /= 3) && (!RIGHT || count < 8));
    int sum = 0;
    while (count > 0) sum = sum * 7 + digits[--count];
    y[threadIdx.x] = sum;
}

PAIR(odd_vector) {
    int4 four = *reinterpret_cast<const int4*>(x + (RIGHT ? 4 : 1) * threadIdx.x);
    y[threadIdx.x] = four.x + four.w;
}

PAIR(unwritten_shared) {
    __shared__ int tile[64];
    if (RIGHT || threadIdx.x != 5) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}

// Each thread reads what its neighbour wrote.
PAIR(no_barrier) {
    __shared__ int tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    if (RIGHT) __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}

// The second barrier of a loop: the tile is overwritten while others still read it.
PAIR(no_second_barrier) {
    __shared__ int tile[64];
    int sum = 0;
    for (unsigned i = threadIdx.x; i < n; i += 64) {
        tile[threadIdx.x] = x[i];
        __syncthreads();
        sum += tile[(threadIdx.x + 33) & 63];
        if (RIGHT) __syncthreads();
    }
    y[threadIdx.x] = sum;
}

// Threads of one warp are not in lock-step.
PAIR(no_warp_barrier) {
    __shared__ int tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    if (RIGHT) __syncwarp();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}

PAIR(counter) {
    if (RIGHT)
        atomicAdd(words, 1u);
    else
        words[0] = words[0] + 1;
}

PAIR(shared_counter) {
    __shared__ unsigned counts[4];
    if (threadIdx.x < 4) counts[threadIdx.x] = 0;
    __syncthreads();
    if (RIGHT)
        atomicAdd(&counts[x[threadIdx.x] & 3], 1u);
    else
        counts[x[threadIdx.x] & 3] += 1;
    __syncthreads();
    if (threadIdx.x < 4) y[threadIdx.x] = counts[threadIdx.x];
}

// The atomic counts are read before all have counted.
PAIR(early_count) {
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, (unsigned)(x[threadIdx.x] & 1));
    if (RIGHT) __syncthreads();
    y[threadIdx.x] = count;
}

// An atomic operation of the block does not reach other blocks.
PAIR(narrow_atomic) {
    if (RIGHT)
        atomicAdd(words, 1u);
    else
        atomicAdd_block(words, 1u);
}

template <bool BEFORE, bool AFTER>
__device__ __forceinline__ void last_block(const int* x, int* y, unsigned* words) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        y[blockIdx.x] = x[blockIdx.x] * 3;
        if (BEFORE) __threadfence();
        last = atomicInc(words, gridDim.x - 1) == gridDim.x - 1;
        if (AFTER) __threadfence();
    }
    __syncthreads();
    if (last && threadIdx.x < gridDim.x) words[1 + threadIdx.x] = y[threadIdx.x];
}

// The partial result may come later than the news that it is there.
PAIR(last_block_writes) { last_block<RIGHT, true>(x, y, words); }

// The partial result may be older than the news that it is there.
PAIR(last_block_reads) { last_block<true, RIGHT>(x, y, words); }

// A volatile load goes past the cache, an ordinary one does not.
PAIR(last_block_volatile) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        y[blockIdx.x] = x[blockIdx.x] * 3;
        __threadfence();
        last = atomicInc(words, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last || threadIdx.x >= gridDim.x) return;
    if (RIGHT)
        words[1 + threadIdx.x] = *(volatile int*)&y[threadIdx.x];
    else
        words[1 + threadIdx.x] = y[threadIdx.x];
}

// Two blocks shake hands with a flag.
PAIR(flag_writer) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) {
        y[0] = x[0] + 1;
        if (RIGHT) __threadfence();
        *(volatile unsigned*)words = 1;
    } else if (blockIdx.x == 1) {
        while (*(volatile unsigned*)words == 0) {}
        __threadfence();
        y[1] = y[0];
    }
}

// The flag is read as if no other block were there.
PAIR(flag_reader) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) {
        y[0] = x[0] + 1;
        __threadfence();
        *(volatile unsigned*)words = 1;
    } else if (blockIdx.x == 1) {
        if (RIGHT) {
            while (*(volatile unsigned*)words == 0) {}
            __threadfence();
            y[1] = y[0];
        } else if (words[0] != 0) {
            y[1] = 0;
        }
    }
}

// Neighbouring blocks exchange results with no barrier over the grid.
PAIR(neighbour_block) {
    if (threadIdx.x == 0) {
        y[blockIdx.x] = x[blockIdx.x];
        if (!RIGHT) words[1 + blockIdx.x] = y[(blockIdx.x + 1) % gridDim.x];
    }
}

PAIR(divergent_barrier) {
    __shared__ int tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    if (RIGHT || threadIdx.x < 40) __syncthreads();
    if (threadIdx.x < 40) y[threadIdx.x] = tile[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

PAIR(divergent_shuffle) {
    int value = x[threadIdx.x];
    if (RIGHT) {
        int other = __shfl_xor_sync(0xffffffffu, value, 1);
        if (threadIdx.x % 2 == 0) value += other;
    } else if (threadIdx.x % 2 == 0) {
        value += __shfl_xor_sync(0xffffffffu, value, 1);
    }
    __syncthreads();
    y[threadIdx.x] = value;
}

PAIR(not_in_mask) {
    int value = x[threadIdx.x];
    unsigned half = RIGHT ? 0xffffu << (threadIdx.x & 16) : 0xffffu;
    y[threadIdx.x] = __shfl_xor_sync(half, value, 1);
}

// Nobody sets the flag.
PAIR(waits_for_nothing) {
    if (RIGHT && threadIdx.x == 0 && blockIdx.x == 0) atomicExch(words, 1u);
    while (*(volatile unsigned*)words == 0) {}
}

// What was just written is read through the read-only cache.
PAIR(stale_read) {
    y[threadIdx.x] = x[threadIdx.x] * 2;
    __syncthreads();
    words[threadIdx.x] = RIGHT ? y[63 - threadIdx.x] : __ldg(&y[63 - threadIdx.x]);
}

PAIR(trap) {
    if (!RIGHT && x[threadIdx.x] >= 0) __trap();
    y[threadIdx.x] = x[threadIdx.x];
}
