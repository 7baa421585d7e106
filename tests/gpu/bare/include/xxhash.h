/* Names of xxHash with another hash (FNV-1a) behind them, for a machine that has only a compiler:
 * SLUICE_GPU_ONLY builds find this header in the library's place. It serves tables in memory. Such
 * a build is no program for users: a packed file made elsewhere fails its checksum here. */
#ifndef SLUICE_TESTS_GPU_BARE_XXHASH_H
#define SLUICE_TESTS_GPU_BARE_XXHASH_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef uint64_t XXH64_hash_t;
typedef struct {
    uint64_t hash;
} XXH3_state_t;

static inline uint64_t XXH3_64bits_withSeed(const void *data, size_t bytes, uint64_t seed)
{
    const uint8_t *at = data;
    uint64_t hash = 0xcbf29ce484222325u ^ seed;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ at[i]) * 0x100000001b3u;
    return hash ^ (hash >> 32);
}

static inline uint64_t XXH3_64bits(const void *data, size_t bytes)
{
    return XXH3_64bits_withSeed(data, bytes, 0);
}

static inline XXH3_state_t *XXH3_createState(void)
{
    return malloc(sizeof(XXH3_state_t));
}

static inline int XXH3_freeState(XXH3_state_t *state)
{
    free(state);
    return 0;
}

static inline int XXH3_64bits_reset(XXH3_state_t *state)
{
    state->hash = 0;
    return 0;
}

static inline int XXH3_64bits_update(XXH3_state_t *state, const void *data, size_t bytes)
{
    state->hash = XXH3_64bits_withSeed(data, bytes, state->hash);
    return 0;
}

static inline uint64_t XXH3_64bits_digest(const XXH3_state_t *state)
{
    return state->hash;
}

#endif
