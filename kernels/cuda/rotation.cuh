/* Cosine and sine of a rotary angle ("Rotary embedding"), and the rotation of a pair.
 *
 * The published angle is the f32 product of position and frequency; what follows is done in double,
 * as by the twin. The library's own functions take a slow path through local memory for large
 * angles, and positions near 10^6 are the point here, so the reduction is written out. */
#ifndef SLUICE_KERNELS_CUDA_ROTATION_CUH
#define SLUICE_KERNELS_CUDA_ROTATION_CUH

#include "kernels/cuda/numerics.cuh"

struct rotation {
    float cosine, sine;
};

/* f32 cosine and sine of an angle below 2^31 in magnitude; infinite or NaN angles give NaN. Before
 * the rounding to f32 the error is below 1e-15, so the result is the nearest value but for one in
 * some 10^8 angles. */
static __device__ __forceinline__ struct rotation rotation_of_angle(float angle)
{
    const double two_over_pi = 0.63661977236758134308;
    const double half_pi_high = 1.5707963267948965580;    /* the nearest double */
    const double half_pi_low = 6.1232339957367660359e-17; /* what it lacks */
    double a = (double)angle;
    double quarter = rint(a * two_over_pi);
    /* Each fma rounds once, relative to its small result: nothing is lost by the cancellation. */
    double r = fma(-quarter, half_pi_high, a);
    r = fma(-quarter, half_pi_low, r);
    double r2 = r * r;
    /* Taylor up to r^17 and r^18: below 1e-17 for |r| <= pi/4. */
    double s = 2.8114572543455207632e-15;
    s = fma(s, r2, -7.6471637318198164759e-13);
    s = fma(s, r2, 1.6059043836821614599e-10);
    s = fma(s, r2, -2.5052108385441718775e-8);
    s = fma(s, r2, 2.7557319223985890653e-6);
    s = fma(s, r2, -1.9841269841269841270e-4);
    s = fma(s, r2, 8.3333333333333333333e-3);
    s = fma(s, r2, -1.6666666666666666667e-1);
    s = fma(s * r2, r, r);
    double c = -1.5619206968586226462e-16;
    c = fma(c, r2, 4.7794773323873852974e-14);
    c = fma(c, r2, -1.1470745597729724714e-11);
    c = fma(c, r2, 2.0876756987868098979e-9);
    c = fma(c, r2, -2.7557319223985890653e-7);
    c = fma(c, r2, 2.4801587301587301587e-5);
    c = fma(c, r2, -1.3888888888888888889e-3);
    c = fma(c, r2, 4.1666666666666666667e-2);
    c = fma(c, r2, -0.5);
    c = fma(c, r2, 1.0);
    int32_t turn = (int32_t)(int64_t)quarter & 3;
    struct rotation rotation;
    rotation.cosine = (float)(turn == 0 ? c : turn == 1 ? -s : turn == 2 ? -c : s);
    rotation.sine = (float)(turn == 0 ? s : turn == 1 ? c : turn == 2 ? -s : -c);
    return rotation;
}

/* (x0, x1) rotated in place, by the twin's operations. */
static __device__ __forceinline__ void rotation_apply(struct rotation rotation, bool inverse,
                                                      bool round, float *x0, float *x1)
{
    float a = *x0;
    float b = *x1;
    float sine = inverse ? -rotation.sine : rotation.sine;
    *x0 = round_if(a * rotation.cosine - b * sine, round);
    *x1 = round_if(a * sine + b * rotation.cosine, round);
}

#endif
