/* Routed experts of the real shape on the CPU, with every instruction set this machine has, beside
 * what reading their bytes once and doing their multiply-adds would take at best. */
#include "bench/bench.h"

#include "kernels/cpu/stream.h"
#include "offload/arena.h"
#include "runtime/compute.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define HIDDEN          4096
#define WIDTH           2048
#define EXPERTS         200 /* 2.7 GB, far more than any cache */
#define TASKS_MAX       6   /* experts of one call */
#define TOKENS_MAX      64
#define FMA_STEPS       (1 << 21)
#define FMA_CHAINS      10
#define SAMPLE_EXPERTS  48 /* times tokens: what one sample computes, in expert-tokens */
#define READ_SHARES     64
#define MACS_PER_EXPERT (3.0 * HIDDEN * WIDTH)

struct experts {
    struct expert_layout layout;
    uint8_t *slots; /* [EXPERTS, slot_bytes] */
    int32_t next;   /* whose turn it is */
    float *x;       /* [TOKENS_MAX, HIDDEN] */
    float *out;     /* [TASKS_MAX, TOKENS_MAX, HIDDEN] */
    float *scratch; /* [TOKENS_MAX, 3 * WIDTH] */
    int32_t token_rows[TOKENS_MAX];
    int32_t output_rows[TASKS_MAX][TOKENS_MAX];
    float weights[TOKENS_MAX];
};

struct read_job {
    const uint8_t *memory;
    size_t share_bytes;
    uint64_t *sums; /* [READ_SHARES], so that the reads cannot be left out */
};

static void experts_deinit(struct experts *experts)
{
    arena_unmap(experts->slots, EXPERTS * experts->layout.slot_bytes);
    free(experts->x);
    free(experts->out);
    free(experts->scratch);
}

/* One random expert, copied into every slot; SplitMix64 makes the bytes. */
static void fill(struct experts *experts, uint64_t seed)
{
    const struct expert_layout *layout = &experts->layout;
    uint64_t *words = (uint64_t *)(void *)experts->slots;
    for (size_t i = 0; i < layout->slot_bytes / sizeof *words; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        words[i] = z ^ (z >> 31);
    }
    for (int part = EXPERT_S1; part < EXPERT_PARTS; part += 2)
        for (size_t i = 0; i < layout->part_bytes[part]; i++)
            experts->slots[layout->offset_bytes[part] + i] =
                (uint8_t)(118 + experts->slots[layout->offset_bytes[part] + i] % 4);
    for (int32_t e = 1; e < EXPERTS; e++)
        memcpy(experts->slots + (size_t)e * layout->slot_bytes, experts->slots, layout->slot_bytes);
    for (int32_t i = 0; i < TOKENS_MAX * HIDDEN; i++)
        experts->x[i] = (float)((i * 37 + (int32_t)(seed % 64)) % 64 - 32) / 16.0f;
}

static bool experts_init(struct experts *experts, uint64_t seed)
{
    memset(experts, 0, sizeof *experts);
    experts->layout = expert_layout_make(HIDDEN, WIDTH);
    experts->slots = arena_map(EXPERTS * experts->layout.slot_bytes);
    experts->x = malloc(sizeof(float) * TOKENS_MAX * HIDDEN);
    experts->out = malloc(sizeof(float) * TASKS_MAX * TOKENS_MAX * HIDDEN);
    experts->scratch = malloc(sizeof(float) * TOKENS_MAX * 3 * WIDTH);
    if (!experts->slots || !experts->x || !experts->out || !experts->scratch) return false;
    fill(experts, seed);
    for (int32_t t = 0; t < TOKENS_MAX; t++) {
        experts->token_rows[t] = t;
        experts->weights[t] = 0.5f;
        for (int32_t e = 0; e < TASKS_MAX; e++)
            experts->output_rows[e][t] = e * TOKENS_MAX + t;
    }
    return true;
}

static const uint8_t *next_slot(struct experts *experts)
{
    experts->next = (experts->next + 1) % EXPERTS;
    return experts->slots + (size_t)experts->next * experts->layout.slot_bytes;
}

static void read_share(const void *context, int32_t idx)
{
    const struct read_job *job = context;
    const uint64_t *words =
        (const uint64_t *)(const void *)(job->memory + (size_t)idx * job->share_bytes);
    uint64_t sums[8] = {0};
    for (size_t i = 0; i + 8 <= job->share_bytes / sizeof *words; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            sums[lane] += words[i + lane];
    for (size_t lane = 0; lane < 8; lane++)
        job->sums[idx] += sums[lane];
}

/* ms to read one expert once, over SAMPLE_EXPERTS of them. */
static double read_ms(struct stream *stream, struct experts *experts)
{
    uint64_t sums[READ_SHARES] = {0};
    uint64_t start_ns = bench_now_ns();
    for (int32_t i = 0; i < SAMPLE_EXPERTS; i++) {
        struct read_job job = {next_slot(experts), experts->layout.slot_bytes / READ_SHARES, sums};
        stream_run(stream, READ_SHARES, read_share, &job);
    }
    double elapsed_ns = (double)(bench_now_ns() - start_ns);
    SL_ASSERT(sums[0] != 0);
    return elapsed_ns / 1e6 / SAMPLE_EXPERTS;
}

#if defined(__x86_64__)
/* FMA_STEPS f32 multiply-adds on every lane of independent registers. */
__attribute__((target("avx2,fma"))) static void fma_avx2(const void *context, int32_t idx)
{
    __m256 sums[FMA_CHAINS];
    __m256 factor = _mm256_set1_ps(0.5f);
    float *out = (float *)context + 16 * idx;
    for (int i = 0; i < FMA_CHAINS; i++)
        sums[i] = _mm256_set1_ps((float)i);
    for (int step = 0; step < FMA_STEPS; step++)
        for (int i = 0; i < FMA_CHAINS; i++)
            sums[i] = _mm256_fmadd_ps(sums[i], factor, factor);
    for (int i = 0; i < FMA_CHAINS; i++)
        _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), sums[i]));
}

__attribute__((target("avx512f"))) static void fma_avx512(const void *context, int32_t idx)
{
    __m512 sums[FMA_CHAINS];
    __m512 factor = _mm512_set1_ps(0.5f);
    float *out = (float *)context + 16 * idx;
    for (int i = 0; i < FMA_CHAINS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int step = 0; step < FMA_STEPS; step++)
        for (int i = 0; i < FMA_CHAINS; i++)
            sums[i] = _mm512_fmadd_ps(sums[i], factor, factor);
    for (int i = 0; i < FMA_CHAINS; i++)
        _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), sums[i]));
}
#endif

/* ms for one expert's multiply-adds of one token at the peak of f32 FMA; 0: not known. */
static double fma_ms(struct stream *stream, enum cpu_isa isa, int32_t threads, float *out)
{
#if defined(__x86_64__)
    if (isa != CPU_ISA_PORTABLE) {
        bool is_wide = isa == CPU_ISA_AVX512;
        int32_t shares = 4 * threads;
        uint64_t start_ns = bench_now_ns();
        stream_run(stream, shares, is_wide ? fma_avx512 : fma_avx2, out);
        double elapsed_ns = (double)(bench_now_ns() - start_ns);
        double macs = (double)shares * FMA_STEPS * FMA_CHAINS * (is_wide ? 16 : 8);
        return elapsed_ns / 1e6 * MACS_PER_EXPERT / macs;
    }
#endif
    (void)stream, (void)isa, (void)threads, (void)out;
    return 0;
}

/* ms an expert, in calls of up to TASKS_MAX. */
static double expert_ms(struct stream *stream, const struct ops *ops, struct experts *experts,
                        int32_t tokens)
{
    int32_t total = max_i32(SAMPLE_EXPERTS / tokens, 2);
    uint64_t start_ns = bench_now_ns();
    for (int32_t done = 0; done < total;) {
        struct expert_task tasks[TASKS_MAX];
        int32_t count = min_i32(TASKS_MAX, total - done);
        for (int32_t e = 0; e < count; e++)
            tasks[e] = (struct expert_task){next_slot(experts), experts->token_rows,
                                            experts->output_rows[e], experts->weights, tokens};
        struct expert_ffn_args args = {.x = experts->x,
                                       .out = experts->out,
                                       .tasks = tasks,
                                       .layout = &experts->layout,
                                       .scratch = experts->scratch,
                                       .task_count = count,
                                       .scratch_rows = TOKENS_MAX,
                                       .limit = 10.0f,
                                       .round = true};
        ops->expert_ffn(stream, &args);
        done += count;
    }
    return (double)(bench_now_ns() - start_ns) / 1e6 / total;
}

static void measure(const struct bench_options *options, struct stream *stream,
                    struct experts *experts, enum cpu_isa isa, int32_t threads, int32_t tokens)
{
    const struct ops *ops = ops_cpu_isa(isa);
    double times[BENCH_SAMPLES_MAX];
    double bounds[BENCH_SAMPLES_MAX];
    double ratios[BENCH_SAMPLES_MAX];
    float sink[16 * 4 * 64] = {0};
    char name[96];
    expert_ms(stream, ops, experts, tokens);
    for (int32_t round = 0; round < options->rounds; round++) {
        double read = read_ms(stream, experts);
        double multiply = tokens * fma_ms(stream, isa, min_i32(threads, 64), sink);
        times[round] = expert_ms(stream, ops, experts, tokens);
        bounds[round] = read > multiply ? read : multiply;
        ratios[round] = bounds[round] / times[round];
    }
    snprintf(name, sizeof name, "expert, %s, %d token%s, %d thread%s", cpu_isa_name(isa),
             (int)tokens, tokens == 1 ? "" : "s", (int)threads, threads == 1 ? "" : "s");
    bench_print(options, &(struct bench_line){
                             .bench = "ops",
                             .name = name,
                             .unit = "ms",
                             .samples = times,
                             .count = options->rounds,
                             .ceiling = bench_percentile(bounds, options->rounds, 50),
                             .ratio = bench_percentile(ratios, options->rounds, 50),
                         });
}

int bench_ops(const struct bench_options *options)
{
    static const int32_t token_counts[] = {1, 4, 8, 16, 64};
    struct experts experts;
    struct compute compute;
    struct sl_error error;
    int result = 1;
    if (!experts_init(&experts, options->seed)) {
        fprintf(stderr, "sluice-bench: no memory for %d experts of %zu bytes\n", EXPERTS,
                experts.layout.slot_bytes);
        goto out;
    }
    if (compute_choose(NULL, options->threads, &compute, &error) != SL_OK) goto fail;
    for (int pass = 0; pass < (options->threads > 1 ? 2 : 1); pass++) {
        int32_t threads = compute.threads = pass == 0 ? 1 : options->threads;
        struct stream *stream;
        if (compute_open_stream(&compute, ops_cpu(), &stream, &error) != SL_OK) goto fail;
        for (int isa = CPU_ISA_COUNT - 1; isa > CPU_ISA_PORTABLE; isa--)
            for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
                if (cpu_isa_supported((enum cpu_isa)isa))
                    measure(options, stream, &experts, (enum cpu_isa)isa, threads, token_counts[i]);
        ops_cpu()->stream_destroy(stream);
    }
    result = 0;
    goto out;
fail:
    fprintf(stderr, "sluice-bench: %s\n", error.message);
out:
    experts_deinit(&experts);
    return result;
}
