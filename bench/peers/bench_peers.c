/* Weights, our own kernels, and the float64 reference; see the header. */
#include "bench/peers/bench_peers.h"

#include "bench/bench.h"
#include "kernels/cpu_isa.h"
#include "kernels/lowp.h"
#include "offload/arena.h"

#include <math.h>
#include <sched.h>

static struct {
    struct expert_layout layout;
    uint8_t *parts[EXPERT_PARTS];
    uint8_t *slots; /* [PEERS_EXPERTS, slot_bytes] */
    float *x;       /* [PEERS_TOKENS_MAX, PEERS_HIDDEN] */
    float *out;     /* [PEERS_TASKS, PEERS_TOKENS_MAX, PEERS_HIDDEN] */
    float *scratch; /* [PEERS_TOKENS_MAX, 3 * PEERS_WIDTH] */
    struct stream *stream;
    int32_t next; /* whose turn it is */
} peers;

/* SplitMix64. */
static uint64_t draw(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Nearly normal, of variance 1: four uniform values of 16 bits. */
static float draw_normal(uint64_t *seed)
{
    uint64_t bits = draw(seed);
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)((bits >> (16 * i)) & 0xffff) / 65536.0f - 0.5f;
    return bf16_round(sum * 1.7320508f);
}

static bool fill(uint64_t seed)
{
    const uint8_t *parts[EXPERT_PARTS];
    for (int part = 0; part < EXPERT_PARTS; part++) {
        size_t bytes = peers.layout.part_bytes[part];
        parts[part] = peers.parts[part] = malloc(bytes);
        if (!parts[part]) return false;
        for (size_t i = 0; i < bytes; i++) {
            uint8_t byte = (uint8_t)(draw(&seed) >> 40);
            peers.parts[part][i] = part % 2 ? (uint8_t)(118 + byte % 4) : byte;
        }
    }
    for (size_t e = 0; e < PEERS_EXPERTS; e++)
        expert_layout_place(&peers.layout, parts, peers.slots + e * peers.layout.slot_bytes);
    for (int32_t i = 0; i < PEERS_TOKENS_MAX * PEERS_HIDDEN; i++)
        peers.x[i] = draw_normal(&seed);
    return true;
}

/* Where ggml keeps its first thread, the same one. */
static bool pin_caller(void)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    return sched_setaffinity(0, sizeof cpus, &cpus) == 0;
}

bool peers_open(uint64_t seed, int32_t threads)
{
    static int32_t cpus[PEERS_THREADS_MAX];
    SL_ASSERT(threads >= 1 && threads <= PEERS_THREADS_MAX);
    peers.layout = expert_layout_make(PEERS_HIDDEN, PEERS_WIDTH);
    peers.slots = arena_map(PEERS_EXPERTS * peers.layout.slot_bytes);
    peers.x = malloc(sizeof(float) * PEERS_TOKENS_MAX * PEERS_HIDDEN);
    peers.out = malloc(sizeof(float) * PEERS_TASKS * PEERS_TOKENS_MAX * PEERS_HIDDEN);
    peers.scratch = malloc(sizeof(float) * PEERS_TOKENS_MAX * 3 * PEERS_WIDTH);
    if (!peers.slots || !peers.x || !peers.out || !peers.scratch || !fill(seed)) return false;
    struct stream_options options = {.threads = threads, .cpus = cpus};
    for (int32_t i = 0; i < threads; i++)
        cpus[i] = i;
    return pin_caller() && ops_cpu()->stream_create(&options, &peers.stream) == SL_OK;
}

const uint8_t *peers_part(int32_t part)
{
    return peers.parts[part];
}

const float *peers_activations(void)
{
    return peers.x;
}

double peers_run_ours(const char *isa, int32_t tokens)
{
    static int32_t token_rows[PEERS_TOKENS_MAX];
    static int32_t output_rows[PEERS_TASKS][PEERS_TOKENS_MAX];
    static float weights[PEERS_TOKENS_MAX];
    struct expert_task tasks[PEERS_TASKS];
    enum cpu_isa chosen;
    if (!cpu_isa_parse(isa, &chosen) || !cpu_isa_supported(chosen)) return -1;
    for (int32_t e = 0; e < PEERS_TASKS; e++) {
        for (int32_t t = 0; t < tokens; t++) {
            token_rows[t] = t;
            output_rows[e][t] = e * tokens + t;
            weights[t] = PEERS_WEIGHT;
        }
        tasks[e] = (struct expert_task){peers.slots + (size_t)peers.next * peers.layout.slot_bytes,
                                        token_rows, output_rows[e], weights, tokens};
        peers.next = (peers.next + 1) % PEERS_EXPERTS;
    }
    struct expert_ffn_args args = {.x = peers.x,
                                   .out = peers.out,
                                   .tasks = tasks,
                                   .layout = &peers.layout,
                                   .scratch = peers.scratch,
                                   .task_count = PEERS_TASKS,
                                   .scratch_rows = PEERS_TOKENS_MAX,
                                   .limit = PEERS_LIMIT,
                                   .round = true};
    uint64_t start_ns = bench_now_ns();
    ops_cpu_isa(chosen)->expert_ffn(peers.stream, &args);
    return (double)(bench_now_ns() - start_ns) / 1e9;
}

const float *peers_ours_output(void)
{
    return peers.out;
}

void peers_quantise(const double *x, int32_t count, double *out)
{
    for (int32_t first = 0; first < count; first += LOWP_FP8_BLOCK) {
        float amax = 0;
        for (int32_t i = first; i < first + LOWP_FP8_BLOCK; i++)
            amax = fmaxf(amax, fabsf((float)x[i]));
        float scale = lowp_fp8_scale(amax);
        for (int32_t i = first; i < first + LOWP_FP8_BLOCK; i++)
            out[i] = (double)(e4m3_decode(e4m3_encode((float)x[i] / scale)) * scale);
    }
}

static double dot(enum expert_part part, int32_t row, int32_t columns, const double *x)
{
    const uint8_t *codes = peers.parts[part] + (size_t)row * (size_t)columns / 2;
    const uint8_t *scales = peers.parts[part + 1] + (size_t)row * (size_t)columns / 32;
    double sum = 0;
    for (int32_t c = 0; c < columns; c += 2) {
        double scale = (double)e8m0_decode(scales[c / 32]);
        sum += scale * (double)e2m1_decode(codes[c / 2] & 15) * x[c];
        sum += scale * (double)e2m1_decode(codes[c / 2] >> 4) * x[c + 1];
    }
    return sum;
}

void peers_reference(int32_t tokens, double *out)
{
    static double input[PEERS_HIDDEN], middle[PEERS_WIDTH];
    for (int32_t t = 0; t < tokens; t++) {
        for (int32_t c = 0; c < PEERS_HIDDEN; c++)
            input[c] = (double)peers.x[(size_t)t * PEERS_HIDDEN + (size_t)c];
        peers_quantise(input, PEERS_HIDDEN, input);
        for (int32_t r = 0; r < PEERS_WIDTH; r++) {
            double gate = (double)bf16_round((float)dot(EXPERT_W1, r, PEERS_HIDDEN, input));
            double up = (double)bf16_round((float)dot(EXPERT_W3, r, PEERS_HIDDEN, input));
            gate = fmin(gate, (double)PEERS_LIMIT);
            up = fmin(fmax(up, -(double)PEERS_LIMIT), (double)PEERS_LIMIT);
            double value = (double)PEERS_WEIGHT * gate / (1 + exp(-gate)) * up;
            middle[r] = (double)bf16_round((float)value);
        }
        peers_quantise(middle, PEERS_WIDTH, middle);
        for (int32_t r = 0; r < PEERS_HIDDEN; r++)
            out[(size_t)t * PEERS_HIDDEN + (size_t)r] = dot(EXPERT_W2, r, PEERS_WIDTH, middle);
    }
}
