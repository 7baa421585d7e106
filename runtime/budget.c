/* Arithmetic of the memory plan, and what this machine has; see the header. */
#include "runtime/budget.h"

#include "offload/cgroup.h"
#include "offload/expert_fetch.h"
#include "offload/expert_plan.h"
#include "offload/layer_stream.h"
#include "runtime/kv_cache.h"
#include "runtime/lookahead.h"
#include "runtime/model_upload.h"
#include "runtime/workspace.h"

#include <inttypes.h>
#include <string.h>

/* Left alone when the plan takes what the machine can spare: the system, and the page cache that
 * reading from disk needs. */
#define BUDGET_RESERVE_BYTES (1ull << 30)

/* The workspace's part of the GPU's memory beside weights and a session: one of so many, where the
 * chunk is ours to choose and where it was asked for. Decode's passes need the least chunk. */
#define GPU_CHUNK_PART       8
#define GPU_CHUNK_PART_ASKED 2
#define GPU_CHUNK_LEAST      16

/* What the kernel thinks can be had without swapping; 0 where it does not say. */
static uint64_t machine_free_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) break;
    fclose(file);
    return kib <= UINT64_MAX / 1024 ? (uint64_t)kib * 1024 : 0;
}

/* Memory this process can still take, 0 where nobody says: of the machine, or of its control groups
 * if that is less, which `by_group` tells. */
static uint64_t machine_available_bytes(bool *by_group)
{
    struct cgroup_limits limits;
    uint64_t available = machine_free_bytes();
    cgroup_limits_read(CGROUP_MOUNT, CGROUP_SELF, &limits);
    *by_group = limits.memory_room_bytes < available;
    return *by_group ? limits.memory_room_bytes : available;
}

static enum sl_status choose_tokens(const struct budget_request *request, struct budget *out,
                                    struct sl_error *error)
{
    const struct model_config *config = &request->model->config;
    out->context_tokens = request->context_tokens;
    if (out->context_tokens == 0)
        out->context_tokens = min_i32(BUDGET_CONTEXT_DEFAULT, config->context_max);
    if (out->context_tokens < 1 || out->context_tokens > config->context_max)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "a context of %d tokens: this model takes 1 to %d", out->context_tokens,
                            config->context_max);
    int32_t usual = request->with_gpu ? BUDGET_GPU_CHUNK_DEFAULT : BUDGET_CHUNK_DEFAULT;
    out->chunk_tokens = request->chunk_tokens ? request->chunk_tokens : usual;
    if (out->chunk_tokens < 1 || out->chunk_tokens > BUDGET_CHUNK_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "a chunk of %d tokens: it must be 1 to %d",
                            out->chunk_tokens, BUDGET_CHUNK_MAX);
    out->chunk_tokens = min_i32(out->chunk_tokens, out->context_tokens);
    return SL_OK;
}

static struct kv_cache_options session_options(const struct budget_request *request,
                                               int32_t context_tokens, int32_t chunk_tokens)
{
    const struct model *model = request->model;
    return (struct kv_cache_options){.config = &model->config,
                                     .layers = model->config.layers + (model->mtp.present ? 1 : 0),
                                     .context_tokens = context_tokens,
                                     .slack_tokens = chunk_tokens,
                                     .f32_rows = request->numerics == SL_NUMERICS_F32};
}

/* Whether a chunk of so many tokens leaves the GPU's memory to those who need it more. */
static bool chunk_is_modest(const struct budget_request *request, const struct budget *budget,
                            int32_t tokens)
{
    struct kv_cache_options kv = session_options(request, budget->context_tokens, tokens);
    struct workspace_size size =
        workspace_size(&request->model->config, tokens, budget->context_tokens, true);
    uint64_t taken = model_upload_bytes(request->model) + kv_cache_bytes(&kv);
    uint64_t left = request->gpu_bytes > taken ? request->gpu_bytes - taken : 0;
    uint64_t part = request->chunk_tokens ? GPU_CHUNK_PART_ASKED : GPU_CHUNK_PART;
    return size.gpu_bytes > 0 && size.gpu_bytes <= left / part;
}

/* On a GPU: the most that is modest, as asked for or by halves, and decode's at least. */
static void choose_gpu_chunk(const struct budget_request *request, struct budget *out)
{
    while (out->chunk_tokens > GPU_CHUNK_LEAST && !chunk_is_modest(request, out, out->chunk_tokens))
        out->chunk_tokens = max_i32(out->chunk_tokens / 2, GPU_CHUNK_LEAST);
}

/* All that is taken and cannot be given back; mapped weights can. */
static uint64_t needed_bytes(const struct budget *budget)
{
    return (budget->with_gpu ? 0 : budget->session_bytes) + budget->workspace_bytes +
           budget->expert_ram_bytes + (budget->device_is_ram ? budget->device_bytes : 0);
}

bool budget_spares(const struct budget *budget, uint64_t bytes)
{
    return budget->available_bytes >= needed_bytes(budget) + bytes + BUDGET_RESERVE_BYTES;
}

/* More RAM for experts than there is would end in the kernel killing the process: it gets what
 * there is, and is told so. */
static void shrink_expert_ram(const struct budget_request *request, struct budget *out)
{
    uint64_t need = needed_bytes(out), asked = out->expert_ram_bytes;
    uint64_t over = need > out->available_bytes ? need - out->available_bytes : 0;
    if (out->available_bytes == 0 || request->ram_bytes == 0 || over == 0) return;
    if (asked < over || asked - over < out->expert_ram_min_bytes) return;
    out->expert_ram_bytes = asked - over;
    snprintf(out->notice, sizeof out->notice,
             "RAM for experts is %.1f GiB instead of %.1f GiB: %s, %.1f GiB, is less than what was "
             "asked for",
             (double)out->expert_ram_bytes / 1073741824.0, (double)asked / 1073741824.0,
             out->available_by_group ? "what the control group (memory.max) leaves"
                                     : "the machine's free memory",
             (double)out->available_bytes / 1073741824.0);
}

/* The bound for experts: as asked, or what is left of the machine, never more than all of them. */
static void choose_expert_ram(const struct budget_request *request, struct budget *out)
{
    uint64_t slot = request->source->slot_bytes;
    uint64_t taken = out->workspace_bytes;
    if (!out->with_gpu) taken += out->dense_bytes + out->session_bytes;
    uint64_t all = out->expert_disk_bytes + out->staging_bytes;
    out->expert_ram_bytes = request->ram_bytes < all ? request->ram_bytes : all;
    if (request->ram_bytes == 0) {
        uint64_t kept = taken + BUDGET_RESERVE_BYTES;
        if (out->device_is_ram) kept += request->device_bytes;
        uint64_t spare = out->available_bytes > kept ? out->available_bytes - kept : 0;
        out->expert_ram_bytes = spare < all ? spare : all;
        if (out->expert_ram_bytes < out->expert_ram_min_bytes)
            out->expert_ram_bytes = out->expert_ram_min_bytes;
    }
    shrink_expert_ram(request, out);
    uint64_t slots = out->expert_ram_bytes > out->staging_bytes
                         ? (out->expert_ram_bytes - out->staging_bytes) / slot
                         : 0;
    out->slots = slots < (uint64_t)out->experts_total ? (int32_t)slots : out->experts_total;
}

/* What of a GPU's memory is left for experts; more than all of them is of no use. */
static uint64_t gpu_expert_bytes(const struct budget *out)
{
    uint64_t taken = out->gpu_dense_bytes + out->gpu_session_bytes + out->gpu_workspace_bytes;
    uint64_t left = out->gpu_bytes > taken ? out->gpu_bytes - taken : 0;
    return left < out->expert_disk_bytes ? left : out->expert_disk_bytes;
}

/* How many experts the device holds, and whether they are in RAM as well. */
static void choose_device(const struct budget_request *request, struct budget *out)
{
    if (out->with_gpu) out->device_bytes = gpu_expert_bytes(out);
    uint64_t slots = out->device_bytes / request->source->slot_bytes;
    /* A GPU that holds no expert still does the rest; the CPU computes them all. */
    if (out->with_gpu && slots == 0) out->device_bytes = 0;
    out->device_slots = slots < (uint64_t)out->experts_total ? (int32_t)slots : out->experts_total;
    out->stream_slots =
        layer_stream_slots(out->device_slots, request->source->layers, request->source->experts);
    out->exclusive =
        out->device_slots > 0 && expert_sharing_is_exclusive((enum expert_sharing)request->tiers,
                                                             out->slots, out->experts_total);
}

_Static_assert((int)SL_TIERS_AUTO == EXPERT_SHARING_AUTO, "same order");
_Static_assert((int)SL_TIERS_EXCLUSIVE == EXPERT_EXCLUSIVE, "same order");
_Static_assert((int)SL_TIERS_INCLUSIVE == EXPERT_INCLUSIVE, "same order");

#define MIB(bytes) ((double)(bytes) / 1048576.0)

/* The longest context whose cache fits beside the weights; 0: not one of a single token. */
static int32_t longest_context(const struct budget_request *request, const struct budget *out)
{
    const struct model *model = request->model;
    int32_t low = 0, high = out->context_tokens;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        struct workspace_size size =
            workspace_size(&model->config, min_i32(out->chunk_tokens, middle), middle, true);
        struct kv_cache_options kv = session_options(request, middle, out->chunk_tokens);
        uint64_t need = out->gpu_dense_bytes + kv_cache_bytes(&kv) + size.gpu_bytes;
        if (need <= out->gpu_bytes)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Whether what must lie in the GPU's memory fits into its bound. */
static void judge_gpu(const struct budget_request *request, struct budget *out)
{
    uint64_t need = out->gpu_dense_bytes + out->gpu_session_bytes + out->gpu_workspace_bytes;
    if (!out->with_gpu || !out->fits || need <= out->gpu_bytes) return;
    int32_t context = longest_context(request, out);
    out->fits = false;
    int length =
        snprintf(out->advice, sizeof out->advice,
                 "the GPU needs %.1f MiB (weights %.1f, a session of %" PRId32
                 " tokens %.1f, workspace %.1f) and has %.1f: ",
                 MIB(need), MIB(out->gpu_dense_bytes), out->context_tokens,
                 MIB(out->gpu_session_bytes), MIB(out->gpu_workspace_bytes), MIB(out->gpu_bytes));
    if (context > 0)
        snprintf(out->advice + length, sizeof out->advice - (size_t)length,
                 "--ctx %" PRId32 " would fit, or --device cpu", context);
    else
        snprintf(out->advice + length, sizeof out->advice - (size_t)length,
                 "not even a context of one token fits; use --device cpu");
}

void budget_gpu_text(const struct budget *budget, char text[BUDGET_GPU_TEXT_BYTES])
{
    text[0] = '\0';
    if (!budget->with_gpu) return;
    snprintf(text, BUDGET_GPU_TEXT_BYTES,
             "GPU memory  %10.1f MiB at most\n"
             "  weights   %10.1f MiB\n"
             "  KV cache  %10.1f MiB, a session of %" PRId32 " tokens\n"
             "  workspace %10.1f MiB, %" PRId32 " tokens at once\n"
             "  experts   %10.1f MiB, %" PRId32 " of %" PRId32 "%s\n",
             MIB(budget->gpu_bytes), MIB(budget->gpu_dense_bytes), MIB(budget->gpu_session_bytes),
             budget->context_tokens, MIB(budget->gpu_workspace_bytes), budget->chunk_tokens,
             MIB(budget->device_bytes), budget->device_slots, budget->experts_total,
             budget->device_slots == 0 ? ": the CPU computes them all" : "");
}

static void judge(struct budget *out)
{
    uint64_t need = needed_bytes(out);
    bool keeps = out->device_slots > 0 && !out->exclusive && out->slots < out->experts_total;
    out->fits = true;
    if (out->slots < out->slots_min) {
        out->fits = false;
        snprintf(out->advice, sizeof out->advice,
                 "give --ram %" PRIu64 " or more (%.1f MiB): one token needs %" PRId32
                 " experts at a time",
                 out->expert_ram_min_bytes, (double)out->expert_ram_min_bytes / 1048576.0,
                 out->slots_min);
    } else if (out->device_bytes && out->device_slots == 0) {
        out->fits = false;
        snprintf(out->advice, sizeof out->advice,
                 "%" PRIu64 " bytes of device memory hold no expert: give it more, or none",
                 out->device_bytes);
    } else if (keeps && out->slots < out->device_slots + out->slots_min) {
        out->fits = false;
        snprintf(out->advice, sizeof out->advice,
                 "inclusive tiers keep the device's %" PRId32 " experts in RAM, which has room for "
                 "%" PRId32 ": give more --ram, or --tiers exclusive",
                 out->device_slots, out->slots);
    } else if (out->available_bytes && need > out->available_bytes) {
        out->fits = false;
        snprintf(out->advice, sizeof out->advice,
                 "%.1f GiB are asked for and %.1f GiB are free: lower --ram or --ctx",
                 (double)need / 1073741824.0, (double)out->available_bytes / 1073741824.0);
    }
}

enum sl_status budget_plan(const struct budget_request *request, struct budget *out,
                           struct sl_error *error)
{
    const struct model *model = request->model;
    const struct model_config *config = &model->config;
    const struct expert_source *source = request->source;
    *out = (struct budget){0};
    SL_TRY(choose_tokens(request, out, error));
    if (request->with_gpu) choose_gpu_chunk(request, out);
    struct kv_cache_options kv = session_options(request, out->context_tokens, out->chunk_tokens);
    struct workspace_size size =
        workspace_size(config, out->chunk_tokens, out->context_tokens, request->with_gpu);
    out->dense_bytes = model->dense_bytes;
    out->session_bytes = kv_cache_bytes(&kv);
    out->workspace_bytes = size.ram_bytes;
    if (request->with_gpu) {
        out->with_gpu = true;
        out->gpu_bytes = request->gpu_bytes;
        out->gpu_dense_bytes = model_upload_bytes(model);
        out->gpu_session_bytes = out->session_bytes;
        out->gpu_workspace_bytes = size.gpu_bytes;
    }
    if (out->session_bytes == 0 || out->workspace_bytes == 0)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                            "the context of %d tokens does not fit in an address space",
                            out->context_tokens);
    out->workspace_bytes += 4 * (uint64_t)config->vocab + lookahead_bytes(config);
    out->experts_total = source->layers * source->experts;
    out->expert_disk_bytes = (uint64_t)out->experts_total * source->slot_bytes;
    out->available_bytes = request->available_bytes;
    if (!out->available_bytes)
        out->available_bytes = machine_available_bytes(&out->available_by_group);
    out->device_bytes = request->device_bytes;
    out->device_is_ram = request->device_is_ram && !request->with_gpu;
    out->slots_min = config->experts_per_token;
    SL_TRY(expert_plan_check_source(source, error));
    out->staging_bytes = expert_fetcher_staging_bytes(source, BUDGET_READ_DEPTH);
    out->expert_ram_min_bytes = out->staging_bytes + (uint64_t)out->slots_min * source->slot_bytes;
    choose_expert_ram(request, out);
    choose_device(request, out);
    judge(out);
    judge_gpu(request, out);
    SL_ASSERT(out->slots >= 0 && out->slots <= out->experts_total);
    return SL_OK;
}
