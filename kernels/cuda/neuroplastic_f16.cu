#include "neuroplastic_kernels.cuh"

NEUROPLASTIC_KERNELS(f16, half)
