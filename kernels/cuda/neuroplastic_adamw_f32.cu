#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(adamw_f32, float, Adamw, 3, 2)
