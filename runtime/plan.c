/* sl_plan: would the model fit on a machine, where would its bytes live, how fast would it run.
 *
 * Speeds come from short simulations of the offload engine on synthetic routing (offload facts,
 * section 3) and the arithmetic of its section 4; every assumption is printed with the figure. */
#include "runtime/plan_machine.h"
#include "runtime/plan_shape.h"
#include "runtime/simulation.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#define GB  1e9
#define GIB 1073741824.0

/* Offload facts, sections 1 and 4. */
#define DENSE_RATE         2.8e12                 /* always-read weights on an H100 */
#define LAUNCH_SECONDS     (1.5e-3 / 43)          /* launches and attention of a layer */
#define CPU_SERIAL_SECONDS (5e-3 / 43)            /* the same without a GPU */
#define STAGED_LAYERS      2                      /* of experts, while a prompt streams through */
#define GPU_KEPT_BYTES     (UINT64_C(2560) << 20) /* KV cache, workspace, driver */
#define RAM_KEPT_BYTES     (UINT64_C(16) << 30)   /* system, dense weights on their way, buffers */
#define PREFILL_CHUNK      8192
#define EXPERT_PASS_RATE   507e9  /* of one pass over all experts: 0.29 s for Flash's */
#define PREFILL_FLOPS      300e12 /* assumed of an H100's 990 dense in bf16 */
#define PLAN_TOKENS        1200
#define PLAN_WARM          1200

enum { LOW, MIDDLE, HIGH, BANDS };

struct placement {
    uint64_t gpu_bytes, ram_bytes; /* for experts */
    int32_t all, gpu, ram, disk;   /* experts */
    bool fits, inclusive;
    char why[160]; /* it does not fit */
};

/* One change to the machine and what it brings. */
struct advice {
    const char *what;
    double tokens_per_second;
};

struct plan {
    struct plan_shape shape;
    struct plan_machine found;
    struct placement placement;
    double decode[BANDS], hits[BANDS], prefill[BANDS];
    struct advice advice[4];
    int32_t advice_count;
};

struct sl_plan_options sl_plan_options_default(void)
{
    struct sl_plan_options options = {.shape = "flash", .machine = sl_simulation_default().machine};
    options.machine.gpu_bytes = UINT64_C(80) << 30;
    options.machine.ram_bytes = UINT64_C(128) << 30;
    return options;
}

void sl_machine_this(struct sl_machine *machine)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    machine->gpu_bytes = 0;
    machine->gpu_rate = machine->link_rate = machine->cpu_rate = machine->disk_rate =
        machine->memory_rate = -1;
    if (pages > 0 && page_bytes > 0) machine->ram_bytes = (uint64_t)pages * (uint64_t)page_bytes;
}

/* ---- places ---- */

static uint64_t less(uint64_t bytes, uint64_t taken)
{
    return bytes > taken ? bytes - taken : 0;
}

static void place(const struct plan_shape *shape, const struct sl_machine *machine,
                  struct placement *out)
{
    *out = (struct placement){.all = shape->layers * shape->experts, .fits = true};
    uint64_t all_bytes = (uint64_t)out->all * shape->expert_bytes;
    uint64_t layer_bytes = (uint64_t)shape->experts * shape->expert_bytes;
    bool gpu = machine->gpu_bytes > 0;
    if (gpu)
        out->gpu_bytes = less(machine->gpu_bytes,
                              shape->dense_bytes + STAGED_LAYERS * layer_bytes + GPU_KEPT_BYTES);
    out->ram_bytes = less(machine->ram_bytes, RAM_KEPT_BYTES + (gpu ? 0 : shape->dense_bytes));
    if (out->gpu_bytes > all_bytes) out->gpu_bytes = all_bytes;
    if (out->ram_bytes > all_bytes) out->ram_bytes = all_bytes;
    out->gpu = (int32_t)(out->gpu_bytes / shape->expert_bytes);
    int32_t host = (int32_t)(out->ram_bytes / shape->expert_bytes);
    out->inclusive = gpu && host == out->all;
    out->ram = min_i32(host, out->all - out->gpu);
    out->disk = out->all - out->gpu - out->ram;
    int32_t least = shape->layers * shape->top; /* one token's experts, in the better tier */
    if (gpu && out->gpu < least)
        snprintf(out->why, sizeof out->why,
                 "the GPU has room for %d experts beside weights and buffers, one token needs %d",
                 (int)out->gpu, (int)least);
    else if (!gpu && host < least)
        snprintf(out->why, sizeof out->why,
                 "RAM has room for %d experts beside the system, one token needs %d", (int)host,
                 (int)least);
    else if (out->disk > 0 && machine->disk_rate <= 0)
        snprintf(out->why, sizeof out->why, "%d experts would stay on disk, whose rate is 0",
                 (int)out->disk);
    else if (out->disk > 0 && host < 64)
        snprintf(out->why, sizeof out->why, "RAM has no room for experts on their way from disk");
    out->fits = out->why[0] == 0;
}

/* ---- speeds ---- */

/* Always-read weights, and launches. */
static double dense_seconds(const struct plan_shape *shape, const struct sl_machine *machine)
{
    double bytes = (double)shape->dense_bytes;
    return machine->gpu_bytes > 0 ? bytes / DENSE_RATE + shape->layers * LAUNCH_SECONDS
                                  : bytes / machine->cpu_rate + shape->layers * CPU_SERIAL_SECONDS;
}

static enum sl_status decode_speed(const struct plan_shape *shape, const struct sl_machine *machine,
                                   int32_t band, double *speed, double *hits,
                                   struct sl_error *error)
{
    struct placement placement;
    struct simulate_options used;
    struct simulate_result result;
    place(shape, machine, &placement);
    struct sl_simulation simulation = sl_simulation_default();
    simulation.preset = band == HIGH ? "base" : "stress";
    simulation.machine = *machine;
    /* The lowest published hit rates are those of a memory about two thirds as large. */
    double share = band == LOW ? 0.6 : 1;
    simulation.machine.gpu_bytes = (uint64_t)((double)placement.gpu_bytes * share);
    simulation.machine.ram_bytes = placement.ram_bytes;
    if (machine->gpu_bytes == 0)
        simulation.machine.ram_bytes = (uint64_t)((double)placement.ram_bytes * share);
    uint64_t least = (uint64_t)shape->layers * (uint64_t)shape->top * shape->expert_bytes;
    if (placement.gpu_bytes && simulation.machine.gpu_bytes < least)
        simulation.machine.gpu_bytes = least;
    if (machine->gpu_bytes == 0) simulation.machine.link_rate = simulation.machine.gpu_rate = 0;
    simulation.inclusive = placement.inclusive;
    simulation.layers = shape->layers;
    simulation.experts = shape->experts;
    simulation.top = shape->top;
    simulation.hash_layers = shape->hash_layers;
    simulation.expert_bytes = shape->expert_bytes;
    simulation.dense_seconds = dense_seconds(shape, machine);
    if (band == LOW) simulation.recall[0] = simulation.recall[1] = 0;
    simulation.warm_tokens = PLAN_WARM;
    simulation.tokens = PLAN_TOKENS;
    SL_TRY(simulation_run(&simulation, &used, &result, error));
    *speed = result.tokens_per_second;
    *hits = machine->gpu_bytes > 0 ? simulate_hit_rate(&result)
                                   : 1 - (double)result.from_disk / (double)result.accesses;
    return SL_OK;
}

/* One pass of a whole chunk: what is not on the GPU streams through it, layer by layer. */
static double prefill_speed(const struct plan *plan, int32_t band)
{
    static const double chunk_part[BANDS] = {0.25, 0.5, 1};
    double chunk = PREFILL_CHUNK * chunk_part[band];
    double bytes = (double)plan->shape.expert_bytes;
    double link =
        (plan->placement.all - plan->placement.gpu) * bytes / plan->found.machine.link_rate;
    double disk =
        plan->placement.disk > 0 ? plan->placement.disk * bytes / plan->found.machine.disk_rate : 0;
    double compute =
        plan->placement.all * bytes / EXPERT_PASS_RATE + chunk * plan->shape.flop / PREFILL_FLOPS;
    return chunk / fmax(fmax(link, disk), compute);
}

static enum sl_status try_change(struct plan *plan, const struct sl_machine *machine,
                                 const char *what, struct sl_error *error)
{
    struct advice *advice = &plan->advice[plan->advice_count];
    double hits;
    SL_TRY(decode_speed(&plan->shape, machine, MIDDLE, &advice->tokens_per_second, &hits, error));
    advice->what = what;
    plan->advice_count++;
    return SL_OK;
}

static int compare_advice(const void *a, const void *b)
{
    const struct advice *x = a, *y = b;
    return (x->tokens_per_second < y->tokens_per_second) -
           (x->tokens_per_second > y->tokens_per_second);
}

static enum sl_status advise(struct plan *plan, struct sl_error *error)
{
    struct sl_machine machine = plan->found.machine;
    if (plan->placement.disk > 0) {
        machine.ram_bytes += UINT64_C(64) << 30;
        SL_TRY(try_change(plan, &machine, "64 GiB more RAM", error));
        machine = plan->found.machine;
        machine.disk_rate *= 2;
        SL_TRY(try_change(plan, &machine, "a disk twice as fast, or two", error));
        machine = plan->found.machine;
    }
    if (plan->found.machine.gpu_bytes > 0) {
        machine.link_rate *= 2;
        if (machine.memory_rate > 0) machine.memory_rate += plan->found.machine.link_rate;
        SL_TRY(try_change(plan, &machine, "the next PCIe generation", error));
        machine = plan->found.machine;
    }
    if (plan->found.machine.cpu_rate > 0) {
        machine.cpu_rate *= 1.5;
        if (machine.memory_rate > 0) machine.memory_rate += plan->found.machine.cpu_rate / 2;
        SL_TRY(try_change(plan, &machine, "half as many memory channels more", error));
    }
    qsort(plan->advice, (size_t)plan->advice_count, sizeof *plan->advice, compare_advice);
    return SL_OK;
}

/* ---- reports ---- */

static const char *const assumptions[] = {
    "decode, low: stress routing, no lookahead, memory counted at 60 %",
    "decode, middle: stress routing; high: base routing (synthetic, offload facts 3)",
    "one stream; guesses find 46 % of misses a layer ahead (facts 2.2), 36 % two (demo model)",
    "always-read weights at 2.8 TB/s and 35 us of launches a layer on the GPU (facts 4.1); an H100",
    "prefill: chunks of 2k (low), 4k, 8k (high) tokens; 2 operations a weight, 300 TFLOP/s (4.2)",
    "kept free: two layers of experts and 2.5 GiB on the GPU, 16 GiB of RAM",
};

/* Where each rate comes from, when this machine's were asked for. */
static void print_sources(FILE *out, const struct plan_machine *found)
{
    fprintf(out, "rates   ");
    for (int32_t i = 0; i < PLAN_RATES; i++) {
        bool unused = !found->machine.gpu_bytes && i != PLAN_CPU && i != PLAN_DISK;
        if (unused) continue;
        fprintf(out, " %s %s;", plan_rate_name((enum plan_rate)i),
                plan_source_name(found->sources[i]));
    }
    fprintf(out, " profile %s\n", *found->profile ? found->profile : "none");
    if (*found->notice) fprintf(out, "note     %s\n", found->notice);
}

static void print_text(FILE *out, const struct plan *plan, bool sources)
{
    const struct placement *at = &plan->placement;
    const struct sl_machine *m = &plan->found.machine;
    double each = (double)plan->shape.expert_bytes;
    fprintf(out, "model    %s: %d experts of %.2f MiB, %.1f GB that every token reads\n",
            plan->shape.name, (int)at->all, each / 1048576, (double)plan->shape.dense_bytes / GB);
    fprintf(out, "machine  GPU %.0f GiB, RAM %.0f GiB; GB/s: link %.0f, CPU %.0f, disk %.1f\n",
            (double)m->gpu_bytes / GIB, (double)m->ram_bytes / GIB,
            m->gpu_bytes ? m->link_rate / GB : 0, m->cpu_rate / GB, m->disk_rate / GB);
    if (sources) print_sources(out, &plan->found);
    fprintf(out, "fits     %s%s\n", at->fits ? "yes" : "no: ", at->why);
    if (m->gpu_bytes)
        fprintf(out, "on GPU   %6d experts, %6.1f GiB, and the always-read weights\n", (int)at->gpu,
                at->gpu * each / GIB);
    fprintf(out, "in RAM   %6d experts, %6.1f GiB%s\n", (int)at->ram, at->ram * each / GIB,
            at->inclusive ? ", and copies of those on the GPU" : "");
    fprintf(out, "on disk  %6d experts, %6.1f GiB, of a file with all %.0f GB\n", (int)at->disk,
            at->disk * each / GIB, at->all * each / GB);
    if (!at->fits) return;
    fprintf(out, "\n               low  middle    high\n");
    fprintf(out, "decode     %7.1f %7.1f %7.1f  tokens/s\n", plan->decode[0], plan->decode[1],
            plan->decode[2]);
    fprintf(out, "  hits     %7.2f %7.2f %7.2f  of accesses %s\n", plan->hits[0], plan->hits[1],
            plan->hits[2], m->gpu_bytes ? "on the GPU" : "in RAM");
    if (m->gpu_bytes)
        fprintf(out, "prefill    %7.0f %7.0f %7.0f  tokens/s\n", plan->prefill[0], plan->prefill[1],
                plan->prefill[2]);
    else
        fprintf(out, "prefill    not estimated without a GPU: sluice bench measures it\n");
    fprintf(out, "\nwhat would help (decode, middle)\n");
    for (int32_t i = 0; i < plan->advice_count; i++)
        fprintf(out, "  %-36s %6.1f tokens/s (%+.0f %%)\n", plan->advice[i].what,
                plan->advice[i].tokens_per_second,
                100 * (plan->advice[i].tokens_per_second / plan->decode[MIDDLE] - 1));
    fprintf(out, "\nassumed\n");
    for (size_t i = 0; i < SL_COUNT_OF(assumptions); i++)
        fprintf(out, "  %s\n", assumptions[i]);
}

static json_t *band_json(const double *band)
{
    return json_pack("{s:f, s:f, s:f}", "low", band[LOW], "middle", band[MIDDLE], "high",
                     band[HIGH]);
}

static json_t *sources_json(const struct plan_machine *found)
{
    const struct sl_machine *m = &found->machine;
    const double rates[PLAN_RATES] = {m->gpu_rate, m->link_rate, m->cpu_rate, m->disk_rate,
                                      m->memory_rate};
    json_t *all = json_object();
    for (int32_t i = 0; i < PLAN_RATES; i++)
        json_object_set_new(all, plan_rate_name((enum plan_rate)i),
                            json_pack("{s:f, s:s}", "bytes_per_second", rates[i], "source",
                                      plan_source_name(found->sources[i])));
    return all;
}

static char *make_json(const struct plan *plan)
{
    const struct placement *at = &plan->placement;
    json_t *root = json_pack(
        "{s:s, s:i, s:I, s:I, s:b, s:s, s:i, s:i, s:i, s:b}", "model", plan->shape.name, "experts",
        at->all, "expert_bytes", (json_int_t)plan->shape.expert_bytes, "dense_bytes",
        (json_int_t)plan->shape.dense_bytes, "fits", at->fits, "why_not", at->why, "on_gpu",
        at->gpu, "in_ram", at->ram, "on_disk", at->disk, "inclusive", at->inclusive);
    json_t *advice = json_array(), *assumed = json_array();
    for (int32_t i = 0; i < plan->advice_count; i++)
        json_array_append_new(advice,
                              json_pack("{s:s, s:f}", "change", plan->advice[i].what,
                                        "tokens_per_second", plan->advice[i].tokens_per_second));
    for (size_t i = 0; i < SL_COUNT_OF(assumptions); i++)
        json_array_append_new(assumed, json_string(assumptions[i]));
    if (at->fits) {
        json_object_set_new(root, "decode_tokens_per_second", band_json(plan->decode));
        json_object_set_new(root, "hit_rate", band_json(plan->hits));
        if (plan->found.machine.gpu_bytes)
            json_object_set_new(root, "prefill_tokens_per_second", band_json(plan->prefill));
    }
    json_object_set_new(root, "rates", sources_json(&plan->found));
    json_object_set_new(root, "machine_profile", json_string(plan->found.profile));
    json_object_set_new(root, "notice", json_string(plan->found.notice));
    json_object_set_new(root, "what_would_help", advice);
    json_object_set_new(root, "assumed", assumed);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    return text;
}

static enum sl_status make_plan(const struct sl_plan_options *options, struct plan *plan,
                                struct sl_error *error)
{
    SL_TRY(plan_shape_read(options, &plan->shape, error));
    SL_TRY(plan_machine_make(options, plan->shape.expert_bytes, &plan->found, error));
    const struct sl_machine *m = &plan->found.machine;
    if (m->gpu_bytes > 0 ? m->gpu_rate <= 0 || m->link_rate <= 0 : m->cpu_rate <= 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "nothing could compute: give the link's rate with a GPU, the CPU's "
                            "without");
    place(&plan->shape, m, &plan->placement);
    if (!plan->placement.fits) return SL_OK;
    for (int32_t band = 0; band < BANDS; band++) {
        SL_TRY(decode_speed(&plan->shape, m, band, &plan->decode[band], &plan->hits[band], error));
        if (m->gpu_bytes > 0) plan->prefill[band] = prefill_speed(plan, band);
    }
    return advise(plan, error);
}

enum sl_status sl_plan(const struct sl_plan_options *options, bool json, char **report,
                       struct sl_error *error)
{
    struct plan plan = {0};
    size_t bytes = 0;
    *report = NULL;
    SL_TRY(make_plan(options, &plan, error));
    if (json) {
        *report = make_json(&plan);
    } else {
        FILE *out = open_memstream(report, &bytes);
        if (out) {
            print_text(out, &plan, options->this_machine);
            if (fclose(out) != 0) *report = NULL;
        }
    }
    return *report ? SL_OK : sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the report");
}
