/* Pointwise functions: sigmoid and the clamped SwiGLU of all experts. */
#ifndef SLUICE_KERNELS_CPU_ACTIVATION_H
#define SLUICE_KERNELS_CPU_ACTIVATION_H

#include <math.h>

static inline float activation_sigmoid(float value)
{
    return 1.0f / (1.0f + expf(-value));
}

/* silu(min(gate, limit)) * clamp(up, +-limit); the comparisons let NaN through. */
static inline float activation_swiglu(float gate, float up, float limit)
{
    if (gate > limit) gate = limit;
    if (up > limit) up = limit;
    if (up < -limit) up = -limit;
    return gate / (1.0f + expf(-gate)) * up;
}

#endif
