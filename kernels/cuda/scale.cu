#include "common.cuh"

// Dynamic loss scaling after a step: scale[0] is the scale, scale[1] its inverse, scale[2] the steps since it last changed.
// Scale and inverse stay normal numbers, so that a run of overflows, or a run without any, cannot end in 0 or infinity.
extern "C" __global__ void neuroplastic_scale(float* scale, u32* overflow, float growth, float backoff, float interval) {
    const float least = 0x1p-126f, most = 0x1p126f;
    if (*overflow) {
        scale[0] = fmaxf(scale[0] * backoff, least);
        scale[2] = 0.0f;
    } else if (++scale[2] >= interval) {
        scale[0] = fminf(scale[0] * growth, most);
        scale[2] = 0.0f;
    }
    scale[1] = 1.0f / scale[0];
    *overflow = 0;
}
