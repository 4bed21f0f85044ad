#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_STEP(plain_f16, half, Plain, 4, 3)
