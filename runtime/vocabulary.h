/* The tokens of a tokenizer by id: their raw bytes, and which ids exist.
 *
 * Owns its memory; filled once and read only afterwards. Fails only for want of memory. */
#ifndef SLUICE_RUNTIME_VOCABULARY_H
#define SLUICE_RUNTIME_VOCABULARY_H

#include "kernels/base.h"

/* Ids are below this. */
#define VOCABULARY_IDS_MAX (1 << 24)

struct vocabulary_token {
    uint32_t offset_bytes; /* into the text */
    uint32_t bytes;
    bool present;
};

struct vocabulary {
    struct vocabulary_token *tokens; /* [ids] */
    int32_t ids;                     /* highest + 1 */
    char *text;                      /* [text_bytes_max], of all tokens one after the other */
    size_t text_bytes, text_bytes_max;
};

SL_MUST_USE enum sl_status vocabulary_init(struct vocabulary *vocabulary, int32_t ids,
                                           size_t text_bytes_max);
void vocabulary_deinit(struct vocabulary *vocabulary);

/* Sets the bytes of an id below `ids`, in place of those it may have had; all bytes ever set fit in
 * text_bytes_max. */
void vocabulary_put(struct vocabulary *vocabulary, int32_t id, const char *data, size_t bytes);

/* Borrowed bytes, not zero-terminated; NULL and 0 for an id that is none. */
const char *vocabulary_bytes(const struct vocabulary *vocabulary, int32_t id, size_t *bytes);

#endif
