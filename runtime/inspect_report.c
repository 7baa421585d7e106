/* The report of sl_inspect: aligned columns for people, JSON for programs. */
#include "runtime/inspect.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define GIB ((double)(1ull << 30))
#define MIB ((double)(1ull << 20))
#define KIB ((double)(1ull << 10))

static const struct part_text {
    const char *name, *key;
} part_texts[INSPECT_PARTS] = {
    [INSPECT_EMBED] = {"embedding", "embedding"},
    [INSPECT_HEAD] = {"output head", "head"},
    [INSPECT_ATTENTION] = {"attention", "attention"},
    [INSPECT_SHARED] = {"shared experts", "shared_experts"},
    [INSPECT_ROUTER] = {"routers", "routers"},
    [INSPECT_NORMS] = {"norms, hyper-connections", "norms_hyper"},
    [INSPECT_MTP] = {"MTP projections", "mtp_projections"},
    [INSPECT_ROUTED] = {"routed experts", "routed_experts"},
    [INSPECT_UNUSED] = {"not used", "unused"},
};

/* Everything that is resident at once: mapped weights are counted, as they are read every token. */
static uint64_t total_bytes(const struct inspection *inspection)
{
    const struct budget *budget = &inspection->budget;
    return budget->dense_bytes + budget->expert_ram_bytes + budget->session_bytes +
           budget->workspace_bytes + (budget->device_is_ram ? budget->device_bytes : 0);
}

static uint64_t total_parameters(const struct inspection *inspection)
{
    uint64_t parameters = 0;
    for (int part = 0; part < INSPECT_UNUSED; part++)
        parameters += inspection->sums[part].parameters;
    return parameters;
}

static const char *checkpoint_name(const struct model_config *config)
{
    return config->drafter_0731 ? "0731" : "preview";
}

static const char *mtp_state(const struct model *model)
{
    if (model->mtp.present) return "loaded";
    return model->config.mtp_layers > 0 ? "not loaded" : "none that this version runs";
}

/* ---- text --------------------------------------------------------------------------------- */

struct size_text {
    char text[24];
};

static struct size_text size_text(uint64_t bytes)
{
    struct size_text out;
    double value = (double)bytes;
    if (value >= GIB)
        snprintf(out.text, sizeof out.text, "%.2f GiB", value / GIB);
    else if (value >= MIB)
        snprintf(out.text, sizeof out.text, "%.2f MiB", value / MIB);
    else
        snprintf(out.text, sizeof out.text, "%.2f KiB", value / KIB);
    return out;
}

static void print_row(FILE *out, const char *what, uint64_t bytes, const char *where)
{
    fprintf(out, "  %-24s %12s %16" PRIu64 "  %s\n", what, size_text(bytes).text, bytes, where);
}

static void print_model(FILE *out, const struct inspection *inspection)
{
    const struct model *model = inspection->model;
    const struct model_config *c = &model->config;
    const struct inspect_sum *unused = &inspection->sums[INSPECT_UNUSED];
    fprintf(out, "checkpoint  %s (%s)\n", inspection->directory, checkpoint_name(c));
    fprintf(out, "format      experts fp4 (e2m1, a scale for 32), dense fp8 (e4m3, 128 x 128)\n");
    fprintf(out,
            "layers      %" PRId32 ": %" PRId32 " windowed, %" PRId32 " compressed by 4, %" PRId32
            " by 128; the first %" PRId32 " route by token id\n",
            c->layers, inspection->layers_windowed, inspection->layers_ratio_4,
            inspection->layers_ratio_128, c->hash_layers);
    fprintf(out,
            "sizes       hidden %" PRId32 ", %" PRId32 " heads of %" PRId32 ", vocabulary %" PRId32
            ", context up to %" PRId32 " tokens\n",
            c->hidden, c->heads, c->head_dim, c->vocab, c->context_max);
    fprintf(out,
            "experts     %" PRId32 " a layer, %" PRId32 " for a token, %" PRId32
            " in all, %zu bytes each\n",
            c->experts, c->experts_per_token, inspection->budget.experts_total,
            inspection->slot_bytes);
    fprintf(out, "MTP block   %s\n", mtp_state(model));
    fprintf(out, "parameters  %" PRIu64 " (%.2f billion)\n", total_parameters(inspection),
            (double)total_parameters(inspection) / 1e9);
    if (unused->tensors)
        fprintf(out, "skipped     %" PRIu64 " tensors of %" PRIu64 " bytes are not loaded\n",
                unused->tensors, unused->bytes);
}

static void print_places(FILE *out, const struct inspection *inspection)
{
    const struct budget *budget = &inspection->budget;
    char where[96];
    fprintf(out, "\nwhere the bytes live\n");
    for (int part = 0; part < INSPECT_ROUTED; part++)
        if (inspection->sums[part].tensors)
            print_row(out, part_texts[part].name, inspection->sums[part].bytes,
                      budget->with_gpu ? "GPU, copied at the start"
                                       : "RAM, mapped, or copied to large pages");
    print_row(out, part_texts[INSPECT_ROUTED].name,
              inspection->packed_path ? budget->expert_disk_bytes
                                      : inspection->sums[INSPECT_ROUTED].bytes,
              inspection->packed_path ? "disk, packed" : "disk, as published");
    snprintf(where, sizeof where, "RAM, %" PRId32 " of %" PRId32 " experts",
             inspection->budget.slots, budget->experts_total);
    print_row(out, "  of them", (uint64_t)inspection->budget.slots * inspection->slot_bytes, where);
    if (budget->device_slots) {
        snprintf(where, sizeof where, "%s, %" PRId32 " experts, %s",
                 budget->with_gpu ? "GPU" : "simulated device", budget->device_slots,
                 budget->exclusive ? "exclusive of those in RAM" : "all of them in RAM as well");
        print_row(out, "  of them", (uint64_t)budget->device_slots * inspection->slot_bytes, where);
    }
    if (inspection->budget.staging_bytes)
        print_row(out, "  on their way", inspection->budget.staging_bytes,
                  "RAM, pack to do without");
    snprintf(where, sizeof where, "%s, a session of %" PRId32 " tokens",
             budget->with_gpu ? "GPU" : "RAM", budget->context_tokens);
    print_row(out, "KV cache", budget->session_bytes, where);
    snprintf(where, sizeof where, "RAM, chunks of %" PRId32 " tokens", budget->chunk_tokens);
    print_row(out, "workspace", budget->workspace_bytes, where);
    if (inspection->packed_path) fprintf(out, "packed file %s\n", inspection->packed_path);
}

static void print_verdict(FILE *out, const struct inspection *inspection)
{
    const struct budget *budget = &inspection->budget;
    fprintf(out, "\nmemory\n");
    print_row(out, "all of it", total_bytes(inspection), "mapped and RAM together");
    print_row(out, "bound for experts", budget->expert_ram_bytes, "--ram");
    print_row(out, "least for experts", inspection->budget.expert_ram_min_bytes,
              "the smallest --ram that runs");
    if (budget->device_bytes && !budget->with_gpu)
        print_row(out, "bound for the device", budget->device_bytes, "--sim-device");
    print_row(out, "free on this machine", budget->available_bytes, "now");
    char gpu[BUDGET_GPU_TEXT_BYTES];
    budget_gpu_text(budget, gpu);
    fputs(gpu, out);
    fprintf(out, "fits        %s%s%s%s\n", budget->fits ? "yes" : "no: ", budget->advice,
            budget->fits && budget->notice[0] ? ", but " : "", budget->fits ? budget->notice : "");
    fprintf(out, "\nprocessor   %s, %" PRId32 " thread%s\n", inspection->topology.text,
            inspection->threads, inspection->threads == 1 ? "" : "s");
}

char *inspect_text(const struct inspection *inspection)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return NULL;
    print_model(out, inspection);
    print_places(out, inspection);
    print_verdict(out, inspection);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    SL_ASSERT(strlen(text) == bytes);
    return text;
}

/* ---- JSON --------------------------------------------------------------------------------- */

static json_t *json_bytes(uint64_t value)
{
    SL_ASSERT(value <= INT64_MAX);
    return json_integer((json_int_t)value);
}

static json_t *parts_json(const struct inspection *inspection)
{
    json_t *parts = json_object();
    for (int part = 0; part < INSPECT_PARTS; part++) {
        const struct inspect_sum *sum = &inspection->sums[part];
        const char *place = part == INSPECT_UNUSED   ? "none"
                            : part == INSPECT_ROUTED ? "disk"
                                                     : "mapped";
        json_t *entry =
            json_pack("{s:s, s:o, s:o, s:o}", "place", place, "tensors", json_bytes(sum->tensors),
                      "bytes", json_bytes(sum->bytes), "parameters", json_bytes(sum->parameters));
        if (json_object_set_new(parts, part_texts[part].key, entry) != 0) {
            json_decref(parts);
            return NULL;
        }
    }
    return parts;
}

static json_t *model_json(const struct inspection *inspection)
{
    const struct model_config *c = &inspection->model->config;
    json_t *layers = json_pack("{s:i, s:i, s:i, s:i, s:i}", "all", c->layers, "windowed",
                               inspection->layers_windowed, "ratio_4", inspection->layers_ratio_4,
                               "ratio_128", inspection->layers_ratio_128, "hash", c->hash_layers);
    return json_pack("{s:s, s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:o}", "checkpoint",
                     checkpoint_name(c), "layers", layers, "hidden", c->hidden, "heads", c->heads,
                     "head_dim", c->head_dim, "vocab", c->vocab, "context_max", c->context_max,
                     "experts", c->experts, "experts_per_token", c->experts_per_token, "mtp",
                     mtp_state(inspection->model), "parameters",
                     json_bytes(total_parameters(inspection)));
}

static json_t *memory_json(const struct inspection *inspection)
{
    const struct budget *b = &inspection->budget;
    return json_pack(
        "{s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:i, s:b, s:o, s:i, "
        "s:b}",
        "context_tokens", b->context_tokens, "chunk_tokens", b->chunk_tokens, "dense_bytes",
        json_bytes(b->dense_bytes), "session_bytes", json_bytes(b->session_bytes),
        "workspace_bytes", json_bytes(b->workspace_bytes), "expert_ram_bytes",
        json_bytes(b->expert_ram_bytes), "expert_disk_bytes", json_bytes(b->expert_disk_bytes),
        "staging_bytes", json_bytes(inspection->budget.staging_bytes), "ram_min_bytes",
        json_bytes(inspection->budget.expert_ram_min_bytes), "total_bytes",
        json_bytes(total_bytes(inspection)), "available_bytes", json_bytes(b->available_bytes),
        "slots", inspection->budget.slots, "slots_min", b->slots_min, "experts", b->experts_total,
        "fits", inspection->budget.fits, "device_bytes", json_bytes(b->device_bytes),
        "device_slots", b->device_slots, "exclusive", b->exclusive);
}

static json_t *processor_json(const struct inspection *inspection)
{
    const struct topology *topology = &inspection->topology;
    return json_pack("{s:i, s:i, s:i, s:b}", "cores", topology->core_count, "nodes",
                     topology->node_count, "threads", inspection->threads, "known",
                     topology->known);
}

char *inspect_json(const struct inspection *inspection)
{
    json_t *report = json_pack(
        "{s:s, s:s?, s:o, s:o, s:o, s:o, s:o, s:s, s:s}", "directory", inspection->directory,
        "experts_file", inspection->packed_path, "model", model_json(inspection), "slot_bytes",
        json_bytes(inspection->slot_bytes), "parts", parts_json(inspection), "memory",
        memory_json(inspection), "processor", processor_json(inspection), "advice",
        inspection->budget.advice, "notice", inspection->budget.notice);
    char *text = report ? json_dumps(report, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    json_decref(report);
    return text;
}
