// The fused NeuroPlastic step and the controller's signal, for one storage type of parameter and gradient.
//
// Order between blocks follows PTX's memory model. `fence` before a strong write is a release, `fence` after a strong read of
// what was written an acquire, and both are cumulative: thread 0 fences for the whole block, because a barrier of the block
// stands between its other threads' accesses and the fence. Four pairs need one each:
//   arrival   a chunk's stores and its slot, before the block counts itself; the slots are read after the last one did
//   ready     scalars, and with them all that the tensor's blocks stored, before `ready`; the next phase starts after it
//   exit      reads of the ticket, the epoch and the step, before the last block to leave changes them
// The first and the third have release and acquire around one atomic, the second around a store and the loop that waits for
// it. Nothing else passes between blocks of a launch.
#pragma once
#include "neuroplastic_scalars.cuh"

__device__ __forceinline__ void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// How many of the sums a phase has, the unused ones at the end left out.
template <class V> __device__ constexpr u32 sums_of(u32 phase) {
    return phase == TRACES ? (V::base == CLASSIC ? 4 : 5) : V::plain ? 1 : V::base == CLASSIC ? 6 : 3;
}

// Slots that a thread has under way at a time when the last block adds them.
const u32 SLOTS = 4;

// Leaves a chunk's first N sums in its slot. True in the block that finished the tensor's last chunk: there `totals` are the
// sums over all slots in their order.
template <u32 N>
__device__ __forceinline__ bool finish_chunk(const Group& group, const Tensor& t, const Item& item,
                                             const float (&all)[SUMS], double (&totals)[SUMS]) {
    __shared__ u32 is_last;
    const u32 chunks = t.chunks;
    float* slots = global(group.slots) + (u64)t.first_slot * SUMS;
    float sums[N];
    for (u32 i = 0; i < N; ++i) sums[i] = all[i];
    for (u32 i = 0; i < SUMS; ++i) totals[i] = 0.0;
    // Its barriers come after everything that the block's threads stored.
    block_sum<N, WARPS>(sums);
    if (chunks == 1) {
        for (u32 i = 0; i < N; ++i) totals[i] = (double)sums[i];
        return true;
    }
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < N; ++i) slots[(u64)item.chunk * SUMS + i] = sums[i];
        fence();
        is_last = atomicInc(&global(group.arrived)[item.tensor], chunks - 1) == chunks - 1;
        if (is_last) fence();
    }
    __syncthreads();
    if (!is_last) return false;
    double sum[N] = {};
    u32 chunk = threadIdx.x;
    // Chunk after chunk, whatever is read together.
#pragma unroll 1
    for (; chunk + (SLOTS - 1) * THREADS < chunks; chunk += SLOTS * THREADS) {
        float part[SLOTS][N];
#pragma unroll
        for (u32 j = 0; j < SLOTS; ++j)
            for (u32 i = 0; i < N; ++i) part[j][i] = __ldcg(&slots[(u64)(chunk + j * THREADS) * SUMS + i]);
#pragma unroll
        for (u32 j = 0; j < SLOTS; ++j)
            for (u32 i = 0; i < N; ++i) sum[i] += (double)part[j][i];
    }
#pragma unroll 1
    for (; chunk < chunks; chunk += THREADS)
        for (u32 i = 0; i < N; ++i) sum[i] += (double)__ldcg(&slots[(u64)chunk * SUMS + i]);
    block_sum<N, WARPS>(sum);
    for (u32 i = 0; i < N; ++i) totals[i] = sum[i];
    return true;
}

template <class V, u32 PHASE, class P>
__device__ __forceinline__ void work(const P& p, const Scalars& s, const Settings& c, float (&sums)[SUMS]) {
    if (PHASE == TRACES) traces<V, true>(p, s, c, sums);
    else if (PHASE == UPDATE) update<V>(p, s, c, sums);
    else if (PHASE == PROJECT) project<V>(p, s, c, sums);
    else if (!V::plain && (is_orthogonal<V>(c) || s.mix != 1.0f)) apply<V, true>(p, s, c);
    else apply<V, false>(p, s, c);
}

// Elements of a chunk.
__device__ __forceinline__ u32 elements_of(const Tensor& t, u32 chunk) {
    u64 rest = t.elements - (u64)chunk * t.chunk_elements;
    return rest < t.chunk_elements ? (u32)rest : t.chunk_elements;
}

__device__ __forceinline__ bool is_full(const Tensor& t, u32 count) {
    return t.flags & ALIGNED && count == t.chunk_elements;
}

// One phase of one chunk, with the tensor's scalars in shared memory. True when it was the tensor's last chunk: thread 0 has
// then made the scalars those of the next phase.
template <class T, class V, u32 PHASE>
__device__ __forceinline__ bool run_phase(const Group& group, const Item& item, Scalars& s) {
    const Settings& c = group.settings;
    const Tensor& t = global(group.tensors)[item.tensor];
    float inverse_scale = group.inverse_scale ? *global(group.inverse_scale) : 1.0f;
    float sums[SUMS] = {};
    double totals[SUMS];
    if (PHASE == TRACES) {
        if (threadIdx.x == 0) begin<V>(group, s);
        __syncthreads();
    }
    u32 count = elements_of(t, item.chunk);
    if (is_full(t, count)) work<V, PHASE>(Part<T, true>(t, item.chunk, count, inverse_scale), s, c, sums);
    else work<V, PHASE>(Part<T, false>(t, item.chunk, count, inverse_scale), s, c, sums);
    if (PHASE == APPLY || !finish_chunk<sums_of<V>(PHASE)>(group, t, item, sums, totals)) return false;
    if (threadIdx.x == 0) {
        if (PHASE == TRACES) after_traces<V>(t, group, totals, s);
        else if (PHASE == UPDATE) after_update<V>(t, group, totals, s);
        else after_project<V>(t, group, totals, s);
    }
    return true;
}

__device__ __forceinline__ bool skipped(const Group& group) { return group.overflow && *global(group.overflow) != 0; }

// Copies a tensor's scalars, which another block wrote, to where this block's threads read them.
__device__ __forceinline__ void take(Scalars& s, const Scalars* from) {
    const volatile u32* words = (const volatile u32*)global(from);
    __syncthreads();
    if (threadIdx.x < sizeof(Scalars) / 4) ((u32*)&s)[threadIdx.x] = words[threadIdx.x];
    __syncthreads();
}

// One phase of every chunk, a block each: the plain form, in one launch a phase.
template <class T, class V, u32 PHASE> __device__ __forceinline__ void sweep(const Group& group) {
    __shared__ Scalars s;
    if (!skipped(group) && blockIdx.x < group.items_count) {
        // The update's blocks go backwards: what the traces touched last is in the L2 still.
        const Item item = global(group.items)[PHASE == UPDATE ? gridDim.x - 1 - blockIdx.x : blockIdx.x];
        if (PHASE > TRACES) take(s, &group.scalars[item.tensor]);
        if (run_phase<T, V, PHASE>(group, item, s) && threadIdx.x == 0) global(group.scalars)[item.tensor] = s;
    }
    // Only the last phase may advance the step: the first one reads it.
    if (PHASE == APPLY && group.settings.flags & ADVANCE && threadIdx.x == 0) {
        u32 exited = atomicInc(&global(group.control)->exited, gridDim.x - 1);
        if (exited == gridDim.x - 1 && !skipped(group)) *global(group.step) += 1;
    }
}

// All phases in one launch. Blocks take tickets in order; an item waits only for items with earlier tickets, which other
// blocks are running or have finished, so that any number of resident blocks makes progress.
template <class T, class V> __device__ __forceinline__ void fused(const Group& group) {
    __shared__ Item item;
    __shared__ bool is_over;
    __shared__ Scalars s;
    Control* control = global(group.control);
    const u32 epoch = *(volatile u32*)&control->epoch;
    while (!skipped(group)) {
        __syncthreads();
        if (threadIdx.x == 0) {
            u32 next = atomicAdd(&control->ticket, 1);
            is_over = next >= group.items_count;
            if (!is_over) item = global(group.items)[next];
        }
        __syncthreads();
        if (is_over) break;
        // A tensor of one chunk goes through all phases here: nobody else has to be waited for.
        const bool alone = item.phase == 0;
        if (item.phase > TRACES) {
            u32 before = item.phase == APPLY ? group.phases - 1 : item.phase - 1;
            if (threadIdx.x == 0) {
                volatile u32* ready = (volatile u32*)&global(group.ready)[item.tensor];
                while (*ready != epoch * 4 + before) {}
                fence();
            }
            take(s, &group.scalars[item.tensor]);
        }
        for (u32 phase = alone ? TRACES : item.phase;; ++phase) {
            bool finished = false;
            if (phase == TRACES) finished = run_phase<T, V, TRACES>(group, item, s);
            else if (phase == UPDATE) finished = run_phase<T, V, UPDATE>(group, item, s);
            else if (V::base == CLASSIC && !V::plain && phase == PROJECT && group.phases == 4)
                finished = run_phase<T, V, PROJECT>(group, item, s);
            else if (phase == APPLY) run_phase<T, V, APPLY>(group, item, s);
            if (!alone && finished && threadIdx.x == 0) {
                global(group.scalars)[item.tensor] = s;
                fence();
                *(volatile u32*)&global(group.ready)[item.tensor] = epoch * 4 + phase;
            }
            if (!alone || phase == APPLY) break;
            // The next phase's scalars are there, and what this one stored.
            __syncthreads();
        }
    }
    // The last block to leave prepares the next launch.
    __syncthreads();
    if (threadIdx.x == 0) {
        fence();
        u32 exited = atomicInc(&control->exited, gridDim.x - 1);
        if (exited == gridDim.x - 1) {
            fence();
            control->ticket = 0;
            control->epoch = epoch + 1;
            if (group.settings.flags & ADVANCE && !skipped(group)) *global(group.step) += 1;
        }
    }
}

#define NEUROPLASTIC_SWEEP(name, suffix, T, V, PHASE, blocks)                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks) neuroplastic_##name##_##suffix(const Group group) { \
        sweep<T, V, PHASE>(group);                                                                                    \
    }

// `resident`: blocks of the fused form that every multiprocessor runs at once; the host starts as many.
#define NEUROPLASTIC_STEP(suffix, T, V, blocks, resident)                                                                       \
    NEUROPLASTIC_SWEEP(traces, suffix, T, V, TRACES, blocks)                                                          \
    NEUROPLASTIC_SWEEP(update, suffix, T, V, UPDATE, blocks)                                                          \
    NEUROPLASTIC_SWEEP(apply, suffix, T, V, APPLY, blocks)                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, resident) neuroplastic_fused_##suffix(const Group group) {        \
        fused<T, V>(group);                                                                                           \
    }
