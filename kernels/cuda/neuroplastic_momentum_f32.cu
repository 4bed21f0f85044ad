#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(momentum_f32, float, Momentum, 3, 3)
