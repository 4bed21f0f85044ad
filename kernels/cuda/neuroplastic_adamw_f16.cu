#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(adamw_f16, half, Adamw, 3, 2)
