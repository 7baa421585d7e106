/* Checkpoints for tests: a tiny random one, copies of it, and changes to their headers. */
#ifndef SLUICE_TESTS_SUPPORT_CHECKPOINT_H
#define SLUICE_TESTS_SUPPORT_CHECKPOINT_H

#include "kernels/base.h"

/* Writes the tiny preset with this seed into a fresh directory; the caller removes it. */
char *checkpoint_make(uint64_t seed);

/* A fresh directory with the same JSON and safetensors files, without what lies below or beside
 * them; the caller removes the tree and frees the path. */
char *checkpoint_copy(const char *directory);
/* The same of golden model `model`. */
char *checkpoint_copy_golden(const char *model);

/* Replaces the first occurrence of `find` in a small text file; fails the test if there is none. */
void checkpoint_edit_text(const char *directory, const char *file, const char *find,
                          const char *replacement);

/* The same in the header of a shard, whose length is put right; the data stay. */
void checkpoint_edit_header(const char *directory, const char *file, const char *find,
                            const char *replacement);

/* The shard that the index names for `tensor`; heap memory. */
char *checkpoint_shard_of(const char *directory, const char *tensor);

/* Puts all shards into one model.safetensors and removes shards and index. */
void checkpoint_merge(const char *directory);

#endif
