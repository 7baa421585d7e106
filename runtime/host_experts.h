/* Experts in memory for the measurements of host_bench.h: random bytes with sane scales, computed
 * and read in turn, more of them than a cache holds. One thread at a time. */
#ifndef SLUICE_RUNTIME_HOST_EXPERTS_H
#define SLUICE_RUNTIME_HOST_EXPERTS_H

#include "runtime/host_bench.h"

#include <stdatomic.h>

#define HOST_EXPERTS_CALL   6 /* experts of a call: as many as a token has */
#define HOST_EXPERTS_TOKENS 64

struct host_experts {
    const struct host_bench *bench; /* borrowed */
    int32_t count, next;
    uint8_t *slots; /* [count, slot_bytes] */
    float *x;       /* [TOKENS, hidden] */
    float *out;     /* [CALL * TOKENS, hidden] */
    float *scratch; /* [TOKENS, 3 * width] */
    int32_t token_rows[HOST_EXPERTS_TOKENS];
    int32_t output_rows[HOST_EXPERTS_CALL][HOST_EXPERTS_TOKENS];
    float weights[HOST_EXPERTS_TOKENS];
};

/* `placement` of their memory, NULL: in turn. SL_ERR_NO_MEMORY leaves nothing behind. */
SL_MUST_USE enum sl_status host_experts_init(const struct host_bench *bench,
                                             const struct topology_placement *placement,
                                             struct host_experts *out, struct sl_error *error);
void host_experts_deinit(struct host_experts *experts); /* all zero is fine */

/* ns of one call with `count` experts of `tokens` tokens each: the mean over the bench's seconds,
 * or, with `stop`, until that is set. */
double host_experts_call_ns(struct host_experts *experts, int32_t count, int32_t tokens,
                            const atomic_bool *stop);

/* Bytes a second at which all threads read experts. */
double host_experts_read_rate(struct host_experts *experts);

#endif
