#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(classic_f32, float, Classic, 3, 2)
NEUROPLASTIC_SWEEP(project, classic_f32, float, Classic, PROJECT, 3)
