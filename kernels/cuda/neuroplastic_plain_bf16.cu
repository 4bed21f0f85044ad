#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(plain_bf16, bfloat16, Plain, 4, 3)
