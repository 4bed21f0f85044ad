#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(adamw_bf16, bfloat16, Adamw, 3, 2)
