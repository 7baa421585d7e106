/* Root mean square of a row and the norm with it ("RMS norm"). */
#ifndef SLUICE_KERNELS_CPU_RMS_H
#define SLUICE_KERNELS_CPU_RMS_H

#include "kernels/cpu/dot.h"
#include "kernels/cpu/quantise.h"

/* 1 / sqrt(mean(x^2) + epsilon). */
static inline float rms_inverse(const float *x, int32_t width, float epsilon)
{
    return 1.0f / sqrtf(dot_f32(x, x, width) / (float)width + epsilon);
}

/* out = weight * (x * rms_inverse); out may be x. */
static inline void rms_norm(const float *x, const uint16_t *weight, float *out, int32_t width,
                            float epsilon, bool round)
{
    float inverse = rms_inverse(x, width, epsilon);
    for (int32_t i = 0; i < width; i++)
        out[i] = bf16_decode(weight[i]) * (x[i] * inverse);
    if (round) quantise_bf16_row(out, out, width);
}

#endif
