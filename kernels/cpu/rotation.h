/* Rotation of adjacent pairs by a position ("Rotary embedding"). */
#ifndef SLUICE_KERNELS_CPU_ROTATION_H
#define SLUICE_KERNELS_CPU_ROTATION_H

#include "kernels/cpu/quantise.h"
#include "kernels/ops.h"

/* Cosines and sines of one position. */
struct rotation {
    float cosine[OPS_HEAD_DIM_MAX / 2];
    float sine[OPS_HEAD_DIM_MAX / 2];
    int32_t pairs;
};

static inline void rotation_init(struct rotation *rotation, int32_t position,
                                 const float *frequencies, int32_t pairs)
{
    rotation->pairs = pairs;
    for (int32_t j = 0; j < pairs; j++) {
        /* The published angle is this f32 product; only what follows may be more precise. */
        float angle = (float)position * frequencies[j];
        rotation->cosine[j] = (float)cos((double)angle);
        rotation->sine[j] = (float)sin((double)angle);
    }
}

/* x [2 * pairs], in place. */
static inline void rotation_apply(const struct rotation *rotation, float *x, bool inverse,
                                  bool round)
{
    for (int32_t j = 0; j < rotation->pairs; j++) {
        float a = x[2 * j];
        float b = x[2 * j + 1];
        float cosine = rotation->cosine[j];
        float sine = inverse ? -rotation->sine[j] : rotation->sine[j];
        x[2 * j] = quantise_bf16_if(a * cosine - b * sine, round);
        x[2 * j + 1] = quantise_bf16_if(a * sine + b * cosine, round);
    }
}

#endif
