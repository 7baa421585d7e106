/* Detection of instruction sets, and the op table of each; see kernels/cpu_isa.h. */
#include "kernels/cpu_isa.h"

#include "kernels/cpu/blas.h"
#include "kernels/cpu/expert_batch.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/variants.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const char *const names[CPU_ISA_COUNT] = {"portable", "avx2", "avx512", "amx"};

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

#if defined(__x86_64__)
/* AMX needs the processor's tiles and the kernel's leave to use their registers, which holds for
 * the threads started after it was given. */
static const char *amx_missing(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* of arch_prctl */
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return "amx-tile";
    if (!(edx & (1u << 24))) return "amx-tile";
    if (!(edx & (1u << 22))) return "amx-bf16";
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA)) return "leave to use AMX";
    return NULL;
}
#endif

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
    if (isa == CPU_ISA_AVX512) return NULL;
    return amx_missing();
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
    for (int isa = 0; isa < CPU_ISA_AMX; isa++)
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

static const struct ops table_avx2_blas = {
    TWINS,
    .name = "cpu avx2 blas",
    .stream_create = blas_stream_create,
    .stream_destroy = blas_stream_destroy,
    .expert_ffn = cpu_expert_ffn_avx2,
    .linear = cpu_linear_wide_avx2,
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

static const struct ops table_amx = {
    TWINS,
    .name = "cpu amx",
    .expert_ffn = cpu_expert_ffn_amx,
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
    if (isa == CPU_ISA_AMX) return &table_amx;
#endif
    return ops_cpu();
}

const struct ops *ops_cpu_isa_fast_prefill(enum cpu_isa isa)
{
    SL_ASSERT(cpu_isa_supported(isa));
#if defined(__x86_64__)
    if (isa == CPU_ISA_AVX2) return &table_avx2_blas;
#endif
    return ops_cpu_isa(isa);
}
