/* What the layers of a simulation waited for; see simulate.h and simulate_state.h. */
#include "offload/simulate_state.h"

#include <math.h>

const char *simulate_lost_name(enum simulate_lost lost)
{
    static const char *const names[SIMULATE_LOST_COUNT] = {"cpu", "link", "both", "disk",
                                                           "hand-over"};
    SL_ASSERT(lost >= 0 && lost < SIMULATE_LOST_COUNT);
    return names[lost];
}

double sim_cpu_share(const struct dispatch_decision *decisions, int32_t count)
{
    double end = 0;
    for (int32_t i = 0; i < count; i++)
        if (decisions[i].choice == DISPATCH_CPU || decisions[i].choice == DISPATCH_READ_CPU)
            end = fmax(end, (double)decisions[i].finish_ns);
    return end;
}

void sim_charge(struct sim *sim, const struct dispatch_decision *decisions, double finish)
{
    double best = sim->resident_ns, stall = finish - best;
    if (stall <= 0) return;
    double cpu_end = sim_cpu_share(decisions, sim->options.top);
    double link_end = fmin(fmax(sim->link_free_ns[PREFETCH_UP] - sim->now_ns, 0), finish);
    const struct dispatch_decision *last = decisions;
    for (int32_t i = 1; i < sim->options.top; i++)
        if (decisions[i].finish_ns > last->finish_ns) last = &decisions[i];
    sim->result.stall_ns += stall;
    double *lost = sim->result.lost_ns;
    bool cpu = last->choice == DISPATCH_CPU || last->choice == DISPATCH_READ_CPU;
    /* What the CPU has to wait for is on its way from disk. */
    bool read = last->choice == DISPATCH_READ_CPU || last->choice == DISPATCH_READ_STREAM ||
                (cpu && last->ready_ns > 0);
    double hand = fmin(stall, rates_layer_ns(&sim->rates, cpu ? RATES_CPU : RATES_UP));
    double other_end = fmax(cpu ? link_end : cpu_end, best);
    double alone = fmin(fmax(finish - other_end, 0), stall - hand);
    lost[SIMULATE_LOST_HAND] += hand;
    if (read) {
        lost[SIMULATE_LOST_DISK] += stall - hand;
        return;
    }
    lost[cpu ? SIMULATE_LOST_CPU : SIMULATE_LOST_LINK] += alone;
    lost[SIMULATE_LOST_BOTH] += stall - hand - alone;
}
