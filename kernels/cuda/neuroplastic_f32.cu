#include "neuroplastic_signal.cuh"

NEUROPLASTIC_SIGNAL(f32, float)
