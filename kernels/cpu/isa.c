/* Detection of instruction sets, and the op table of each; see kernels/cpu_isa.h. */
#include "kernels/cpu_isa.h"

#include "kernels/cpu/expert_batch.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/variants.h"

#include <string.h>

static const char *const names[CPU_ISA_COUNT] = {"portable", "avx2", "avx512"};

const char *cpu_isa_name(enum cpu_isa isa)
{
    SL_ASSERT(isa >= 0 && isa < CPU_ISA_COUNT);
    return names[isa];
}

bool cpu_isa_parse(const char *name, enum cpu_isa *out)
{
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (strcmp(name, names[isa]) != 0) continue;
        *out = (enum cpu_isa)isa;
        return true;
    }
    return false;
}

#define NEED(feature)                                                                              \
    if (!__builtin_cpu_supports(feature)) return feature

const char *cpu_isa_missing(enum cpu_isa isa)
{
    SL_ASSERT(isa >= 0 && isa < CPU_ISA_COUNT);
    if (isa == CPU_ISA_PORTABLE) return NULL;
#if defined(__x86_64__)
    NEED("avx2");
    NEED("fma");
    if (isa == CPU_ISA_AVX2) return NULL;
    NEED("avx512f");
    NEED("avx512bw");
    NEED("avx512dq");
    NEED("avx512vl");
    NEED("avx512vbmi");
    NEED("avx512vnni");
    NEED("avx512bf16");
    return NULL;
#else
    return "x86-64";
#endif
}

bool cpu_isa_supported(enum cpu_isa isa)
{
    return cpu_isa_missing(isa) == NULL;
}

enum cpu_isa cpu_isa_best(void)
{
    enum cpu_isa best = CPU_ISA_PORTABLE;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        if (cpu_isa_supported((enum cpu_isa)isa)) best = (enum cpu_isa)isa;
    return best;
}

#if defined(__x86_64__)
/* The tables start from the twins and say anew which ops they replace. */
#ifdef __clang__
#pragma clang diagnostic ignored "-Winitializer-overrides"
#else
#pragma GCC diagnostic ignored "-Woverride-init"
#endif
#define X(op) .op = cpu_##op,
#define TWINS                                                                                      \
    SL_OPS(X)                                                                                      \
    .stream_create = cpu_stream_create, .stream_destroy = cpu_stream_destroy,                      \
    .stream_sync = cpu_stream_sync

static const struct ops table_avx2 = {
    TWINS,
    .name = "cpu avx2",
    .expert_ffn = cpu_expert_ffn_avx2,
    .linear = cpu_linear_avx2,
    .attention = cpu_attention_avx2,
    .indexer = cpu_indexer_avx2,
};

static const struct ops table_avx512 = {
    TWINS,
    .name = "cpu avx512",
    .expert_ffn = cpu_expert_ffn_avx512,
    .linear = cpu_linear_avx512,
    .attention = cpu_attention_avx512,
    .indexer = cpu_indexer_avx512,
};
#endif

const struct ops *ops_cpu_isa(enum cpu_isa isa)
{
    SL_ASSERT(cpu_isa_supported(isa));
#if defined(__x86_64__)
    if (isa == CPU_ISA_AVX2) return &table_avx2;
    if (isa == CPU_ISA_AVX512) return &table_avx512;
#endif
    return ops_cpu();
}
