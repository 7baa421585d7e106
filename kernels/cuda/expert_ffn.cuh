/* Routed experts: what the kernels of exact numerics and those of plain f32 share. */
#ifndef SLUICE_KERNELS_CUDA_EXPERT_FFN_CUH
#define SLUICE_KERNELS_CUDA_EXPERT_FFN_CUH

#include "kernels/cuda/expert_table.cuh"

/* Some tasks of a call. */
struct expert_ffn_work {
    struct expert_ffn_args args; /* its layout is the host's */
    struct expert_layout layout;
    float *middle; /* [tasks, scratch_rows, width] */
    const struct expert_task *tasks;
    int32_t together;          /* tokens of a task that a block takes at once */
    struct expert_table table; /* awaited by the kernels for few tokens alone */
};

/* With rounding, for few tokens, all tasks in one go: `work` with its args, layout and table.
 * False, and nothing launched: other numerics, more tokens, or no room. */
bool expert_ffn_few(struct stream *stream, struct expert_ffn_work *work);

/* With rounding, for many tokens. */
void expert_ffn_wide(struct stream *stream, const struct expert_ffn_work *work);

/* Without rounding; for debugging, so short rather than fast. */
void expert_ffn_plain(struct stream *stream, const struct expert_ffn_work *work);

#endif
