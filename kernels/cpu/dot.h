/* Sums of products in one fixed order, whatever the compiler or the processor: sixteen
 * independent f32 lanes, then a tree over them. The lanes are what lets a compiler vectorise
 * without being allowed to reorder. */
#ifndef SLUICE_KERNELS_CPU_DOT_H
#define SLUICE_KERNELS_CPU_DOT_H

#include <stdint.h>

#define DOT_LANES 16

/* Sum of the lanes by halves; destroys them. */
static inline float dot_fold(float *lanes)
{
    for (int half = DOT_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

/* Sum of a[i] * b[i] for i in 0 .. count-1; element i goes to lane i mod DOT_LANES. */
static inline float dot_f32(const float *a, const float *b, int32_t count)
{
    float lanes[DOT_LANES] = {0};
    int32_t i = 0;
    for (; i + DOT_LANES <= count; i += DOT_LANES)
        for (int lane = 0; lane < DOT_LANES; lane++)
            lanes[lane] += a[i + lane] * b[i + lane];
    for (int lane = 0; i + lane < count; lane++)
        lanes[lane] += a[i + lane] * b[i + lane];
    return dot_fold(lanes);
}

/* Sum of a[i], in the same order. */
static inline float dot_sum_f32(const float *a, int32_t count)
{
    float lanes[DOT_LANES] = {0};
    int32_t i = 0;
    for (; i + DOT_LANES <= count; i += DOT_LANES)
        for (int lane = 0; lane < DOT_LANES; lane++)
            lanes[lane] += a[i + lane];
    for (int lane = 0; i + lane < count; lane++)
        lanes[lane] += a[i + lane];
    return dot_fold(lanes);
}

#endif
