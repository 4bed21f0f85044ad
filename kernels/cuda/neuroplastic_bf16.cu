#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_KERNELS(bf16, bfloat16)
