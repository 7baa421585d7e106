/* Pieces of an expert's weight tile in AVX-512 registers, for the files that multiply with them. */
#ifndef SLUICE_KERNELS_CPU_EXPERT_TILE_AVX512_H
#define SLUICE_KERNELS_CPU_EXPERT_TILE_AVX512_H

#include <immintrin.h>
#include <stdint.h>

/* bf16 of the 16 e2m1 codes, twice: vpermw looks at five bits of an index, and the fifth belongs to
 * the next nibble. */
static inline __m512i expert_tile_table(void)
{
    static const uint16_t e2m1_as_bf16[16] = {
        0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
        0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
    };
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)e2m1_as_bf16));
}

/* 2^(code - 127) of 16 rows; the least, code 0, is subnormal. */
static inline __m512 expert_tile_scales(const uint8_t *codes)
{
    __m512i exponents = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)codes));
    __m512i bits = _mm512_slli_epi32(exponents, 23);
    return _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(0x400000)));
}

#endif
