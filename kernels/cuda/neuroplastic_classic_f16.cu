#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(classic_f16, half, Classic, 3, 2)
NEUROPLASTIC_SWEEP(project, classic_f16, half, Classic, PROJECT, 3)
