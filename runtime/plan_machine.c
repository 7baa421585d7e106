/* Rates of a plan's machine, measured where they were; see the header. */
#include "runtime/plan_machine.h"

#include "offload/calibration.h"
#include "runtime/compute.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

const char *plan_source_name(enum plan_source source)
{
    static const char *const names[] = {"assumed", "given", "measured"};
    SL_ASSERT(source >= 0 && (size_t)source < SL_COUNT_OF(names));
    return names[source];
}

const char *plan_rate_name(enum plan_rate rate)
{
    static const char *const names[PLAN_RATES] = {"gpu", "link", "cpu", "disk", "memory"};
    SL_ASSERT(rate >= 0 && rate < PLAN_RATES);
    return names[rate];
}

static double *rate_of(struct sl_machine *machine, enum plan_rate rate)
{
    double *const rates[PLAN_RATES] = {&machine->gpu_rate, &machine->link_rate, &machine->cpu_rate,
                                       &machine->disk_rate, &machine->memory_rate};
    return rates[rate];
}

/* Takes a rate from the profile where none was given and one was measured. */
static void take(struct plan_machine *out, enum plan_rate rate, double measured)
{
    double *value = rate_of(&out->machine, rate);
    if (*value >= 0 || measured <= 0) return;
    *value = measured;
    out->sources[rate] = PLAN_MEASURED;
}

/* The drive is compared where the model's folder says which one is meant; a device never is, for
 * none is opened here: both are named instead. */
static enum sl_status load(const char *path, const char *model_dir, uint64_t expert_bytes,
                           struct plan_machine *out, struct sl_error *error)
{
    struct calibration found;
    struct calibration_machine here;
    struct compute compute;
    struct rates_profile rates;
    int64_t now_s = (int64_t)time(NULL);
    SL_TRY(calibration_load(path, &found, error));
    SL_TRY(compute_choose(NULL, 0, &compute, error));
    calibration_machine_here(model_dir, NULL, cpu_isa_name(compute.isa), compute.threads, &here);
    if (!model_dir) memcpy(here.disk, found.machine.disk, sizeof here.disk);
    SL_TRY(calibration_check(&found, &here, expert_bytes, now_s, path, error));
    bool gpu = out->machine.gpu_bytes > 0;
    calibration_rates(&found, gpu, &rates);
    const struct rate *lanes = rates.lanes;
    bool link = lanes[RATES_UP].bytes_per_second > 0;
    /* Together they are what was measured together, or nobody knows and it is their sum. */
    bool both = out->machine.link_rate < 0 && out->machine.cpu_rate < 0;
    if (link && both)
        take(out, PLAN_MEMORY,
             lanes[RATES_UP].shared_bytes_per_second + lanes[RATES_CPU].shared_bytes_per_second);
    take(out, PLAN_GPU, lanes[RATES_DEVICE].bytes_per_second);
    take(out, PLAN_LINK, lanes[RATES_UP].bytes_per_second);
    take(out, PLAN_CPU, lanes[RATES_CPU].bytes_per_second);
    take(out, PLAN_DISK, lanes[RATES_DISK].bytes_per_second);
    if (out->machine.memory_rate < 0 && out->sources[PLAN_CPU] == PLAN_MEASURED)
        out->machine.memory_rate = 0;
    snprintf(out->profile, sizeof out->profile, "%.80s, %lld days old; disk %.64s%s%.48s", path,
             (long long)((now_s - found.measured_s) / (24 * 3600)), found.machine.disk,
             gpu && link ? "; GPU " : "", gpu && link ? found.machine.device : "");
    return SL_OK;
}

static enum sl_status measure(const struct sl_plan_options *options, uint64_t expert_bytes,
                              struct plan_machine *out, struct sl_error *error)
{
    char path[4096];
    if (options->machine_profile) {
        if (!*options->machine_profile) return SL_OK;
        return load(options->machine_profile, options->model_dir, expert_bytes, out, error);
    }
    if (!calibration_default_path(path, sizeof path) || access(path, F_OK) != 0) return SL_OK;
    struct sl_error refusal;
    if (load(path, options->model_dir, expert_bytes, out, &refusal) != SL_OK)
        snprintf(out->notice, sizeof out->notice, "%s", refusal.message);
    return SL_OK;
}

enum sl_status plan_machine_make(const struct sl_plan_options *options, uint64_t expert_bytes,
                                 struct plan_machine *out, struct sl_error *error)
{
    struct sl_machine assumed = sl_simulation_default().machine;
    *out = (struct plan_machine){.machine = options->machine};
    for (int32_t rate = 0; rate < PLAN_RATES; rate++)
        if (*rate_of(&out->machine, (enum plan_rate)rate) >= 0) out->sources[rate] = PLAN_GIVEN;
    if (options->this_machine) SL_TRY(measure(options, expert_bytes, out, error));
    for (int32_t rate = 0; rate < PLAN_RATES; rate++) {
        double *value = rate_of(&out->machine, (enum plan_rate)rate);
        if (*value < 0) *value = *rate_of(&assumed, (enum plan_rate)rate);
    }
    return SL_OK;
}
