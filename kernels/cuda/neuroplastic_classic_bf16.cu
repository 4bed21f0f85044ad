#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(classic_bf16, bfloat16, Classic, 3, 2)
NEUROPLASTIC_SWEEP(project, classic_bf16, bfloat16, Classic, PROJECT, 3)
