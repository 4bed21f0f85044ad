#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(momentum_bf16, bfloat16, Momentum, 3, 3)
