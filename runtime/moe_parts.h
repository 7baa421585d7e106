/* Parts of the mixture of experts that both ways of running it share: with the host in the middle
 * (moe.c), and with a GPU that never waits for its launches (moe_handshake.c). */
#ifndef SLUICE_RUNTIME_MOE_PARTS_H
#define SLUICE_RUNTIME_MOE_PARTS_H

#include "kernels/fused.h"
#include "runtime/forward.h"

/* The router of layer `idx` on x [T, D], and where the host reads what comes of it; the flag is not
 * set. */
struct fused_route_args moe_route_args(const struct forward *forward,
                                       const struct forward_chunk *chunk, int32_t idx,
                                       const float *x);
/* Router of layer `idx` on x [T, D]: workspace->chosen and chosen_weights. */
void moe_launch_router(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                       const float *x);
/* Brings the choices, and x unless it is NULL, to where the host reads them: with a GPU copies, in
 * stream order. */
void moe_launch_fetch(struct forward *forward, int32_t tokens, const float *x);
/* x alone, with a GPU. */
void moe_launch_fetch_rows(struct forward *forward, int32_t tokens, const float *x);
/* Tells those who asked what was chosen: host_chosen and host_chosen_weights. */
void moe_tell_route(const struct forward *forward, const struct forward_chunk *chunk, int32_t idx);
/* The shared expert on x, into `out`. */
void moe_launch_shared(struct forward *forward, int32_t idx, int32_t tokens, const float *x,
                       float *out);
/* out += the routed experts' rows, out being the shared expert's. */
void moe_launch_combine(struct forward *forward, int32_t tokens, float *out);

/* Sorts the chunk's (token, choice) pairs by expert, tokens ascending within an expert:
 * expert_first, token_rows, output_rows, task_weights. */
void moe_sort_by_expert(const struct model_config *config, int32_t tokens, struct workspace *ws);
/* How many tokens chose the expert. */
int32_t moe_tokens_of(const struct workspace *ws, int32_t expert);
/* The task of a view's expert, its rows being those of `rows` [3, T * K]: the host's token_rows or
 * gpu_rows. */
struct expert_task moe_task(const struct workspace *ws, const struct expert_view *view,
                            const int32_t *rows);
/* Experts of the host's lane beside a GPU: from host_x to host_routed. */
void moe_run_on_host(const struct forward *forward, const struct expert_task *tasks, int32_t count);

/* Reports where views' experts came from and how long that took, before they are given back:
 * started at before_ns, ended now, both counted from start_ns. */
void moe_explain(const struct forward *forward, uint64_t start_ns, const struct expert_view *views,
                 int32_t count, uint64_t before_ns);

/* Counts a visit of layer `idx`, and records its times. */
struct moe_visit_sum {
    int32_t count, missed; /* experts; of them, not there when asked for */
    uint64_t start_ns, wait_ns;
};
void moe_finish_visit(struct forward *forward, int32_t idx, const struct moe_visit_sum *sum);

#endif
