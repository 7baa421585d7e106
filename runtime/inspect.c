/* sl_inspect: opens a checkpoint without touching its experts and adds up what lies where. */
#include "runtime/inspect.h"
#include "runtime/model_files.h"
#include "runtime/pack.h"

#include <string.h>

/* Cuts "layers.N." or "mtp.0." off a name. */
static const char *name_in_layer(const char *name)
{
    if (strncmp(name, "layers.", 7) != 0 && strncmp(name, "mtp.", 4) != 0) return name;
    const char *number = strchr(name, '.') + 1;
    const char *dot = strchr(number, '.');
    return dot ? dot + 1 : number;
}

static enum inspect_part part_of(const char *name)
{
    static const struct {
        const char *prefix;
        enum inspect_part part;
    } prefixes[] = {
        {"embed.", INSPECT_EMBED},        {"head.", INSPECT_HEAD},
        {"attn.", INSPECT_ATTENTION},     {"ffn.shared_experts.", INSPECT_SHARED},
        {"ffn.experts.", INSPECT_ROUTED}, {"ffn.gate.", INSPECT_ROUTER},
        {"e_proj.", INSPECT_MTP},         {"h_proj.", INSPECT_MTP},
    };
    const char *rest = name_in_layer(name);
    for (size_t i = 0; i < SL_COUNT_OF(prefixes); i++)
        if (strncmp(rest, prefixes[i].prefix, strlen(prefixes[i].prefix)) == 0)
            return prefixes[i].part;
    return INSPECT_NORMS;
}

/* Weights of a tensor: two to a byte of I8, none in scales of blocks and in tables of ids. */
static uint64_t parameters_of(const struct safetensors_tensor *tensor)
{
    switch (tensor->dtype) {
    case DTYPE_I8: return 2 * tensor->bytes;
    case DTYPE_F8_E8M0:
    case DTYPE_I32:
    case DTYPE_I64: return 0;
    case DTYPE_F32:
    case DTYPE_BF16:
    case DTYPE_F8_E4M3: break;
    }
    return tensor->bytes / dtype_bytes(tensor->dtype);
}

static void add_tensors(struct inspection *inspection)
{
    const struct model *model = inspection->model;
    const struct checkpoint_index *index = &model->files->index;
    for (int32_t f = 0; f < index->file_count; f++) {
        const struct checkpoint_file *file = &index->files[f];
        for (size_t i = 0; i < safetensors_count(file->header); i++) {
            const struct safetensors_tensor *tensor = safetensors_at(file->header, i);
            bool is_mtp = strncmp(tensor->name, "mtp.", 4) == 0;
            bool is_loaded = file->used[i] && (!is_mtp || model->mtp.present);
            enum inspect_part part = is_loaded ? part_of(tensor->name) : INSPECT_UNUSED;
            struct inspect_sum *sum = &inspection->sums[part];
            sum->tensors++;
            sum->bytes += tensor->bytes;
            sum->parameters += parameters_of(tensor);
        }
    }
}

static void count_layers(struct inspection *inspection)
{
    const struct model_config *config = &inspection->model->config;
    for (int32_t layer = 0; layer < config->layers; layer++) {
        switch (config->ratios[layer]) {
        case 0: inspection->layers_windowed++; break;
        case 4: inspection->layers_ratio_4++; break;
        default: inspection->layers_ratio_128++; break;
        }
    }
    SL_ASSERT(inspection->layers_windowed + inspection->layers_ratio_4 +
                  inspection->layers_ratio_128 ==
              config->layers);
}

static enum sl_status plan(struct inspection *inspection, const struct sl_engine_options *options,
                           const struct expert_source *source, struct sl_error *error)
{
    struct budget_request request = {.model = inspection->model,
                                     .source = source,
                                     .ram_bytes = options->ram_bytes,
                                     .device_bytes = options->sim_device_bytes,
                                     .device_is_ram = true,
                                     .with_gpu = options->gpu_bytes > 0,
                                     .gpu_bytes = options->gpu_bytes,
                                     .tiers = options->tiers,
                                     .context_tokens = options->context_tokens,
                                     .chunk_tokens = options->chunk_tokens,
                                     .numerics = options->numerics};
    SL_TRY(budget_plan(&request, &inspection->budget, error));
    inspection->slot_bytes = source->slot_bytes;
    return SL_OK;
}

enum sl_status sl_inspect(const struct sl_engine_options *options, bool json, char **report,
                          struct sl_error *error)
{
    struct model *model = NULL;
    struct model_file *packed = NULL;
    struct expert_source source;
    struct inspection inspection = {0};
    *report = NULL;
    if (!options->model_dir)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "inspect needs a checkpoint's directory");
    struct model_open_options open = {.directory = options->model_dir,
                                      .want_mtp = options->with_mtp,
                                      .want_direct = !options->buffered_io};
    SL_TRY(model_open(&open, &model, error));
    enum sl_status status = pack_open_source(model, options, &packed, &source, error);
    if (status != SL_OK) goto out;
    inspection.model = model;
    inspection.directory = options->model_dir;
    inspection.packed_path = packed ? source.files->path : NULL;
    if (packed && source.file_count > 1) inspection.packed_path = options->experts_file;
    topology_detect(&inspection.topology);
    inspection.threads = options->threads ? options->threads : inspection.topology.threads;
    add_tensors(&inspection);
    count_layers(&inspection);
    status = plan(&inspection, options, &source, error);
    if (status != SL_OK) goto out;
    *report = json ? inspect_json(&inspection) : inspect_text(&inspection);
    if (!*report)
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the report on %s",
                              options->model_dir);
out:
    model_file_close(packed);
    model_close(model);
    return status;
}
