#include "common.cuh"

// Dynamic loss scaling after a step: scale[0] is the scale, scale[1] its inverse, scale[2] the steps since it last changed.
extern "C" __global__ void neuroplastic_scale(float* scale, u32* overflow, float growth, float backoff, float interval) {
    if (*overflow) {
        scale[0] *= backoff;
        scale[2] = 0.0f;
    } else if (++scale[2] >= interval) {
        scale[0] *= growth;
        scale[2] = 0.0f;
    }
    scale[1] = 1.0f / scale[0];
    *overflow = 0;
}
