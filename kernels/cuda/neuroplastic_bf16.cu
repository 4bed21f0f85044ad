#include "neuroplastic_signal.cuh"

NEUROPLASTIC_SIGNAL(bf16, bfloat16)
