#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_KERNELS(f32, float)
