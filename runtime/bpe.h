/* Byte-pair encoding: the merges of a tokenizer, and their application to one piece of text.
 *
 * A piece starts as one token a byte; the adjacent pair with the lowest rank is joined, the
 * leftmost among equals, until no adjacent pair has a rank. The struct is filled once and read only
 * afterwards, so threads may share it. Fails only for want of memory. */
#ifndef SLUICE_RUNTIME_BPE_H
#define SLUICE_RUNTIME_BPE_H

#include "kernels/base.h"

/* Longest piece: positions are 32 bits, and the queue of a piece holds three entries a byte. */
#define BPE_PIECE_BYTES_MAX (1u << 30)

/* A list of ids that grows; zero-initialise, free `ids`. */
struct bpe_ids {
    int32_t *ids; /* [count] of [capacity] */
    size_t count, capacity;
};

SL_MUST_USE enum sl_status bpe_ids_reserve(struct bpe_ids *list, size_t more);

struct bpe;

/* Room for `merges` merges; byte_ids [256] are the ids of the single bytes. */
SL_MUST_USE enum sl_status bpe_create(size_t merges, const int32_t *byte_ids, struct bpe **out);
void bpe_destroy(struct bpe *bpe); /* NULL is allowed */

/* Adds a merge, at most as many as bpe_create was told; ids and rank are not negative. False when
 * the pair is there already. */
bool bpe_add(struct bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t result);

/* Appends the ids of `piece`. SL_ERR_NO_MEMORY, or SL_ERR_LIMIT for a piece that is too long. Time
 * grows as n log n. */
SL_MUST_USE enum sl_status bpe_encode(const struct bpe *bpe, const char *piece, size_t bytes,
                                      struct bpe_ids *out);

#endif
