/* Matrix products with AVX2 and FMA: f32 products of exactly decoded weights. Within 2e-6 of the
 * sum of the products' magnitudes; the two NaN codes of e4m3 count as +-480. */
#include "kernels/cpu/linear_float.h"
#include "kernels/cpu/variants.h"

void cpu_linear_avx2(struct stream *stream, const struct linear_args *args)
{
    linear_blocked_run(stream, args, &linear_float_kernel);
}
