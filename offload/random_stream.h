/* Random numbers that are the same everywhere: xoshiro256++ (Blackman and Vigna, 2019), seeded by
 * splitmix64. For traces and simulations; not for secrets. */
#ifndef SLUICE_OFFLOAD_RANDOM_STREAM_H
#define SLUICE_OFFLOAD_RANDOM_STREAM_H

#include "kernels/base.h"

#include <math.h>

struct random_stream {
    uint64_t state[4];
};

/* One step of splitmix64: also a good hash of a number. */
static inline uint64_t random_mix(uint64_t value)
{
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static inline void random_seed(struct random_stream *random, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        random->state[i] = random_mix(seed + (uint64_t)i * 0x9e3779b97f4a7c15u);
}

static inline uint64_t random_rotate(uint64_t value, int bits)
{
    return (value << bits) | (value >> (64 - bits));
}

static inline uint64_t random_u64(struct random_stream *random)
{
    uint64_t *s = random->state;
    uint64_t result = random_rotate(s[0] + s[3], 23) + s[0];
    uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = random_rotate(s[3], 45);
    return result;
}

/* 0 .. count-1, from 32 bits of randomness. */
static inline int32_t random_below(struct random_stream *random, int32_t count)
{
    return (int32_t)(((random_u64(random) >> 32) * (uint64_t)count) >> 32);
}

/* [0, 1) in steps of 2^-53. */
static inline double random_unit(struct random_stream *random)
{
    return (double)(random_u64(random) >> 11) * 0x1p-53;
}

/* Exponential with this mean. */
static inline double random_exponential(struct random_stream *random, double mean)
{
    return -mean * log(1.0 - random_unit(random));
}

/* Standard normal, by Box and Muller; the second of each pair is thrown away. */
static inline double random_normal(struct random_stream *random)
{
    double radius = sqrt(random_exponential(random, 2.0));
    return radius * cos(6.283185307179586 * random_unit(random));
}

#endif
