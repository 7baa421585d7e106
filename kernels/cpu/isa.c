/* Detection of instruction sets, and the op table of each; see kernels/cpu_isa.h. */
#include "kernels/cpu_isa.h"

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

bool cpu_isa_supported(enum cpu_isa isa)
{
#if defined(__x86_64__)
    switch (isa) {
    case CPU_ISA_PORTABLE: return true;
    case CPU_ISA_AVX2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CPU_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
               __builtin_cpu_supports("avx512bf16");
    case CPU_ISA_COUNT: break;
    }
    return false;
#else
    return isa == CPU_ISA_PORTABLE;
#endif
}

enum cpu_isa cpu_isa_best(void)
{
    enum cpu_isa best = CPU_ISA_PORTABLE;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        if (cpu_isa_supported((enum cpu_isa)isa)) best = (enum cpu_isa)isa;
    return best;
}

#if defined(__x86_64__)

static const struct ops avx2_table = {
    .name = "cpu, avx2",
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .head_norm = cpu_head_norm,
    .rope = cpu_rope,
    .linear = cpu_linear_avx2,
    .kv_store = cpu_kv_store,
    .kv_compress = cpu_kv_compress,
    .indexer = cpu_indexer,
    .attention = cpu_attention,
    .router = cpu_router,
    .expert_ffn = cpu_expert_ffn,
    .swiglu = cpu_swiglu,
    .moe_combine = cpu_moe_combine,
    .hyper_pre = cpu_hyper_pre,
    .hyper_post = cpu_hyper_post,
    .hyper_head = cpu_hyper_head,
    .mtp_mix = cpu_mtp_mix,
};

static const struct ops avx512_table = {
    .name = "cpu, avx512",
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .head_norm = cpu_head_norm,
    .rope = cpu_rope,
    .linear = cpu_linear_avx512,
    .kv_store = cpu_kv_store,
    .kv_compress = cpu_kv_compress,
    .indexer = cpu_indexer,
    .attention = cpu_attention,
    .router = cpu_router,
    .expert_ffn = cpu_expert_ffn,
    .swiglu = cpu_swiglu,
    .moe_combine = cpu_moe_combine,
    .hyper_pre = cpu_hyper_pre,
    .hyper_post = cpu_hyper_post,
    .hyper_head = cpu_hyper_head,
    .mtp_mix = cpu_mtp_mix,
};

#endif

const struct ops *ops_cpu_isa(enum cpu_isa isa)
{
    SL_ASSERT(cpu_isa_supported(isa));
#if defined(__x86_64__)
    if (isa == CPU_ISA_AVX2) return &avx2_table;
    if (isa == CPU_ISA_AVX512) return &avx512_table;
#endif
    return ops_cpu();
}
