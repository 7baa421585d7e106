/* Times of one expert by lane, corrected by what happened; see the header. */
#include "offload/rates.h"

#include <math.h>
#include <string.h>

static const char *const lane_names[RATES_LANES] = {"device", "link up", "link down", "CPU",
                                                    "disk"};

const char *rates_lane_name(enum rates_lane lane)
{
    SL_ASSERT(lane >= 0 && lane < RATES_LANES);
    return lane_names[lane];
}

/* ---- profiles ---- */

static bool is_number(double value)
{
    return isfinite(value) && value >= 0;
}

enum sl_status rates_init(struct rates *rates, const struct rates_profile *profile,
                          struct sl_error *error)
{
    if (profile->expert_bytes == 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "rates of an expert of no bytes");
    for (int32_t i = 0; i < RATES_LANES; i++) {
        const struct rate *rate = &profile->lanes[i];
        if (!is_number(rate->bytes_per_second) || !is_number(rate->shared_bytes_per_second) ||
            !is_number(rate->fixed_ns) || !is_number(rate->token_ns) || !is_number(rate->layer_ns))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "rates of the %s: a figure is below zero or no number",
                                lane_names[i]);
        if ((rate->bytes_per_second > 0) != (rate->shared_bytes_per_second > 0))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "rates of the %s: one of the rates alone and shared is 0",
                                lane_names[i]);
    }
    for (int32_t i = 0; i < RATES_DISK_DEPTHS; i++)
        if (!is_number(profile->disk_bytes_per_second[i]) ||
            (profile->lanes[RATES_DISK].bytes_per_second > 0 &&
             profile->disk_bytes_per_second[i] <= 0))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "rates of the disk: no rate with %d reads in flight", 1 << i);
    *rates = (struct rates){.profile = *profile};
    for (int32_t i = 0; i < RATES_LANES; i++)
        rates->factor[i][0] = rates->factor[i][1] = 1;
    return SL_OK;
}

void rates_profile_make(struct rates_profile *profile, uint64_t expert_bytes,
                        const struct rates_machine *machine)
{
    double together = machine->link + machine->cpu;
    double cpu_shared = machine->cpu;
    if (machine->memory > 0 && machine->link > 0 && together > machine->memory)
        cpu_shared = fmax(machine->memory - machine->link, machine->cpu / 2);
    *profile = (struct rates_profile){.expert_bytes = expert_bytes};
    profile->lanes[RATES_DEVICE] = (struct rate){machine->device, machine->device, 0,
                                                 RATES_DEVICE_TOKEN_NS, RATES_DEVICE_LAYER_NS};
    profile->lanes[RATES_UP] = (struct rate){machine->link, machine->link, 0, 0, RATES_UP_LAYER_NS};
    profile->lanes[RATES_DOWN] = (struct rate){machine->link, machine->link, 0, 0, 0};
    profile->lanes[RATES_CPU] =
        (struct rate){machine->cpu, cpu_shared, 0, RATES_CPU_TOKEN_NS, RATES_CPU_LAYER_NS};
    profile->lanes[RATES_DISK] =
        (struct rate){machine->disk, machine->disk, RATES_DISK_FIXED_NS, 0, 0};
    /* One read alone waits once for its first byte; with more in flight that is hidden. */
    for (int32_t i = 0; i < RATES_DISK_DEPTHS && machine->disk > 0; i++) {
        double transfer_ns = (double)expert_bytes / machine->disk * 1e9;
        double hidden = 1 << i;
        profile->disk_bytes_per_second[i] =
            machine->disk * transfer_ns / (transfer_ns + RATES_DISK_FIXED_NS / hidden);
    }
}

/* ---- times ---- */

bool rates_usable(const struct rates *rates, enum rates_lane lane)
{
    return rates->profile.lanes[lane].bytes_per_second > 0 && !rates->down[lane];
}

static double profile_ns(const struct rates *rates, enum rates_lane lane, int32_t tokens,
                         bool shared)
{
    const struct rate *rate = &rates->profile.lanes[lane];
    double speed = shared ? rate->shared_bytes_per_second : rate->bytes_per_second;
    double bytes_ns = (double)rates->profile.expert_bytes / speed * 1e9;
    return rate->fixed_ns + fmax(bytes_ns, tokens * rate->token_ns);
}

double rates_expert_ns(const struct rates *rates, enum rates_lane lane, int32_t tokens, bool shared)
{
    SL_DEBUG_ASSERT(tokens > 0);
    if (!rates_usable(rates, lane)) return INFINITY;
    return profile_ns(rates, lane, tokens, shared) * rates->factor[lane][shared];
}

double rates_layer_ns(const struct rates *rates, enum rates_lane lane)
{
    return rates->profile.lanes[lane].layer_ns;
}

static double profile_disk_ns(const struct rates *rates, int32_t depth)
{
    const double *speeds = rates->profile.disk_bytes_per_second;
    int32_t i = 0;
    for (; i < RATES_DISK_DEPTHS - 1 && (2 << i) <= depth;)
        i++;
    double speed = speeds[i];
    if (i < RATES_DISK_DEPTHS - 1 && depth > (1 << i)) /* between two powers */
        speed += (speeds[i + 1] - speeds[i]) * (depth - (1 << i)) / (1 << i);
    return (double)rates->profile.expert_bytes / speed * 1e9;
}

double rates_disk_ns(const struct rates *rates, int32_t depth)
{
    SL_DEBUG_ASSERT(depth > 0);
    if (!rates_usable(rates, RATES_DISK)) return INFINITY;
    return profile_disk_ns(rates, depth) * rates->factor[RATES_DISK][0];
}

/* ---- experience ---- */

static void judge(struct rates *rates, enum rates_lane lane)
{
    double worst = fmax(rates->factor[lane][0], rates->factor[lane][1]);
    if (rates->down[lane]) return;
    if (worst < RATES_SLOW_FACTOR)
        rates->reason[lane][0] = 0;
    else
        snprintf(rates->reason[lane], RATES_REASON_BYTES_MAX,
                 "the %s takes %.1f times as long as its profile says", lane_names[lane], worst);
}

void rates_observe(struct rates *rates, enum rates_lane lane, int32_t experts, int32_t tokens,
                   bool shared, double elapsed_ns)
{
    SL_ASSERT(experts > 0 && tokens > 0);
    if (rates->profile.lanes[lane].bytes_per_second <= 0 || !is_number(elapsed_ns)) return;
    int32_t column = lane == RATES_DISK ? 0 : shared;
    double expected = lane == RATES_DISK ? profile_disk_ns(rates, tokens)
                                         : profile_ns(rates, lane, tokens, shared);
    double *factor = &rates->factor[lane][column];
    double ratio = elapsed_ns / (expected * experts);
    ratio = fmin(fmax(ratio, *factor / 10), *factor * 100);
    /* In the logarithm: twice as slow and twice as fast weigh the same. */
    double share = 1 - exp2(-(double)experts / RATES_HALF_LIFE);
    *factor = exp(log(*factor) + share * (log(ratio) - log(*factor)));
    *factor = fmin(fmax(*factor, 1e-3), 1e6);
    rates->observations[lane][column] += experts;
    judge(rates, lane);
}

void rates_set_down(struct rates *rates, enum rates_lane lane, const char *reason)
{
    SL_ASSERT(lane >= 0 && lane < RATES_LANES);
    rates->down[lane] = reason != NULL;
    rates->reason[lane][0] = 0;
    if (reason) snprintf(rates->reason[lane], RATES_REASON_BYTES_MAX, "%s", reason);
}

const char *rates_reason(const struct rates *rates, enum rates_lane lane)
{
    SL_ASSERT(lane >= 0 && lane < RATES_LANES);
    return rates->reason[lane][0] ? rates->reason[lane] : NULL;
}
