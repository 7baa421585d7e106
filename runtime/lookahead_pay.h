/* Whether guessing pays, and how many layers ahead: measured while serving.
 *
 * Passes of one token are taken in epochs, each with one way of guessing: not at all, or 1 .. depth
 * layers ahead. At first the ways take turns; then the best goes on, and the others get a trial now
 * and then. Only epochs that follow each other are compared, for what else runs on the machine
 * changes from second to second, and the slowest pass of each is left out. Pure; one owner. */
#ifndef SLUICE_RUNTIME_LOOKAHEAD_PAY_H
#define SLUICE_RUNTIME_LOOKAHEAD_PAY_H

#include "offload/predictor.h"

#define LOOKAHEAD_EPOCH  6   /* passes between decisions */
#define LOOKAHEAD_TURNS  9   /* epochs in which the ways take turns */
#define LOOKAHEAD_TRIAL  16  /* each so-manieth epoch tries another way */
#define LOOKAHEAD_DEAR   0.1 /* a way dearer by more than that is tried less often */
#define LOOKAHEAD_MEMORY 8   /* comparisons that a way's cost is a mean of */

struct lookahead_pay {
    int32_t depth;
    int32_t way;                             /* of this epoch: layers ahead, 0 .. depth */
    double cost[PREDICTOR_DISTANCE_MAX + 1]; /* log of the time of a pass to that of way 0 */
    int32_t compared[PREDICTOR_DISTANCE_MAX + 1];
    int32_t epochs, passes, next_trial;
    double sum_ns, slowest_ns; /* of the epoch's passes */
    double last_ns;            /* the epoch before, a pass; 0: none */
    int32_t last_way;
};

void lookahead_pay_init(struct lookahead_pay *pay, int32_t depth);
/* A pass of one token took that long; may change pay->way for the next one. */
void lookahead_pay_pass(struct lookahead_pay *pay, uint64_t elapsed_ns);

#endif
