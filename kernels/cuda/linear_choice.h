/* Which linears of more than 16 tokens go through cuBLASLt: a table of what was measured.
 *
 * `sluice-bench-gpu ROUNDS dense` measures both ways side by side and prints the table's lines;
 * what no line names takes our own kernel. */
#ifndef SLUICE_KERNELS_CUDA_LINEAR_CHOICE_H
#define SLUICE_KERNELS_CUDA_LINEAR_CHOICE_H

#include "kernels/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Products of fp8 weights of these sizes, on devices of compute capability arch / 10, for which
 * cuBLASLt was faster. A table ends with a line of zeros. */
struct linear_choice {
    int32_t arch, rows, columns, tokens_from, tokens_to; /* both included */
};

/* What this build was measured with. */
const struct linear_choice *linear_choices(void);

/* Whether a table names these sizes, and whether it names the device at all. */
bool linear_choice_has(const struct linear_choice *table, int32_t arch, int32_t rows,
                       int32_t columns, int32_t tokens);
bool linear_choice_has_arch(const struct linear_choice *table, int32_t arch);

#ifdef __cplusplus
}
#endif
#endif
