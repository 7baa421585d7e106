/* Experts that are computed and read to measure; see the header. */
#include "runtime/host_experts.h"

#include "kernels/cpu/stream.h"
#include "offload/arena.h"
#include "offload/clock.h"

#include <string.h>

#define SLOTS_MIN 12
#define SHARES    64 /* pieces that a read of an expert is cut into */

static const struct clock steady = {0};

/* One random expert with scales near 1, copied into every slot. */
static void fill(struct host_experts *experts)
{
    const struct expert_layout *layout = &experts->bench->layout;
    uint64_t random = experts->bench->seed;
    for (size_t at = 0; at < layout->slot_bytes; at += 8) {
        uint64_t word = host_random(&random);
        memcpy(experts->slots + at, &word, 8);
    }
    for (int part = EXPERT_S1; part < EXPERT_PARTS; part += 2)
        for (size_t i = 0; i < layout->part_bytes[part]; i++) {
            uint8_t *scale = experts->slots + layout->offset_bytes[part] + i;
            *scale = (uint8_t)(118 + *scale % 4);
        }
    for (int32_t i = 1; i < experts->count; i++)
        memcpy(experts->slots + (size_t)i * layout->slot_bytes, experts->slots, layout->slot_bytes);
    for (int32_t i = 0; i < HOST_EXPERTS_TOKENS * layout->hidden; i++)
        experts->x[i] = (float)(i * 37 % 64 - 32) / 16.0f;
    for (int32_t t = 0; t < HOST_EXPERTS_TOKENS; t++) {
        experts->token_rows[t] = t;
        experts->weights[t] = 0.5f;
        for (int32_t e = 0; e < HOST_EXPERTS_CALL; e++)
            experts->output_rows[e][t] = e * HOST_EXPERTS_TOKENS + t;
    }
}

void host_experts_deinit(struct host_experts *experts)
{
    if (experts->slots)
        arena_unmap(experts->slots, (size_t)experts->count * experts->bench->layout.slot_bytes);
    free(experts->x);
    free(experts->out);
    free(experts->scratch);
}

enum sl_status host_experts_init(const struct host_bench *bench,
                                 const struct topology_placement *placement,
                                 struct host_experts *experts, struct sl_error *error)
{
    const struct expert_layout *layout = &bench->layout;
    size_t hidden = (size_t)layout->hidden, width = (size_t)layout->width;
    char placed[128];
    memset(experts, 0, sizeof *experts);
    experts->bench = bench;
    experts->count = (int32_t)(bench->memory_bytes / layout->slot_bytes);
    if (experts->count < SLOTS_MIN) experts->count = SLOTS_MIN;
    experts->slots = arena_map((size_t)experts->count * layout->slot_bytes);
    experts->x = malloc(sizeof(float) * HOST_EXPERTS_TOKENS * hidden);
    experts->out = malloc(sizeof(float) * HOST_EXPERTS_CALL * HOST_EXPERTS_TOKENS * hidden);
    experts->scratch = malloc(sizeof(float) * HOST_EXPERTS_TOKENS * 3 * width);
    if (!experts->slots || !experts->x || !experts->out || !experts->scratch) {
        host_experts_deinit(experts);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                            "no memory for %zu bytes of experts to measure with",
                            (size_t)experts->count * layout->slot_bytes);
    }
    topology_place_memory(experts->slots, (size_t)experts->count * layout->slot_bytes, placement,
                          placed, sizeof placed);
    fill(experts);
    return SL_OK;
}

static const uint8_t *next_slot(struct host_experts *experts)
{
    experts->next = (experts->next + 1) % experts->count;
    return experts->slots + (size_t)experts->next * experts->bench->layout.slot_bytes;
}

double host_experts_call_ns(struct host_experts *experts, int32_t count, int32_t tokens,
                            const atomic_bool *stop)
{
    const struct host_bench *bench = experts->bench;
    uint64_t start_ns = clock_now_ns(&steady), now_ns = start_ns;
    int64_t calls = 0;
    SL_ASSERT(count <= HOST_EXPERTS_CALL && tokens <= HOST_EXPERTS_TOKENS);
    do {
        struct expert_task tasks[HOST_EXPERTS_CALL];
        for (int32_t e = 0; e < count; e++)
            tasks[e] = (struct expert_task){.slot = next_slot(experts),
                                            .token_rows = experts->token_rows,
                                            .output_rows = experts->output_rows[e],
                                            .weights = experts->weights,
                                            .count = tokens};
        struct expert_ffn_args args = {.x = experts->x,
                                       .out = experts->out,
                                       .tasks = tasks,
                                       .layout = &bench->layout,
                                       .scratch = experts->scratch,
                                       .task_count = count,
                                       .scratch_rows = HOST_EXPERTS_TOKENS,
                                       .limit = 10.0f,
                                       .round = true};
        bench->ops->expert_ffn(bench->stream, &args);
        calls++;
        now_ns = clock_now_ns(&steady);
    } while (stop ? !atomic_load(stop) : (double)(now_ns - start_ns) < bench->seconds * 1e9);
    return (double)(now_ns - start_ns) / (double)calls;
}

struct read_job {
    const uint8_t *slot;
    size_t share_bytes;
    uint64_t *sums; /* [SHARES], so that the reads cannot be left out */
};

static void read_share(const void *context, int32_t idx)
{
    const struct read_job *job = context;
    const uint64_t *words =
        (const uint64_t *)(const void *)(job->slot + (size_t)idx * job->share_bytes);
    uint64_t sums[8] = {0};
    for (size_t i = 0; i + 8 <= job->share_bytes / 8; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            sums[lane] += words[i + lane];
    for (size_t lane = 0; lane < 8; lane++)
        job->sums[idx] += sums[lane];
}

double host_experts_read_rate(struct host_experts *experts)
{
    const struct host_bench *bench = experts->bench;
    uint64_t sums[SHARES] = {0}, start_ns = clock_now_ns(&steady), now_ns = start_ns, bytes = 0;
    size_t share_bytes = align_down(bench->layout.slot_bytes / SHARES, 64);
    do {
        struct read_job job = {next_slot(experts), share_bytes, sums};
        stream_run(bench->stream, SHARES, read_share, &job);
        bytes += share_bytes * SHARES;
        now_ns = clock_now_ns(&steady);
    } while ((double)(now_ns - start_ns) < bench->seconds * 1e9);
    SL_ASSERT(sums[0] != 0);
    return (double)bytes * 1e9 / (double)(now_ns - start_ns);
}
