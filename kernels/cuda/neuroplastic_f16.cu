#include "neuroplastic_signal.cuh"

NEUROPLASTIC_SIGNAL(f16, half)
