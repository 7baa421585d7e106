/* The orthonormal Hadamard rotation of the indexer ("Hadamard rotation"), Sylvester order. */
#ifndef SLUICE_KERNELS_CPU_HADAMARD_H
#define SLUICE_KERNELS_CPU_HADAMARD_H

#include "kernels/cpu/quantise.h"

/* x [width] in place, f32 inside, rounded to bf16 once; width is a power of two. */
static inline void hadamard_rotate(float *x, int32_t width)
{
    SL_ASSERT(width > 0 && (width & (width - 1)) == 0);
    for (int32_t half = 1; half < width; half *= 2) {
        for (int32_t first = 0; first < width; first += 2 * half) {
            for (int32_t i = first; i < first + half; i++) {
                float a = x[i];
                float b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
        }
    }
    float scale = (float)(1.0 / sqrt((double)width));
    for (int32_t i = 0; i < width; i++)
        x[i] = bf16_round(x[i] * scale);
}

#endif
