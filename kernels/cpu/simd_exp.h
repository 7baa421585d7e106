/* e^x in vector lanes. */
#ifndef SLUICE_KERNELS_CPU_SIMD_EXP_H
#define SLUICE_KERNELS_CPU_SIMD_EXP_H

#include "kernels/cpu/simd.h"

/* For x <= 0, within 2 ulp down to 2^-126 and 0 below; 0 for -infinity, and NaN for NaN. */
SIMD_INLINE simd_f32 simd_exp(simd_f32 x)
{
    /* x = n * ln 2 + r, |r| <= ln 2 / 2; e^r by its series, whose next term is below 1e-8. */
    simd_f32 bounded = simd_max(simd_set1(-104.0f), x);
    simd_f32 n = simd_round(simd_mul(bounded, simd_set1(1.44269504f)));
    simd_f32 r = simd_fma(n, simd_set1(-0.693145752f), bounded);
    r = simd_fma(n, simd_set1(-1.42860682e-6f), r);
    simd_f32 sum = simd_set1(1.0f / 5040);
    sum = simd_fma(sum, r, simd_set1(1.0f / 720));
    sum = simd_fma(sum, r, simd_set1(1.0f / 120));
    sum = simd_fma(sum, r, simd_set1(1.0f / 24));
    sum = simd_fma(sum, r, simd_set1(1.0f / 6));
    sum = simd_fma(sum, r, simd_set1(0.5f));
    sum = simd_fma(sum, r, simd_set1(1.0f));
    sum = simd_fma(sum, r, simd_set1(1.0f));
    return simd_scale_pow2(sum, n);
}

#endif
