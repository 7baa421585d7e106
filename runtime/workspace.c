/* Carves the chunk's arrays out of one block; see the header. */
#include "runtime/workspace.h"

#include <string.h>
#include <sys/mman.h>

#define WORKSPACE_ALIGNMENT 256u /* no two arrays share what one memory transaction fetches */

struct field {
    size_t member;  /* offset of the pointer in struct workspace */
    uint64_t count; /* elements of four bytes, or what has as many bytes */
    bool shared;    /* read or written by the host */
};

/* Fields in the order of the struct; returns how many. Counts are bounded by model_config, so the
 * products of three of them fit in 64 bits. */
#define WORKSPACE_FIELDS_MAX 56

static uint64_t logits_rows(uint64_t tokens)
{
    return tokens < WORKSPACE_LOGITS_ROWS ? tokens : WORKSPACE_LOGITS_ROWS;
}

static int32_t list_fields(const struct model_config *c, uint64_t tokens, uint64_t context,
                           bool with_gpu, struct field *fields)
{
    uint64_t hidden = (uint64_t)c->hidden, streams = (uint64_t)c->streams;
    uint64_t top = (uint64_t)c->experts_per_token, width = (uint64_t)c->expert_width;
    uint64_t heads = (uint64_t)c->heads * (uint64_t)c->head_dim;
    uint64_t index = (uint64_t)c->index_heads * (uint64_t)c->index_dim;
    uint64_t twins = with_gpu ? tokens : 0;
    int32_t n = 0;
#define FIELD(name, count_)                                                                        \
    fields[n++] = (struct field){offsetof(struct workspace, name), (count_), false}
#define SHARED(name, count_)                                                                       \
    fields[n++] = (struct field)                                                                   \
    {                                                                                              \
        offsetof(struct workspace, name), (count_), true                                           \
    }
    FIELD(positions, tokens);
    FIELD(ids, twins);
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
    FIELD(compress_keys, tokens * 2 * (uint64_t)c->head_dim);
    FIELD(compress_gates, tokens * 2 * (uint64_t)c->head_dim);
    FIELD(index_keys, tokens * 2 * (uint64_t)c->index_dim);
    FIELD(index_gates, tokens * 2 * (uint64_t)c->index_dim);
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
    FIELD(logits, logits_rows(twins) * (uint64_t)c->vocab);
    SHARED(expert_first, (uint64_t)c->experts + 1);
    SHARED(token_rows, 3 * tokens * top);
    FIELD(gpu_rows, 3 * twins * top);
    SHARED(host_tasks, 2 * twins * top * (sizeof(struct expert_task) / 4));
    FIELD(tasks, 2 * twins * top * (sizeof(struct expert_task) / 4));
    SHARED(host_gather, twins * top);
    FIELD(gather, twins * top);
    SHARED(flags, with_gpu ? 3 * (uint64_t)c->layers : 0);
    SHARED(host_positions, twins);
    SHARED(host_ids, twins);
    SHARED(host_chosen, twins * top);
    SHARED(host_chosen_weights, twins * top);
    SHARED(host_x, twins * hidden);
    SHARED(host_routed, twins * top * hidden);
    SHARED(host_scratch, twins * 3 * width);
    SHARED(host_logits, logits_rows(twins) * (uint64_t)c->vocab);
#undef FIELD
#undef SHARED
    SL_ASSERT(n <= WORKSPACE_FIELDS_MAX);
    return n;
}

struct workspace_size workspace_size(const struct model_config *config, int32_t chunk_tokens,
                                     int32_t context_tokens, bool with_gpu)
{
    struct field fields[WORKSPACE_FIELDS_MAX];
    struct workspace_size size = {0, 0};
    SL_ASSERT(chunk_tokens > 0 && context_tokens > 0);
    int32_t count =
        list_fields(config, (uint64_t)chunk_tokens, (uint64_t)context_tokens, with_gpu, fields);
    for (int32_t idx = 0; idx < count; idx++) {
        uint64_t *total = with_gpu && !fields[idx].shared ? &size.gpu_bytes : &size.ram_bytes;
        if (fields[idx].count > UINT64_MAX / 8 ||
            !checked_add(*total, align_up(4 * fields[idx].count, WORKSPACE_ALIGNMENT), total))
            return (struct workspace_size){0, 0};
    }
    return size;
}

/* Without a GPU what the host sees is the array itself. */
static void join_twins(struct workspace *ws)
{
    ws->host_positions = ws->positions;
    ws->host_ids = ws->ids;
    ws->host_chosen = ws->chosen;
    ws->host_chosen_weights = ws->chosen_weights;
    ws->host_x = ws->x;
    ws->host_routed = ws->routed;
    ws->host_scratch = ws->expert_scratch;
}

static enum sl_status take_memory(struct workspace *ws, const struct workspace_size *size)
{
    if (ws->gpu) {
        const struct gpu_ops *ops = ws->gpu->gpu_ops;
        SL_TRY(ops->alloc(ws->gpu, GPU_DEVICE, size->gpu_bytes, &ws->own_memory, NULL));
        return ops->alloc(ws->gpu, GPU_MAPPED, size->ram_bytes, &ws->memory, NULL);
    }
    void *memory =
        mmap(NULL, size->ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return SL_ERR_NO_MEMORY;
    ws->memory = memory;
    return SL_OK;
}

enum sl_status workspace_create(const struct workspace_options *options, struct workspace **out)
{
    struct field fields[WORKSPACE_FIELDS_MAX];
    bool with_gpu = options->gpu != NULL;
    struct workspace_size size =
        workspace_size(options->config, options->chunk_tokens, options->context_tokens, with_gpu);
    *out = NULL;
    if (size.ram_bytes == 0 || size.ram_bytes > SIZE_MAX / 2) return SL_ERR_NO_MEMORY;
    struct workspace *workspace = calloc(1, sizeof *workspace);
    if (!workspace) return SL_ERR_NO_MEMORY;
    workspace->gpu = options->gpu;
    workspace->memory_bytes = size.ram_bytes;
    workspace->chunk_tokens = options->chunk_tokens;
    workspace->logits_rows = options->gpu ? (int32_t)logits_rows((uint64_t)options->chunk_tokens)
                                          : options->chunk_tokens;
    if (take_memory(workspace, &size) != SL_OK) {
        workspace_destroy(workspace);
        return SL_ERR_NO_MEMORY;
    }

    int32_t count = list_fields(options->config, (uint64_t)options->chunk_tokens,
                                (uint64_t)options->context_tokens, with_gpu, fields);
    uint8_t *next = workspace->memory, *own = workspace->own_memory;
    for (int32_t idx = 0; idx < count; idx++) {
        uint8_t **from = with_gpu && !fields[idx].shared ? &own : &next;
        void *piece = *from;
        /* Every member listed is an object pointer. */
        memcpy((char *)workspace + fields[idx].member, &piece, sizeof piece);
        *from += align_up(4 * fields[idx].count, WORKSPACE_ALIGNMENT);
    }
    SL_ASSERT((size_t)(next - (uint8_t *)workspace->memory) == size.ram_bytes);
    size_t pairs = (size_t)options->chunk_tokens * (size_t)options->config->experts_per_token;
    workspace->output_rows = workspace->token_rows + pairs;
    workspace->task_weights = (float *)(workspace->output_rows + pairs);
    if (!with_gpu) join_twins(workspace);
    *out = workspace;
    return SL_OK;
}

void workspace_destroy(struct workspace *workspace)
{
    if (!workspace) return;
    if (workspace->gpu) {
        workspace->gpu->gpu_ops->free(workspace->gpu, GPU_MAPPED, workspace->memory);
        workspace->gpu->gpu_ops->free(workspace->gpu, GPU_DEVICE, workspace->own_memory);
    } else if (workspace->memory) {
        munmap(workspace->memory, workspace->memory_bytes);
    }
    free(workspace);
}
