// Element-wise kernels: libdevice functions, bfloat16, counters as random numbers, a switch, calls, 64-bit indices.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" __global__ void functions(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    float* out = y + (size_t)i * 16;
    out[0] = erff(v);
    out[1] = tanhf(v);
    out[2] = expf(v);
    out[3] = logf(fabsf(v) + 1e-3f);
    out[4] = powf(fabsf(v), 1.7f);
    out[5] = sinf(v);
    out[6] = cosf(v * 100.0f);
    out[7] = sqrtf(fabsf(v));
    out[8] = 1.0f / (1.0f + __expf(-v));
    out[9] = rsqrtf(fabsf(v) + 1.0f);
    out[10] = log1pf(fabsf(v));
    out[11] = fmodf(v, 0.3f);
    out[12] = rintf(v * 10.0f);
    out[13] = floorf(v) + ceilf(v) * 2.0f + truncf(v) * 4.0f + roundf(v) * 8.0f;
    out[14] = (float)(pow((double)fabsf(v), 2.5) + exp((double)v) + log((double)fabsf(v) + 1.0));
    out[15] = copysignf(3.0f, v) / v;
}

extern "C" __global__ void narrow(const float* x, __nv_bfloat16* b, __half* h, float* back, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (2 * i + 1 >= n) return;
    float2 pair = reinterpret_cast<const float2*>(x)[i];
    __nv_bfloat162 packed = __floats2bfloat162_rn(pair.x, pair.y);
    reinterpret_cast<__nv_bfloat162*>(b)[i] = packed;
    __half2 halves = __hfma2(__floats2half2_rn(pair.x, pair.y), __float2half2_rn(2.0f), __float2half2_rn(0.5f));
    reinterpret_cast<__half2*>(h)[i] = halves;
    back[2 * i] = __low2float(packed) + __low2float(halves);
    back[2 * i + 1] = __high2float(packed) + __high2float(halves);
}

__device__ uint4 philox(uint4 counter, uint2 key) {
    for (int round = 0; round < 10; ++round) {
        unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

extern "C" __global__ void dropout(const float4* x, float4* y, unsigned* bits, unsigned long long seed, unsigned long long offset,
                                   float keep, unsigned quads) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= quads) return;
    unsigned long long position = offset + i;
    uint4 random = philox(make_uint4((unsigned)position, (unsigned)(position >> 32), 0, 0),
                          make_uint2((unsigned)seed, (unsigned)(seed >> 32)));
    reinterpret_cast<uint4*>(bits)[i] = random;
    float4 v = x[i];
    float scale = 1.0f / keep;
    v.x = random.x * 2.3283064e-10f < keep ? v.x * scale : 0.0f;
    v.y = random.y * 2.3283064e-10f < keep ? v.y * scale : 0.0f;
    v.z = random.z * 2.3283064e-10f < keep ? v.z * scale : 0.0f;
    v.w = random.w * 2.3283064e-10f < keep ? v.w * scale : 0.0f;
    y[i] = v;
}

__device__ __noinline__ float collatz(unsigned value, float* trace) {
    int steps = 0;
    while (value != 1) {
        value = value & 1 ? 3 * value + 1 : value / 2;
        ++steps;
    }
    trace[0] = (float)steps;
    return sqrtf((float)steps);
}

__constant__ float TABLE[4] = {1.5f, -2.5f, 3.5f, 4.5f};
__device__ unsigned long long visits = 5;

struct Shape {
    long long size;
    int kind;
    float* out;
    short axes[4];
};

extern "C" __global__ void mixed(const unsigned* x, float* y, Shape shape) {
    __builtin_assume(__isGlobal(shape.out));
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < shape.size; i += (long long)gridDim.x * blockDim.x) {
        unsigned v = x[i];
        float trace[3] = {0.0f, 1.0f, 2.0f};
        float result;
        switch ((v + shape.kind) % 11) {
            case 0: result = collatz(v + 1, &trace[v % 3]); break;
            case 1: result = (float)__popc(v); break;
            case 2: result = (float)__clz(v); break;
            case 3: result = (float)(v / 7 + v % 13); break;
            case 4: result = (float)((int)v / -7 + (int)v % 13); break;
            case 5: result = TABLE[v & 3]; break;
            case 6: result = (float)__brev(v); break;
            case 7: result = (float)(i * 1000003ll / (long long)(v + 1)); break;
            case 8: result = (float)__byte_perm(v, ~v, 0x3175); break;
            case 9: result = (float)__funnelshift_l(v, v * 77u, v & 31); break;
            default: result = (float)shape.axes[v & 3]; break;
        }
        y[i] = result + trace[0] + trace[v % 3];
        shape.out[i] = trace[2];
        atomicAdd(&visits, 1ull);
    }
}

extern "C" __global__ void far_loop(unsigned char* x, long long first, long long n) {
    for (long long i = first + (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
        x[i] = (unsigned char)(i % 251);
}

extern "C" __global__ void votes(const int* x, unsigned* ballots, int* firsts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        unsigned active = __activemask();
        bool odd = x[i] & 1;
        unsigned ballot = __ballot_sync(active, odd);
        int prefix = __popc(ballot & ((1u << (threadIdx.x & 31)) - 1));
        int any = __any_sync(active, x[i] > 100), all = __all_sync(active, x[i] >= 0);
        ballots[i] = ballot;
        firsts[i] = prefix + 1000 * any + 10000 * all + 100000 * (int)(__match_any_sync(active, x[i] % 3) >> 28);
    }
}
