/* The indexer with AVX2 and FMA: scores within 2e-6 of the largest, or one bf16 rounding of the sum
 * and of any product with `round`. */
#include "kernels/cpu/indexer_body.h"
#include "kernels/cpu/variants.h"

void cpu_indexer_avx2(struct stream *stream, const struct indexer_args *args)
{
    indexer_run_wide(stream, args);
}
