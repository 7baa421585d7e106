/* Vectors of f32 under one set of names for AVX2 and AVX-512, for code that is the same on both
 * but for the width. Include only from files compiled for one of them (`*_avx2.c`, `*_avx512.c`).
 */
#ifndef SLUICE_KERNELS_CPU_SIMD_H
#define SLUICE_KERNELS_CPU_SIMD_H

#include <immintrin.h>
#include <stdint.h>

#define SIMD_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)

#define SIMD_LANES 16
typedef __m512 simd_f32;

SIMD_INLINE simd_f32 simd_zero(void)
{
    return _mm512_setzero_ps();
}

SIMD_INLINE simd_f32 simd_set1(float value)
{
    return _mm512_set1_ps(value);
}

SIMD_INLINE simd_f32 simd_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

SIMD_INLINE void simd_store(float *p, simd_f32 value)
{
    _mm512_storeu_ps(p, value);
}

SIMD_INLINE simd_f32 simd_add(simd_f32 a, simd_f32 b)
{
    return _mm512_add_ps(a, b);
}

SIMD_INLINE simd_f32 simd_sub(simd_f32 a, simd_f32 b)
{
    return _mm512_sub_ps(a, b);
}

SIMD_INLINE simd_f32 simd_mul(simd_f32 a, simd_f32 b)
{
    return _mm512_mul_ps(a, b);
}

/* a * b + c, rounded once. */
SIMD_INLINE simd_f32 simd_fma(simd_f32 a, simd_f32 b, simd_f32 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

SIMD_INLINE simd_f32 simd_max(simd_f32 a, simd_f32 b)
{
    return _mm512_max_ps(a, b);
}

/* The nearest bf16 values; a NaN must be a bf16 value already. */
SIMD_INLINE simd_f32 simd_round_bf16(simd_f32 value)
{
    __m512i bits = _mm512_castps_si512(value);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000u)));
}

/* bf16 codes, at any address. */
SIMD_INLINE simd_f32 simd_from_bf16(const void *codes)
{
    __m256i words = _mm256_loadu_si256((const __m256i *)codes);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

/* e4m3 codes; the two NaN codes, which no checkpoint holds, count as +-480. The code's digits moved
 * into fp16 mean the value / 256, also where it is subnormal. */
SIMD_INLINE simd_f32 simd_from_e4m3(const uint8_t *codes)
{
    __m256i half = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes));
    half = _mm256_srai_epi16(_mm256_slli_epi16(half, 8), 1);
    half = _mm256_and_si256(half, _mm256_set1_epi16((int16_t)0xbfff));
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
}

/* 1/256 of the values of 2 * SIMD_LANES e4m3 codes, for who multiplies sums by 256 instead. */
SIMD_INLINE void simd_pair_from_e4m3(const uint8_t *codes, simd_f32 *out)
{
    __m512i half = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)codes));
    half = _mm512_and_si512(_mm512_slli_epi16(half, 7), _mm512_set1_epi16((int16_t)0xbfff));
    out[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(half));
    out[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1));
}

/* The four sums of the lanes of a, b, c and d, each in the same order. */
SIMD_INLINE __m128 simd_sum4(simd_f32 a, simd_f32 b, simd_f32 c, simd_f32 d)
{
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
    __m512 high = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
    __m512 lanes = _mm512_add_ps(low, high);
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* 2^n for whole n; 0 below the normal numbers. */
SIMD_INLINE simd_f32 simd_scale_pow2(simd_f32 value, simd_f32 n)
{
    return _mm512_scalef_ps(value, n);
}

SIMD_INLINE simd_f32 simd_round(simd_f32 value)
{
    return _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#else

#define SIMD_LANES 8
typedef __m256 simd_f32;

SIMD_INLINE simd_f32 simd_zero(void)
{
    return _mm256_setzero_ps();
}

SIMD_INLINE simd_f32 simd_set1(float value)
{
    return _mm256_set1_ps(value);
}

SIMD_INLINE simd_f32 simd_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

SIMD_INLINE void simd_store(float *p, simd_f32 value)
{
    _mm256_storeu_ps(p, value);
}

SIMD_INLINE simd_f32 simd_add(simd_f32 a, simd_f32 b)
{
    return _mm256_add_ps(a, b);
}

SIMD_INLINE simd_f32 simd_sub(simd_f32 a, simd_f32 b)
{
    return _mm256_sub_ps(a, b);
}

SIMD_INLINE simd_f32 simd_mul(simd_f32 a, simd_f32 b)
{
    return _mm256_mul_ps(a, b);
}

SIMD_INLINE simd_f32 simd_fma(simd_f32 a, simd_f32 b, simd_f32 c)
{
    return _mm256_fmadd_ps(a, b, c);
}

SIMD_INLINE simd_f32 simd_max(simd_f32 a, simd_f32 b)
{
    return _mm256_max_ps(a, b);
}

SIMD_INLINE simd_f32 simd_round_bf16(simd_f32 value)
{
    __m256i bits = _mm256_castps_si256(value);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000u)));
}

SIMD_INLINE simd_f32 simd_from_bf16(const void *codes)
{
    __m128i words = _mm_loadu_si128((const __m128i *)codes);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}

SIMD_INLINE simd_f32 simd_from_e4m3(const uint8_t *codes)
{
    __m128i half = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)codes));
    half = _mm_srai_epi16(_mm_slli_epi16(half, 8), 1);
    half = _mm_and_si128(half, _mm_set1_epi16((int16_t)0xbfff));
    return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}

SIMD_INLINE void simd_pair_from_e4m3(const uint8_t *codes, simd_f32 *out)
{
    __m256i half = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)codes));
    half = _mm256_and_si256(_mm256_slli_epi16(half, 7), _mm256_set1_epi16((int16_t)0xbfff));
    out[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(half));
    out[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1));
}

SIMD_INLINE __m128 simd_sum4(simd_f32 a, simd_f32 b, simd_f32 c, simd_f32 d)
{
    __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    __m256 low = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd)));
    __m256 high = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd)));
    __m256 lanes = _mm256_add_ps(low, high);
    return _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
}

SIMD_INLINE simd_f32 simd_scale_pow2(simd_f32 value, simd_f32 n)
{
    __m256 floor = _mm256_set1_ps(-127.0f);
    __m256i exponent = _mm256_cvtps_epi32(_mm256_max_ps(n, floor));
    exponent = _mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(value, _mm256_castsi256_ps(exponent));
}

SIMD_INLINE simd_f32 simd_round(simd_f32 value)
{
    return _mm256_round_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#endif
#endif
