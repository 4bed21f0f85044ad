// Softmax cross-entropy and negative log likelihood of scores (batch, classes, positions).
#include "rows.cuh"

// `ids` are the labels (batch, positions), `weights` one a class or null. A label equal to `ignore` is left out if `ignores`.
struct Labels {
    u64 batch, classes, positions;
    i64 ignore;
    u32 ignores, padding;
    __device__ __forceinline__ u64 count() const { return batch * positions; }
};

// What the losses are divided by: the number at `total`, or `elements` where that is null. And the gradient of what became of
// the losses: a number, one for each loss, or 1 where null.
struct Scale {
    const double* total;
    const float* upstream;
    u64 elements;
    u32 each;
};

struct Class {
    u64 id;  // the number of classes where there is none
    float weight;
};

template <class L>
__device__ __forceinline__ Class class_of(const Labels& labels, const L* ids, const float* weights, u64 position, u32* bad) {
    i64 id = ids[position];
    if (labels.ignores && id == labels.ignore) return {labels.classes, 0.0f};
    if ((u64)id >= labels.classes) {
        if (bad) atomicAdd(bad, 1u);
        return {labels.classes, 0.0f};
    }
    return {(u64)id, weights ? weights[id] : 1.0f};
}

// The gradient with respect to a position's loss before its class weight, with it.
__device__ __forceinline__ float factor_of(const Scale& scale, Class own, u64 position) {
    float upstream = scale.upstream ? scale.upstream[scale.each ? position : 0] : 1.0f;
    return upstream * own.weight / (scale.total ? (float)*scale.total : (float)scale.elements);
}

// Rows of classes: positions = 1. log_prob and gradient may be null.
template <class Team, u32 SLOTS, class L>
__device__ __forceinline__ void entropy_rows(const Labels& labels, const Scale& scale, const float* x, const L* ids,
                                             const float* weights, float* terms, float* log_prob, float* gradient, u32* bad) {
    for (u64 row = Team::first(); row < labels.batch; row += Team::count()) {
        u64 columns = labels.classes;
        const float* own = x + row * columns;
        Row<Team, SLOTS> values(own, columns);
        Exponentials e = exponentials(values, columns);
        Class label = class_of(labels, ids, weights, row, Team::lane() == 0 ? bad : nullptr);
        float shift = logf(e.sum);
        if (Team::lane() == 0)
            terms[row] = label.id < columns ? label.weight * (shift - (own[label.id] - e.largest)) : 0.0f;
        if (log_prob)
            each(values, columns, [&](u64 j, float x) { log_prob[row * columns + j] = x - e.largest - shift; });
        if (!gradient) continue;
        float factor = factor_of(scale, label, row), inverse = 1.0f / e.sum;
        each(values, columns, [&](u64 j, float x) {
            float p = expf(x - e.largest) * inverse;
            gradient[row * columns + j] = label.id < columns ? factor * (p - (j == label.id ? 1.0f : 0.0f)) : 0.0f;
        });
    }
}

// A thread has a position, whose neighbours have the scores next to its own.
template <class L>
__device__ __forceinline__ void entropy_positions(const Labels& labels, const Scale& scale, const float* x, const L* ids,
                                                  const float* weights, float* terms, float* log_prob, float* gradient,
                                                  u32* bad) {
    for (u64 i = first(); i < labels.count(); i += count()) {
        u64 n = quotient(i, labels.positions), start = n * labels.classes * labels.positions + i - n * labels.positions;
        u64 end = start + labels.classes * labels.positions;
        Exponentials e = {-__uint_as_float(0x7f800000), 0.0f};
        for (u64 at = start; at < end; at += labels.positions) e.add(x[at]);
        float sum = is_finite(e.largest) ? e.sum : __uint_as_float(0x7fffffff), shift = logf(sum);
        Class label = class_of(labels, ids, weights, i, bad);
        u64 own = start + label.id * labels.positions;
        terms[i] = own < end ? label.weight * (shift - (x[own] - e.largest)) : 0.0f;
        if (log_prob)
            for (u64 at = start; at < end; at += labels.positions) log_prob[at] = x[at] - e.largest - shift;
        if (!gradient) continue;
        float factor = factor_of(scale, label, i), inverse = 1.0f / sum;
        for (u64 at = start; at < end; at += labels.positions) {
            float p = expf(x[at] - e.largest) * inverse;
            gradient[at] = own < end ? factor * (p - (at == own ? 1.0f : 0.0f)) : 0.0f;
        }
    }
}

template <class L>
__device__ __forceinline__ void likelihood(const Labels& labels, const float* log_prob, const L* ids, const float* weights,
                                           float* terms, u32* bad) {
    for (u64 i = first(); i < labels.count(); i += count()) {
        u64 n = quotient(i, labels.positions);
        Class label = class_of(labels, ids, weights, i, bad);
        u64 own = (n * labels.classes + label.id) * labels.positions + i - n * labels.positions;
        terms[i] = label.id < labels.classes ? label.weight * -log_prob[own] : 0.0f;
    }
}

template <class L>
__device__ __forceinline__ void likelihood_gradient(const Labels& labels, const Scale& scale, const L* ids,
                                                    const float* weights, float* gradient) {
    for (u64 i = first(); i < labels.count() * labels.classes; i += count()) {
        u64 row = quotient(i, labels.positions), n = quotient(row, labels.classes);
        u64 position = n * labels.positions + i - row * labels.positions;
        Class label = class_of(labels, ids, weights, position, nullptr);
        gradient[i] = row - n * labels.classes == label.id ? -factor_of(scale, label, position) : 0.0f;
    }
}

// A sum of a block's share of some numbers, each thread's in order.
template <class F> __device__ __forceinline__ double share(u64 items, F f) {
    double sum[1] = {0.0};
    for (u64 i = first(); i < items; i += count()) sum[0] += (double)f(i);
    block_sum<1, WARPS>(sum);
    return sum[0];
}

// Losses of rows, by a kernel for their length.
#define ROW_LOSSES(rows, Team, SLOTS, suffix, L)                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 3)                                                                      \
        entropy_##rows##_##suffix(Labels labels, const double* total, const float* upstream, u64 elements, u32 each,          \
                                  const float* x, const L* ids, const float* weights, float* terms, float* log_prob,          \
                                  float* gradient, u32* bad) {                                                                \
        Scale scale = {total, upstream, elements, each};                                                                      \
        entropy_rows<Team, SLOTS>(labels, scale, x, ids, weights, terms, log_prob, gradient, bad);                            \
    }

#define LOSSES(suffix, L)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        weigh_##suffix(Labels labels, const L* ids, const float* weights, double* to) {                                       \
        double sum = share(labels.count(), [&](u64 i) { return class_of(labels, ids, weights, i, nullptr).weight; });         \
        if (threadIdx.x == 0) to[blockIdx.x] = sum;                                                                           \
    }                                                                                                                         \
    ROW_LOSSES(warp_few, Warp, FEW, suffix, L)                                                                                \
    ROW_LOSSES(warp, Warp, HELD, suffix, L)                                                                                   \
    ROW_LOSSES(block_few, Block, FEW, suffix, L)                                                                              \
    ROW_LOSSES(block, Block, HELD, suffix, L)                                                                                 \
    ROW_LOSSES(long, Block, 0, suffix, L)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256, 3)                                                                      \
        entropy_positions_##suffix(Labels labels, const double* total, const float* upstream, u64 elements, u32 each,         \
                                   const float* x, const L* ids, const float* weights, float* terms, float* log_prob,         \
                                   float* gradient, u32* bad) {                                                               \
        Scale scale = {total, upstream, elements, each};                                                                      \
        entropy_positions(labels, scale, x, ids, weights, terms, log_prob, gradient, bad);                                    \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        likelihood_##suffix(Labels labels, const float* log_prob, const L* ids, const float* weights, float* terms,           \
                            u32* bad) {                                                                                       \
        likelihood(labels, log_prob, ids, weights, terms, bad);                                                               \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        likelihood_gradient_##suffix(Labels labels, const double* total, const float* upstream, u64 elements, u32 each,       \
                                     const L* ids, const float* weights, float* gradient) {                                   \
        Scale scale = {total, upstream, elements, each};                                                                      \
        likelihood_gradient(labels, scale, ids, weights, gradient);                                                           \
    }

LOSSES(i32, int)
LOSSES(i64, i64)

extern "C" __global__ void __launch_bounds__(256) add_terms(u64 items, const float* terms, double* to) {
    double sum = share(items, [&](u64 i) { return terms[i]; });
    if (threadIdx.x == 0) to[blockIdx.x] = sum;
}

// One block: the total of what several blocks added up.
extern "C" __global__ void __launch_bounds__(256) add_shares(u64 items, const double* shares, double* to) {
    double sum = share(items, [&](u64 i) { return shares[i]; });
    if (threadIdx.x == 0) *to = sum;
}

// One block: loss = Σ / total. The sum is of the terms, or of what several blocks added up of them.
extern "C" __global__ void __launch_bounds__(256)
    reduce_loss(u64 items, const float* terms, const double* shares, const double* total, u64 elements, float* loss) {
    double sum = share(items, [&](u64 i) { return shares ? shares[i] : (double)terms[i]; });
    if (threadIdx.x == 0) *loss = (float)(sum / (total ? *total : (double)elements));
}
