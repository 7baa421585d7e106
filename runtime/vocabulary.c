/* A table of tokens by id over one block of text; see the header. */
#include "runtime/vocabulary.h"

#include <string.h>

enum sl_status vocabulary_init(struct vocabulary *vocabulary, int32_t ids, size_t text_bytes_max)
{
    SL_ASSERT(ids > 0 && ids <= VOCABULARY_IDS_MAX);
    SL_ASSERT(text_bytes_max > 0 && text_bytes_max <= UINT32_MAX);
    *vocabulary = (struct vocabulary){.ids = ids, .text_bytes_max = text_bytes_max};
    vocabulary->tokens = calloc((size_t)ids, sizeof *vocabulary->tokens);
    vocabulary->text = malloc(text_bytes_max);
    if (vocabulary->tokens && vocabulary->text) return SL_OK;
    vocabulary_deinit(vocabulary);
    return SL_ERR_NO_MEMORY;
}

void vocabulary_deinit(struct vocabulary *vocabulary)
{
    free(vocabulary->tokens);
    free(vocabulary->text);
    *vocabulary = (struct vocabulary){0};
}

void vocabulary_put(struct vocabulary *vocabulary, int32_t id, const char *data, size_t bytes)
{
    SL_ASSERT(id >= 0 && id < vocabulary->ids);
    SL_ASSERT(bytes <= vocabulary->text_bytes_max - vocabulary->text_bytes);
    memcpy(vocabulary->text + vocabulary->text_bytes, data, bytes);
    vocabulary->tokens[id] = (struct vocabulary_token){
        .offset_bytes = (uint32_t)vocabulary->text_bytes,
        .bytes = (uint32_t)bytes,
        .present = true,
    };
    vocabulary->text_bytes += bytes;
}

const char *vocabulary_bytes(const struct vocabulary *vocabulary, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || id >= vocabulary->ids || !vocabulary->tokens[id].present) return NULL;
    *bytes = vocabulary->tokens[id].bytes;
    return vocabulary->text + vocabulary->tokens[id].offset_bytes;
}
