#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(momentum_f16, half, Momentum, 3, 3)
