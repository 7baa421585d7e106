/* Carves the chunk's arrays out of one block; see the header. */
#include "runtime/workspace.h"

#include <string.h>
#include <sys/mman.h>

struct field {
    size_t member;  /* offset of the pointer in struct workspace */
    uint64_t count; /* elements, all of four bytes */
};

/* Fields in the order of the struct; returns how many. Counts are bounded by model_config, so the
 * products of three of them fit in 64 bits. */
#define WORKSPACE_FIELDS_MAX 40

static int32_t list_fields(const struct model_config *c, uint64_t tokens, uint64_t context,
                           struct field *fields)
{
    uint64_t hidden = (uint64_t)c->hidden, streams = (uint64_t)c->streams;
    uint64_t top = (uint64_t)c->experts_per_token, width = (uint64_t)c->expert_width;
    uint64_t heads = (uint64_t)c->heads * (uint64_t)c->head_dim;
    uint64_t index = (uint64_t)c->index_heads * (uint64_t)c->index_dim;
    uint64_t halves = 2 * (uint64_t)max_i32(c->head_dim, c->index_dim);
    int32_t n = 0;
#define FIELD(name, count_) fields[n++] = (struct field){offsetof(struct workspace, name), (count_)}
    FIELD(positions, tokens);
    FIELD(streams, tokens * streams * hidden);
    FIELD(x, tokens * hidden);
    FIELD(y, tokens * hidden);
    FIELD(mix, tokens * (2 + streams) * streams);
    FIELD(post, tokens * streams);
    FIELD(comb, tokens * streams * streams);
    FIELD(query_rank, tokens * (uint64_t)c->query_rank);
    FIELD(queries, tokens * heads);
    FIELD(kv, tokens * (uint64_t)c->head_dim);
    FIELD(heads_out, tokens * heads);
    FIELD(output_rank, tokens * (uint64_t)c->output_groups * (uint64_t)c->output_rank);
    FIELD(compress_keys, tokens * halves);
    FIELD(compress_gates, tokens * halves);
    FIELD(index_queries, tokens * index);
    FIELD(index_weights, tokens * (uint64_t)c->index_heads);
    FIELD(index_scores, context / 4 + 1);
    FIELD(selected, tokens * (uint64_t)c->index_top);
    FIELD(router_logits, tokens * (uint64_t)c->experts);
    FIELD(chosen, tokens * top);
    FIELD(chosen_weights, tokens * top);
    FIELD(routed, tokens * top * hidden);
    FIELD(shared_gate, tokens * width);
    FIELD(shared_up, tokens * width);
    FIELD(expert_scratch, tokens * 3 * width);
    FIELD(hidden, c->mtp_layers ? tokens * streams * hidden : 0);
    FIELD(embedding, c->mtp_layers ? tokens * hidden : 0);
    FIELD(next_ids, tokens);
    FIELD(expert_first, (uint64_t)c->experts + 1);
    FIELD(token_rows, tokens * top);
    FIELD(output_rows, tokens * top);
    FIELD(task_weights, tokens * top);
#undef FIELD
    SL_ASSERT(n <= WORKSPACE_FIELDS_MAX);
    return n;
}

uint64_t workspace_bytes(const struct model_config *config, int32_t chunk_tokens,
                         int32_t context_tokens)
{
    struct field fields[WORKSPACE_FIELDS_MAX];
    SL_ASSERT(chunk_tokens > 0 && context_tokens > 0);
    int32_t count = list_fields(config, (uint64_t)chunk_tokens, (uint64_t)context_tokens, fields);
    uint64_t total = 0;
    for (int32_t idx = 0; idx < count; idx++) {
        if (fields[idx].count > UINT64_MAX / 8 ||
            !checked_add(total, align_up(4 * fields[idx].count, 64), &total))
            return 0;
    }
    return total;
}

enum sl_status workspace_create(const struct model_config *config, int32_t chunk_tokens,
                                int32_t context_tokens, struct workspace **out)
{
    struct field fields[WORKSPACE_FIELDS_MAX];
    uint64_t bytes = workspace_bytes(config, chunk_tokens, context_tokens);
    *out = NULL;
    if (bytes == 0 || bytes > SIZE_MAX / 2) return SL_ERR_NO_MEMORY;
    struct workspace *workspace = calloc(1, sizeof *workspace);
    if (!workspace) return SL_ERR_NO_MEMORY;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        free(workspace);
        return SL_ERR_NO_MEMORY;
    }
    workspace->memory = memory;
    workspace->memory_bytes = bytes;
    workspace->chunk_tokens = chunk_tokens;

    int32_t count = list_fields(config, (uint64_t)chunk_tokens, (uint64_t)context_tokens, fields);
    uint8_t *next = memory;
    for (int32_t idx = 0; idx < count; idx++) {
        void *piece = next;
        /* Every member listed is an object pointer to a four-byte type. */
        memcpy((char *)workspace + fields[idx].member, &piece, sizeof piece);
        next += align_up(4 * fields[idx].count, 64);
    }
    SL_ASSERT((size_t)(next - (uint8_t *)memory) == bytes);
    *out = workspace;
    return SL_OK;
}

void workspace_destroy(struct workspace *workspace)
{
    if (!workspace) return;
    munmap(workspace->memory, workspace->memory_bytes);
    free(workspace);
}
