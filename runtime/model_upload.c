/* Walks all weights once to count and once to copy; see the header. */
#include "runtime/model_upload.h"

#include "offload/arena.h"

#include <string.h>

#define ALIGNMENT 256u

/* On its way through the weights: counts, and copies where there is memory to copy to. */
struct walk {
    struct gpu *gpu; /* NULL: to RAM */
    uint8_t *base;   /* memory there, or NULL: only count */
    uint8_t *piece;  /* mapped, [MODEL_UPLOAD_PIECE_BYTES] */
    uint64_t used_bytes, total_bytes;
    const char *doing; /* for progress */
    model_progress_fn progress;
    void *progress_context;
    enum sl_status status;
    struct sl_error *error;
};

/* Through a piece of pinned RAM: what reads the mapped file is then the host, which survives a file
 * that was cut, and not the device's driver. */
static void copy_up(struct walk *walk, uint8_t *target, const uint8_t *source, uint64_t bytes)
{
    while (bytes > 0 && walk->status == SL_OK) {
        size_t step = bytes < MODEL_UPLOAD_PIECE_BYTES ? (size_t)bytes : MODEL_UPLOAD_PIECE_BYTES;
        memcpy(walk->gpu ? walk->piece : target, source, step);
        if (walk->gpu) {
            walk->gpu->gpu_ops->copy(walk->gpu, target, walk->piece, step);
            walk->status = walk->gpu->gpu_ops->sync(walk->gpu, walk->error);
        }
        target += step;
        source += step;
        bytes -= step;
    }
}

/* Moves one array; returns its address in the device, NULL for none. */
static const void *move(struct walk *walk, const void *data, uint64_t bytes)
{
    if (!data || bytes == 0) return NULL;
    uint64_t start = walk->used_bytes;
    walk->used_bytes += align_up(bytes, ALIGNMENT);
    if (!walk->base) return NULL;
    SL_ASSERT(walk->used_bytes <= walk->total_bytes);
    copy_up(walk, walk->base + start, data, bytes);
    if (walk->status == SL_OK && walk->progress &&
        !walk->progress(walk->progress_context, walk->doing, walk->used_bytes, walk->total_bytes))
        walk->status =
            sl_error_set(walk->error, SL_ERR_CANCELLED, 0, "stopped while %s", walk->doing);
    return walk->base + start;
}

static void move_matrix(struct walk *walk, struct matrix *matrix)
{
    static const uint64_t element_bytes[] = {[MATRIX_F32] = 4, [MATRIX_BF16] = 2, [MATRIX_FP8] = 1};
    uint64_t rows = (uint64_t)matrix->rows, columns = (uint64_t)matrix->columns;
    uint64_t tiles = ((rows + 127) / 128) * ((columns + 127) / 128);
    matrix->data = move(walk, matrix->data, rows * columns * element_bytes[matrix->format]);
    matrix->scale = move(walk, matrix->scale, tiles);
}

static void move_floats(struct walk *walk, const float **data, int64_t count)
{
    *data = move(walk, *data, 4 * (uint64_t)count);
}

static void move_bf16(struct walk *walk, const uint16_t **data, int64_t count)
{
    *data = move(walk, *data, 2 * (uint64_t)count);
}

static void move_hyper(struct walk *walk, struct hyper_weights *hyper, int64_t scales)
{
    int64_t rows = hyper->fn.rows;
    move_matrix(walk, &hyper->fn);
    move_floats(walk, &hyper->base, rows);
    move_floats(walk, &hyper->scale, scales);
}

static void move_compressor(struct walk *walk, struct compressor_weights *weights, int32_t ratio,
                            int32_t width)
{
    int64_t columns = weights->keys.rows;
    move_matrix(walk, &weights->keys);
    move_matrix(walk, &weights->gates);
    move_floats(walk, &weights->ape, columns * ratio);
    move_bf16(walk, &weights->norm, width);
}

static void move_attention(struct walk *walk, const struct model_config *c, int32_t ratio,
                           struct attention_weights *attn)
{
    move_matrix(walk, &attn->query_down);
    move_bf16(walk, &attn->query_norm, c->query_rank);
    move_matrix(walk, &attn->query_up);
    move_matrix(walk, &attn->kv);
    move_bf16(walk, &attn->kv_norm, c->head_dim);
    move_matrix(walk, &attn->output_down);
    move_matrix(walk, &attn->output_up);
    move_floats(walk, &attn->sink, c->heads);
    if (ratio == 0) return;
    move_compressor(walk, &attn->compressor, ratio, c->head_dim);
    if (ratio != 4) return;
    move_matrix(walk, &attn->indexer.queries);
    move_matrix(walk, &attn->indexer.weights);
    move_compressor(walk, &attn->indexer.compressor, ratio, c->index_dim);
}

static void move_layer(struct walk *walk, const struct model_config *c, struct layer_weights *layer)
{
    move_floats(walk, &layer->frequencies, c->rotary / 2);
    move_bf16(walk, &layer->attn_norm, c->hidden);
    move_bf16(walk, &layer->ffn_norm, c->hidden);
    move_hyper(walk, &layer->hyper_attn, 3);
    move_hyper(walk, &layer->hyper_ffn, 3);
    move_attention(walk, c, layer->ratio, &layer->attn);
    move_matrix(walk, &layer->router);
    move_floats(walk, &layer->router_bias, c->experts);
    layer->token_experts =
        move(walk, layer->token_experts, 8 * (uint64_t)c->vocab * (uint64_t)c->experts_per_token);
    move_matrix(walk, &layer->shared_gate);
    move_matrix(walk, &layer->shared_up);
    move_matrix(walk, &layer->shared_down);
}

/* `model` is a copy whose pointers are overwritten; so are its `layers`, or, when that is NULL,
 * copies of them one at a time. */
static void move_model(struct walk *walk, struct model *model, struct layer_weights *layers)
{
    const struct model_config *c = &model->config;
    int32_t count = c->layers + (model->mtp.present ? 1 : 0);
    move_matrix(walk, &model->embed);
    move_matrix(walk, &model->head);
    move_bf16(walk, &model->norm, c->hidden);
    move_hyper(walk, &model->hyper_head, 1);
    for (int32_t idx = 0; idx < count; idx++) {
        struct layer_weights layer = model->layers[idx];
        move_layer(walk, c, layers ? &layers[idx] : &layer);
    }
    if (!model->mtp.present) return;
    move_matrix(walk, &model->mtp.embed_proj);
    move_matrix(walk, &model->mtp.hidden_proj);
    move_bf16(walk, &model->mtp.embed_norm, c->hidden);
    move_bf16(walk, &model->mtp.hidden_norm, c->hidden);
    move_bf16(walk, &model->mtp.norm, c->hidden);
    move_hyper(walk, &model->mtp.hyper_head, 1);
}

uint64_t model_upload_bytes(const struct model *model)
{
    struct walk walk = {.total_bytes = UINT64_MAX};
    struct model copy = *model;
    move_model(&walk, &copy, NULL);
    return walk.used_bytes;
}

/* The model without files, experts and memory, its pointers still the original's; NULL without
 * memory. */
static struct model *copy_frame(const struct model *model)
{
    size_t count = (size_t)model->config.layers + (model->mtp.present ? 1 : 0);
    struct model *copy = calloc(1, sizeof *copy);
    if (!copy) return NULL;
    *copy = *model;
    copy->files = NULL;
    copy->memory = NULL;
    copy->experts = (struct expert_source){0};
    copy->layers = calloc(count, sizeof *copy->layers);
    if (copy->layers) {
        memcpy(copy->layers, model->layers, count * sizeof *copy->layers);
        return copy;
    }
    free(copy);
    return NULL;
}

enum sl_status model_upload(const struct model *model, struct gpu *gpu, model_progress_fn progress,
                            void *progress_context, struct model **out, struct sl_error *error)
{
    struct walk walk = {.gpu = gpu,
                        .total_bytes = model_upload_bytes(model),
                        .doing = "copying weights to the GPU",
                        .progress = progress,
                        .progress_context = progress_context,
                        .error = error};
    void *base = NULL, *piece = NULL;
    *out = NULL;
    struct model *copy = copy_frame(model);
    if (!copy) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    walk.status = gpu->gpu_ops->alloc(gpu, GPU_DEVICE, walk.total_bytes, &base, error);
    if (walk.status == SL_OK)
        walk.status = gpu->gpu_ops->alloc(gpu, GPU_MAPPED, MODEL_UPLOAD_PIECE_BYTES, &piece, error);
    copy->memory = base;
    if (walk.status == SL_OK) {
        walk.base = base;
        walk.piece = piece;
        move_model(&walk, copy, copy->layers);
    }
    gpu->gpu_ops->free(gpu, GPU_MAPPED, piece);
    if (walk.status != SL_OK) {
        model_upload_free(copy, gpu);
        return walk.status;
    }
    SL_ASSERT(walk.used_bytes == walk.total_bytes);
    *out = copy;
    return SL_OK;
}

enum sl_status model_place(const struct model *model, model_progress_fn progress,
                           void *progress_context, struct model **out, struct sl_error *error)
{
    struct walk walk = {.total_bytes = model_upload_bytes(model),
                        .doing = "copying weights to large pages",
                        .progress = progress,
                        .progress_context = progress_context,
                        .error = error};
    *out = NULL;
    struct model *copy = copy_frame(model);
    if (!copy) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    copy->memory = walk.base = arena_map((size_t)walk.total_bytes);
    if (walk.base) move_model(&walk, copy, copy->layers);
    if (!walk.base || walk.status != SL_OK) {
        model_upload_free(copy, NULL);
        return walk.status; /* without large memory the weights are used as they are mapped */
    }
    SL_ASSERT(walk.used_bytes == walk.total_bytes);
    *out = copy;
    return SL_OK;
}

void model_upload_free(struct model *uploaded, struct gpu *gpu)
{
    if (!uploaded) return;
    if (gpu)
        gpu->gpu_ops->free(gpu, GPU_DEVICE, uploaded->memory);
    else
        arena_unmap(uploaded->memory, model_upload_bytes(uploaded));
    free(uploaded->layers);
    free(uploaded);
}
