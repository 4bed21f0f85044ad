#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(plain_f32, float, Plain, 4, 3)
