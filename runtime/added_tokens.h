/* Finds added tokens in text: the leftmost occurrence, and the longest token that starts there.
 *
 * Filled once and read only afterwards. Fails only for want of memory. */
#ifndef SLUICE_RUNTIME_ADDED_TOKENS_H
#define SLUICE_RUNTIME_ADDED_TOKENS_H

#include "kernels/base.h"

/* Longest content: looking for tokens takes at most this many steps a byte of text. */
#define ADDED_TOKENS_CONTENT_BYTES_MAX 1024

struct added_tokens_node;

/* A tree of the tokens' bytes. Zero-initialise. */
struct added_tokens {
    struct added_tokens_node *nodes; /* [count] of [capacity] */
    int32_t count, capacity;
    int32_t starts[256]; /* node of a token's first byte; 0: none starts so */
};

struct added_tokens_match {
    size_t start, bytes;
    int32_t id;
};

void added_tokens_deinit(struct added_tokens *tokens);

/* Adds a token of 1 to ADDED_TOKENS_CONTENT_BYTES_MAX bytes. A content that is there already keeps
 * its first id: the caller rules that out. */
SL_MUST_USE enum sl_status added_tokens_add(struct added_tokens *tokens, const char *content,
                                            size_t bytes, int32_t id);

/* The first token in text[from, bytes); false when there is none. */
bool added_tokens_next(const struct added_tokens *tokens, const char *text, size_t bytes,
                       size_t from, struct added_tokens_match *out);

/* The id of exactly this content, or -1. */
int32_t added_tokens_find(const struct added_tokens *tokens, const char *content, size_t bytes);

#endif
