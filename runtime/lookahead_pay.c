/* Trials of ways of guessing; see the header. */
#include "runtime/lookahead_pay.h"

#include <math.h>

/* A comparison says no more than this, a factor of 1.65: the rest is the machine's. */
#define RATIO_LOG_MAX 0.5

void lookahead_pay_init(struct lookahead_pay *pay, int32_t depth)
{
    SL_ASSERT(depth >= 0 && depth <= PREDICTOR_DISTANCE_MAX);
    *pay = (struct lookahead_pay){.depth = depth, .way = depth};
}

static int32_t best_way(const struct lookahead_pay *pay)
{
    int32_t best = 0;
    for (int32_t way = 1; way <= pay->depth; way++)
        if (pay->cost[way] < pay->cost[best]) best = way;
    return best;
}

/* Learns from this epoch after another one. Of two ways that guess, the one on trial is learnt
 * of. */
static void compare(struct lookahead_pay *pay, double pass_ns)
{
    int32_t way = pay->way, other = pay->last_way;
    double apart = log(pass_ns / pay->last_ns);
    if (way == 0 || (other != 0 && way == best_way(pay))) {
        way = pay->last_way, other = pay->way;
        apart = -apart;
    }
    apart = fmin(fmax(apart, -RATIO_LOG_MAX), RATIO_LOG_MAX);
    int32_t known = min_i32(++pay->compared[way], LOOKAHEAD_MEMORY);
    pay->cost[way] += (pay->cost[other] + apart - pay->cost[way]) / known;
}

/* The way of the next epoch. */
static int32_t choose(struct lookahead_pay *pay)
{
    int32_t best = best_way(pay);
    bool turns = pay->epochs < LOOKAHEAD_TURNS;
    /* Each way that guesses is followed by the one that does not. */
    if (turns && pay->way != 0) return 0;
    if (!turns && pay->epochs % LOOKAHEAD_TRIAL != 0) return best;
    pay->next_trial = (pay->next_trial + 1) % (pay->depth + 1);
    if (pay->next_trial == (turns ? 0 : best))
        pay->next_trial = (pay->next_trial + 1) % (pay->depth + 1);
    bool hopeless = pay->cost[pay->next_trial] - pay->cost[best] > LOOKAHEAD_DEAR;
    if (!turns && hopeless && pay->epochs % (4 * LOOKAHEAD_TRIAL) != 0) return best;
    return pay->next_trial;
}

void lookahead_pay_pass(struct lookahead_pay *pay, uint64_t elapsed_ns)
{
    double ns = (double)elapsed_ns;
    if (pay->depth == 0) return;
    pay->sum_ns += ns;
    pay->slowest_ns = fmax(pay->slowest_ns, ns);
    if (++pay->passes < LOOKAHEAD_EPOCH) return;
    double pass_ns = fmax(1, (pay->sum_ns - pay->slowest_ns) / (LOOKAHEAD_EPOCH - 1));
    if (pay->last_ns > 0 && pay->way != pay->last_way) compare(pay, pass_ns);
    pay->last_ns = pass_ns;
    pay->last_way = pay->way;
    pay->sum_ns = pay->slowest_ns = 0;
    pay->passes = 0;
    pay->epochs++;
    pay->way = choose(pay);
}
