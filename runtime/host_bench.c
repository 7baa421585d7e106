/* The measurements behind the machine's profile; see the header. */
#include "runtime/host_bench.h"

#include "runtime/host_disk.h"
#include "runtime/host_link.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

/* What is measured with; `disk` and `link` where there is one. */
struct parts {
    const struct host_bench *bench;
    struct host_experts experts;
    struct host_disk *disk; /* NULL: none */
    struct host_link link;
};

/* ---- each alone --------------------------------------------------------------------------- */

static void measure_cpu(struct parts *parts, struct calibration *out)
{
    struct rate *cpu = &out->rates.lanes[RATES_CPU];
    struct host_experts *experts = &parts->experts;
    double bytes = (double)parts->bench->layout.slot_bytes;
    out->memory_bytes_per_second = host_experts_read_rate(experts);
    for (int32_t i = 0; i < CALIBRATION_COUNTS; i++)
        out->expert_ns[i] =
            host_experts_call_ns(experts, HOST_EXPERTS_CALL, calibration_counts[i], NULL) /
            HOST_EXPERTS_CALL;
    /* A call of one expert against a call of six: what does not grow with the experts is paid once
     * a layer. */
    double one_ns = host_experts_call_ns(experts, 1, 1, NULL);
    double expert_ns = (HOST_EXPERTS_CALL * out->expert_ns[0] - one_ns) / (HOST_EXPERTS_CALL - 1);
    if (expert_ns <= 0) expert_ns = out->expert_ns[0];
    cpu->layer_ns = one_ns > expert_ns ? one_ns - expert_ns : 0;
    cpu->bytes_per_second = bytes * 1e9 / expert_ns;
    cpu->token_ns = out->expert_ns[CALIBRATION_COUNTS - 1] / HOST_EXPERTS_TOKENS;
}

/* What one transfer alone takes longer than its share of the best rate. */
static double lone_ns(const struct parts *parts, double alone, double best)
{
    double bytes = (double)parts->bench->layout.slot_bytes;
    return best > alone ? bytes * 1e9 / alone - bytes * 1e9 / best : 0;
}

static enum sl_status measure_disk(struct parts *parts, struct calibration *out,
                                   struct sl_error *error)
{
    struct rate *rate = &out->rates.lanes[RATES_DISK];
    double *found = out->rates.disk_bytes_per_second;
    for (int32_t i = 0; i < RATES_DISK_DEPTHS; i++) {
        found[i] = host_disk_rate(parts->disk, 1 << i, NULL);
        if (found[i] < 0) return host_disk_failed(parts->disk, error);
        if (found[i] > rate->bytes_per_second) rate->bytes_per_second = found[i];
    }
    rate->fixed_ns = lone_ns(parts, found[0], rate->bytes_per_second);
    return SL_OK;
}

/* Copies one way. What a lone one takes longer is paid once a layer: more of them follow each other
 * without a pause. */
static enum sl_status measure_lane(struct parts *parts, enum device_lane lane, double *found,
                                   struct rate *rate, struct sl_error *error)
{
    bool lanes[DEVICE_LANES] = {0};
    double rates[DEVICE_LANES];
    lanes[lane] = true;
    for (int32_t i = 0; i < CALIBRATION_LINK_DEPTHS; i++) {
        SL_TRY(host_link_run(&parts->link, lanes, 1 << i, rates, error));
        found[i] = rates[lane];
        if (found[i] > rate->bytes_per_second) rate->bytes_per_second = found[i];
    }
    rate->layer_ns = lone_ns(parts, found[0], rate->bytes_per_second);
    return SL_OK;
}

static enum sl_status measure_link(struct parts *parts, struct calibration *out,
                                   struct sl_error *error)
{
    struct rate *lanes = out->rates.lanes;
    SL_TRY(measure_lane(parts, DEVICE_UP, out->up_bytes_per_second, &lanes[RATES_UP], error));
    return measure_lane(parts, DEVICE_DOWN, out->down_bytes_per_second, &lanes[RATES_DOWN], error);
}

/* ---- together ----------------------------------------------------------------------------- */

/* What works beside the calling thread until it is told to stop. */
struct beside {
    struct parts *parts;
    double rate; /* bytes/s; below 0: failed */
    atomic_bool stop;
    pthread_t thread;
    bool running;
};

static void *compute_beside(void *argument)
{
    struct beside *beside = argument;
    struct parts *parts = beside->parts;
    double call_ns = host_experts_call_ns(&parts->experts, HOST_EXPERTS_CALL, 1, &beside->stop);
    beside->rate = (double)parts->bench->layout.slot_bytes * HOST_EXPERTS_CALL * 1e9 / call_ns;
    return NULL;
}

static void *read_beside(void *argument)
{
    struct beside *beside = argument;
    beside->rate = host_disk_rate(beside->parts->disk, HOST_BENCH_DEPTH, &beside->stop);
    return NULL;
}

static enum sl_status start(struct beside *beside, void *(*work)(void *), struct sl_error *error)
{
    beside->running = pthread_create(&beside->thread, NULL, work, beside) == 0;
    if (beside->running) return SL_OK;
    return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "cannot start a thread to measure with");
}

static void stop(struct beside *beside)
{
    atomic_store(&beside->stop, true);
    if (beside->running) pthread_join(beside->thread, NULL);
}

static void pause_for(double seconds)
{
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0) {
    }
}

/* Runs the lanes of a set at once: links in this thread, which owns the device, the others beside
 * it. Bytes a second of each. */
static enum sl_status run_set(struct parts *parts, uint32_t lanes, double rates[RATES_LANES],
                              struct sl_error *error)
{
    struct beside cpu = {.parts = parts}, disk = {.parts = parts};
    bool link[DEVICE_LANES] = {lanes & 1u << RATES_UP, lanes & 1u << RATES_DOWN};
    double link_rates[DEVICE_LANES] = {0};
    enum sl_status status = SL_OK;
    if (lanes & 1u << RATES_DISK) status = start(&disk, read_beside, error);
    if (lanes & 1u << RATES_CPU && status == SL_OK) status = start(&cpu, compute_beside, error);
    if (status == SL_OK && (link[DEVICE_UP] || link[DEVICE_DOWN]))
        status = host_link_run(&parts->link, link, HOST_BENCH_DEPTH, link_rates, error);
    else if (status == SL_OK)
        pause_for(parts->bench->seconds);
    stop(&cpu), stop(&disk);
    SL_TRY(status);
    if (disk.rate < 0) return host_disk_failed(parts->disk, error);
    rates[RATES_UP] = link_rates[DEVICE_UP];
    rates[RATES_DOWN] = link_rates[DEVICE_DOWN];
    rates[RATES_CPU] = cpu.rate;
    rates[RATES_DISK] = disk.rate;
    return SL_OK;
}

static enum sl_status measure_together(struct parts *parts, struct calibration *out,
                                       struct sl_error *error)
{
    uint32_t there = 1u << RATES_CPU;
    if (parts->disk) there |= 1u << RATES_DISK;
    if (parts->bench->device) there |= 1u << RATES_UP | 1u << RATES_DOWN;
    for (int i = 0; i < CALIBRATION_SETS; i++)
        if ((calibration_sets[i].lanes & there) == calibration_sets[i].lanes)
            SL_TRY(run_set(parts, calibration_sets[i].lanes, out->together[i], error));
    calibration_rates(out, parts->bench->device != NULL, &out->rates);
    return SL_OK;
}

/* ---- where memory lies -------------------------------------------------------------------- */

static enum sl_status take_experts(struct parts *parts, enum topology_spread spread,
                                   struct sl_error *error)
{
    struct topology_placement placement = {.spread = spread};
    const struct host_bench *bench = parts->bench;
    if (bench->pci) snprintf(placement.device, sizeof placement.device, "%s", bench->pci);
    SL_TRY(host_experts_init(bench, &placement, &parts->experts, error));
    return bench->device ? host_link_init(&parts->experts, &parts->link, error) : SL_OK;
}

static void leave_experts(struct parts *parts)
{
    host_link_deinit(&parts->link); /* it copies from them */
    host_experts_deinit(&parts->experts);
    memset(&parts->experts, 0, sizeof parts->experts);
}

/* CPU and link at once with the experts so placed. */
static enum sl_status try_spread(struct parts *parts, enum topology_spread spread,
                                 struct calibration_placed *out, struct sl_error *error)
{
    double rates[RATES_LANES];
    enum sl_status status = take_experts(parts, spread, error);
    if (status == SL_OK) status = run_set(parts, 1u << RATES_CPU | 1u << RATES_UP, rates, error);
    leave_experts(parts);
    if (status == SL_OK) *out = (struct calibration_placed){rates[RATES_CPU], rates[RATES_UP]};
    return status;
}

static enum sl_status choose_spread(struct parts *parts, struct calibration *out,
                                    struct sl_error *error)
{
    if (!parts->bench->device || !topology_has_near(parts->bench->pci)) return SL_OK;
    SL_TRY(try_spread(parts, TOPOLOGY_IN_TURN, &out->in_turn, error));
    SL_TRY(try_spread(parts, TOPOLOGY_NEAR, &out->near, error));
    bool nearer = out->near.cpu + out->near.up > out->in_turn.cpu + out->in_turn.up;
    out->spread = nearer ? TOPOLOGY_NEAR : TOPOLOGY_IN_TURN;
    return SL_OK;
}

/* ---- all of it ---------------------------------------------------------------------------- */

static enum sl_status measure(struct parts *parts, struct calibration *out, struct sl_error *error)
{
    const struct host_bench *bench = parts->bench;
    SL_TRY(choose_spread(parts, out, error));
    SL_TRY(take_experts(parts, out->spread, error));
    measure_cpu(parts, out);
    if (bench->device) SL_TRY(measure_link(parts, out, error));
    if (bench->file_count > 0) {
        parts->disk = malloc(sizeof *parts->disk);
        if (!parts->disk) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to read with");
        SL_TRY(host_disk_init(bench, parts->disk, error));
        SL_TRY(measure_disk(parts, out, error));
    }
    return measure_together(parts, out, error);
}

enum sl_status host_bench_run(const struct host_bench *bench, struct calibration *out,
                              char note[HOST_BENCH_TEXT_BYTES], struct sl_error *error)
{
    struct parts parts = {.bench = bench};
    out->rates = (struct rates_profile){.expert_bytes = bench->layout.slot_bytes};
    enum sl_status status = measure(&parts, out, error);
    snprintf(note, HOST_BENCH_TEXT_BYTES, "%s", parts.link.unpinned);
    leave_experts(&parts);
    if (parts.disk) host_disk_deinit(parts.disk);
    free(parts.disk);
    return status;
}
