/* The next layer ahead of its router; see the header. */
#include "runtime/moe_stream.h"

#include "offload/layer_stream.h"

#include <sched.h>
#include <time.h>

/* Looks at a GPU that works before the core is given up between them, and for how long: copies in
 * flight last longer. */
#define LOOKS_BUSY 64
#define LOOK_NS    20000

void moe_stream_await(struct forward *forward)
{
    struct gpu *gpu = forward->gpu;
    if (!gpu || !expert_store_streams(forward->store)) return;
    for (int32_t looks = 0; !gpu->gpu_ops->is_idle(gpu); looks++) {
        expert_store_poll(forward->store);
        if (looks < LOOKS_BUSY)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
    }
}

/* The layer after this one, of this pass or of the next if that is prefill as well; -1: none. */
static int32_t following(const struct forward *forward, const struct forward_chunk *chunk,
                         int32_t idx)
{
    if (idx + 1 < forward->model->config.layers) return idx + 1;
    bool goes_on = chunk->next_tokens > EXPERT_DECODE_TOKENS_MAX;
    return idx + 1 == forward->model->config.layers && goes_on ? 0 : -1;
}

/* Puts the layer's experts that do not stay on the device behind the `count` in `order`; returns
 * how many are there then. */
static int32_t list_layer(const struct forward *forward, int32_t layer, struct expert_ref *order,
                          int32_t count)
{
    for (int32_t expert = 0; expert < forward->model->config.experts; expert++) {
        struct expert_ref ref = {.layer = layer, .expert = expert};
        if (!expert_store_stays(forward->store, ref)) order[count++] = ref;
    }
    return count;
}

/* What this layer tells of the next: the share of its experts off the device that were chosen, and
 * how long its router was waited for. */
static void learn(struct forward *forward, int32_t idx, const struct expert_ref *refs,
                  int32_t count)
{
    struct moe_stream_seen *seen = &forward->stream_seen;
    int32_t cold = 0, chosen = 0;
    for (int32_t expert = 0; expert < forward->model->config.experts; expert++)
        cold += !expert_store_stays(forward->store,
                                    (struct expert_ref){.layer = idx, .expert = expert});
    for (int32_t i = 0; i < count; i++)
        chosen += !expert_store_stays(forward->store, refs[i]);
    seen->share = cold > 0 ? (double)chosen / cold : 0;
    seen->wait_ns = (double)(clock_now_ns(&forward->clock) - forward->layer_ns);
}

/* Whether the next layer, of which `cold` experts are off the device, shall come ahead. */
static bool pays(const struct forward *forward, const struct expert_ref *refs, int32_t cold)
{
    const struct moe_stream_seen *seen = &forward->stream_seen;
    const struct rates *rates = expert_store_rates(forward->store);
    double copy_ns = rates_expert_ns(rates, RATES_UP, 1, false);
    int32_t on_disk = 0;
    for (int32_t i = 0; i < cold; i++)
        on_disk += !expert_store_is_resident(forward->store, refs[i]);
    if (on_disk > 0) {
        double reads_ns = rates_disk_ns(rates, MOE_STREAM_READS) * on_disk / cold;
        if (reads_ns > copy_ns) copy_ns = reads_ns;
    }
    struct layer_stream_problem problem = {
        .cold = cold, .chosen = cold * seen->share, .copy_ns = copy_ns, .wait_ns = seen->wait_ns};
    return layer_stream_is_ahead(&problem);
}

/* Tells the store what is to come: these [count], then the next layer if that pays. */
static void order(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                  const struct expert_ref *refs, int32_t count)
{
    struct expert_ref list[2 * OPS_EXPERTS_MAX];
    int32_t next = following(forward, chunk, idx), kept = 0;
    for (int32_t i = 0; i < count; i++)
        if (!expert_store_stays(forward->store, refs[i])) list[kept++] = refs[i];
    int32_t all = next >= 0 ? list_layer(forward, next, list, kept) : kept;
    bool whole = all > kept && pays(forward, list + kept, all - kept);
    forward->stream_seen.coming = whole ? next : -1;
    expert_store_stream(forward->store, list, whole ? all : kept);
}

bool moe_stream_begin(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                      const struct expert_ref *refs, int32_t count)
{
    bool whole = forward->stream_seen.coming == idx;
    if (!expert_store_streams(forward->store)) return false;
    learn(forward, idx, refs, count);
    if (whole) order(forward, chunk, idx, refs, count);
    return whole;
}

void moe_stream_next(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    if (expert_store_streams(forward->store)) order(forward, chunk, idx, NULL, 0);
}

int32_t moe_stream_pick(const struct forward *forward, struct expert_ref *refs, int32_t *tokens,
                        int32_t count)
{
    int32_t front = 0;
    for (int32_t i = 0; i < count; i++) {
        if (!expert_store_is_coming(forward->store, refs[i])) continue;
        struct expert_ref ref = refs[i];
        int32_t of_ref = tokens[i];
        refs[i] = refs[front];
        tokens[i] = tokens[front];
        refs[front] = ref;
        tokens[front++] = of_ref;
    }
    return front;
}

void moe_stream_end(struct forward *forward, const struct forward_chunk *chunk,
                    enum sl_status status)
{
    bool goes_on = status == SL_OK && chunk->next_tokens > EXPERT_DECODE_TOKENS_MAX;
    if (goes_on) return;
    forward->stream_seen.coming = -1;
    expert_store_stream(forward->store, NULL, 0);
}
