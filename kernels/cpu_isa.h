/* Which instruction set the CPU's production kernels use, chosen once when an engine opens.
 *
 * PORTABLE is the plain C twins. A variant overrides the ops it has a faster file for
 * (`kernels/cpu/<op>_<isa>.c`) and takes the twins for the rest; every override is checked against
 * its twin, within the limit stated beside it. */
#ifndef SLUICE_KERNELS_CPU_ISA_H
#define SLUICE_KERNELS_CPU_ISA_H

#include "kernels/ops.h"

enum cpu_isa {
    CPU_ISA_PORTABLE,
    CPU_ISA_AVX2,   /* AVX2, FMA, F16C */
    CPU_ISA_AVX512, /* AVX-512 F, BW, DQ, VL, VBMI, VNNI and BF16 */
    CPU_ISA_AMX,    /* these and AMX-BF16, for the experts; no machine has run it yet */
    CPU_ISA_COUNT,
};

/* "portable", "avx2", "avx512", "amx". */
const char *cpu_isa_name(enum cpu_isa isa);

/* True and `*out` set when `name` is one of these names. */
bool cpu_isa_parse(const char *name, enum cpu_isa *out);

/* The first feature that the variant needs and this processor, or the operating system's saving of
 * registers, does not offer; NULL when it can run. */
const char *cpu_isa_missing(enum cpu_isa isa);

/* Whether nothing is missing. */
bool cpu_isa_supported(enum cpu_isa isa);

/* The best that is supported and has been run: AMX only runs when asked for. */
enum cpu_isa cpu_isa_best(void);

/* The op table of a supported variant (assert); static storage. */
const struct ops *ops_cpu_isa(enum cpu_isa isa);

/* The table whose fp8 linears of many tokens go through OpenBLAS where that measures faster (AVX2);
 * their results then depend on the number of tokens of a call. The same as ops_cpu_isa where it is
 * never faster. Its streams are its own, and refused with SL_ERR_UNSUPPORTED without OpenBLAS. */
const struct ops *ops_cpu_isa_fast_prefill(enum cpu_isa isa);

#endif
