/* Published shapes, and those of a config.json; see the header. */
#include "runtime/plan_shape.h"

#include "kernels/expert_layout.h"
#include "runtime/model_config.h"

#include <string.h>

/* Dense bytes are counted from the tensors' published shapes (docs/model.md), a byte an fp8 weight,
 * two a bf16 one: the layers' and the head, without embedding and MTP block. Flash: 6.7 GB
 * and 1.06. Pro: 61 layers of 128 heads x 512, query rank 1536, 16 groups of output rank 1024, 30
 * of them with an indexer, its size as Flash's: 25.0 GB and 1.85. */
static const struct published {
    const char *shape, *name;
    int32_t layers, experts, top, hash_layers;
    int32_t hidden, width; /* of an expert */
    uint64_t dense_bytes;
    double weights; /* that a token uses, as published */
} published[] = {
    {"flash", "DeepSeek-V4-Flash", 43, 256, 6, 3, 4096, 2048, UINT64_C(7800000000), 13e9},
    {"pro", "DeepSeek-V4-Pro", 61, 384, 6, 3, 7168, 3072, UINT64_C(26800000000), 49e9},
};

static uint64_t expert_bytes(int32_t hidden, int32_t width)
{
    return expert_layout_make(hidden, width).slot_bytes;
}

static enum sl_status read_published(const char *shape, struct plan_shape *out,
                                     struct sl_error *error)
{
    for (size_t i = 0; i < SL_COUNT_OF(published); i++) {
        const struct published *p = &published[i];
        if (strcmp(shape, p->shape) != 0) continue;
        *out = (struct plan_shape){.layers = p->layers,
                                   .experts = p->experts,
                                   .top = p->top,
                                   .hash_layers = p->hash_layers,
                                   .expert_bytes = expert_bytes(p->hidden, p->width),
                                   .dense_bytes = p->dense_bytes,
                                   .flop = 2 * p->weights};
        snprintf(out->name, sizeof out->name, "%s", p->name);
        return SL_OK;
    }
    return sl_error_set(
        error, SL_ERR_UNSUPPORTED, 0,
        "the sizes of shape \"%s\" are not known to this program, those of flash and "
        "pro are: give -m DIR with the model's config.json, and --dense",
        shape);
}

static enum sl_status read_config(const char *dir, struct plan_shape *out, struct sl_error *error)
{
    struct model_config config;
    SL_TRY(model_config_load(dir, &config, error));
    *out = (struct plan_shape){.layers = config.layers,
                               .experts = config.experts,
                               .top = config.experts_per_token,
                               .hash_layers = config.hash_layers,
                               .expert_bytes = expert_bytes(config.hidden, config.expert_width)};
    snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, dir);
    for (size_t i = 0; i < SL_COUNT_OF(published); i++) {
        const struct published *p = &published[i];
        if (config.layers != p->layers || config.experts != p->experts ||
            config.hidden != p->hidden)
            continue;
        out->dense_bytes = p->dense_bytes;
        out->flop = 2 * p->weights;
    }
    return SL_OK;
}

enum sl_status plan_shape_read(const struct sl_plan_options *options, struct plan_shape *out,
                               struct sl_error *error)
{
    if (options->model_dir)
        SL_TRY(read_config(options->model_dir, out, error));
    else
        SL_TRY(read_published(options->shape, out, error));
    if (options->dense_bytes) out->dense_bytes = options->dense_bytes;
    if (!out->dense_bytes)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "how many bytes every token of %s reads is not known without its "
                            "weights: give --dense SIZE",
                            out->name);
    /* Experts have 17 bytes for 32 weights; the rest is mostly fp8. */
    double routed = (double)out->layers * out->top * (double)out->expert_bytes * 32 / 17;
    if (out->flop == 0) out->flop = 2 * ((double)out->dense_bytes + routed);
    return SL_OK;
}
