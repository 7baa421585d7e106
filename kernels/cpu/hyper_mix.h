/* The part hyper_pre and hyper_head share: factors of a token's streams and their weighted sum. */
#ifndef SLUICE_KERNELS_CPU_HYPER_MIX_H
#define SLUICE_KERNELS_CPU_HYPER_MIX_H

#include "kernels/cpu/activation.h"
#include "kernels/cpu/rms.h"
#include "kernels/ops.h"

/* factors[i] = sigmoid(mix[i] * inverse * scale + base[i]). */
static inline void hyper_mix_factors(const float *mix, float inverse, float scale,
                                     const float *base, int32_t count, float *factors)
{
    for (int32_t i = 0; i < count; i++)
        factors[i] = activation_sigmoid(mix[i] * inverse * scale + base[i]);
}

/* x[c] = sum over i, ascending, of factors[i] * streams[i][c]; streams [count, hidden]. */
static inline void hyper_mix_fold(const float *streams, const float *factors, int32_t count,
                                  int32_t hidden, bool round, float *x)
{
    for (int32_t c = 0; c < hidden; c++)
        x[c] = factors[0] * streams[c];
    for (int32_t i = 1; i < count; i++) {
        const float *stream = streams + (size_t)i * (size_t)hidden;
        for (int32_t c = 0; c < hidden; c++)
            x[c] += factors[i] * stream[c];
    }
    if (round) quantise_bf16_row(x, x, hidden);
}

#endif
