/* The ops that have a file for an instruction set; isa.c puts them into its table. Call one only
 * where cpu_isa_supported says so. Contracts and limits are the twin's (ops.h) and those at the top
 * of each file. */
#ifndef SLUICE_KERNELS_CPU_VARIANTS_H
#define SLUICE_KERNELS_CPU_VARIANTS_H

#include "kernels/ops.h"

#define CPU_AVX2_OPS(X)   X(linear) X(attention) X(indexer)
#define CPU_AVX512_OPS(X) X(linear) X(attention) X(indexer)

#define X(op) void cpu_##op##_avx2(struct stream *stream, const struct op##_args *args);
CPU_AVX2_OPS(X)
#undef X
#define X(op) void cpu_##op##_avx512(struct stream *stream, const struct op##_args *args);
CPU_AVX512_OPS(X)
#undef X

#endif
