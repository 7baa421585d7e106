/* The peer ggml: the expert as a graph of its own operations over MXFP4 tensors; see the header. */
#include "bench/peers/bench_peers.h"

#include "bench/bench.h"

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <string.h>

#define BLOCK_COLUMNS 32
#define BLOCK_BYTES   17 /* one scale, 16 bytes of nibbles */
#define MATRICES      3  /* w1, w3, w2 */

struct weights {
    struct ggml_tensor *tensors[PEERS_EXPERTS][MATRICES];
};

static struct {
    ggml_backend_t backend;
    ggml_gallocr_t memory;
    struct weights plain, repacked;
    float out[PEERS_TOKENS_MAX * PEERS_HIDDEN];
    int32_t next;
} peer;

/* A published tensor in ggml's blocks: the low nibbles of a block's 16 bytes are its first 16
 * columns, the high ones its last; the scale byte is the same. */
static void convert(enum expert_part part, uint8_t *out)
{
    const uint8_t *codes = peers_part((int32_t)part);
    const uint8_t *scales = peers_part((int32_t)part + 1);
    size_t blocks = (size_t)PEERS_HIDDEN * PEERS_WIDTH / BLOCK_COLUMNS;
    for (size_t b = 0; b < blocks; b++, codes += 16, out += BLOCK_BYTES) {
        out[0] = scales[b];
        for (int i = 0; i < 16; i++) {
            uint8_t low = (uint8_t)(codes[i / 2] >> (i % 2 * 4) & 15);
            uint8_t high = (uint8_t)(codes[8 + i / 2] >> (i % 2 * 4) & 15);
            out[1 + i] = (uint8_t)(low | high << 4);
        }
    }
}

static bool place(struct weights *weights, ggml_backend_buffer_type_t type)
{
    static uint8_t blocks[(size_t)PEERS_HIDDEN * PEERS_WIDTH / BLOCK_COLUMNS * BLOCK_BYTES];
    struct ggml_init_params params = {.mem_size = ggml_tensor_overhead() * PEERS_EXPERTS * MATRICES,
                                      .no_alloc = true};
    struct ggml_context *context = ggml_init(params);
    if (!context) return false;
    for (int32_t e = 0; e < PEERS_EXPERTS; e++)
        for (int i = 0; i < MATRICES; i++)
            weights->tensors[e][i] =
                ggml_new_tensor_2d(context, GGML_TYPE_MXFP4, i < 2 ? PEERS_HIDDEN : PEERS_WIDTH,
                                   i < 2 ? PEERS_WIDTH : PEERS_HIDDEN);
    if (!ggml_backend_alloc_ctx_tensors_from_buft(context, type)) return false;
    for (int i = 0; i < MATRICES; i++) {
        convert((enum expert_part)(2 * i), blocks);
        for (int32_t e = 0; e < PEERS_EXPERTS; e++)
            ggml_backend_tensor_set(weights->tensors[e][i], blocks, 0, sizeof blocks);
    }
    return true;
}

/* The buffer type that rearranges tensors for this processor, or NULL. */
static ggml_backend_buffer_type_t find_repacking(ggml_backend_t backend)
{
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    ggml_backend_dev_get_extra_bufts_t get =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t *types = get ? get(device) : NULL;
    for (; types && *types; types++)
        if (strcmp(ggml_backend_buft_name(*types), "CPU_REPACK") == 0) return *types;
    return NULL;
}

bool peers_open_ggml(int32_t threads)
{
    struct ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    params.strict_cpu = true; /* one CPU each, as ours */
    for (int32_t i = 0; i < threads; i++)
        params.cpumask[i] = true;
    struct ggml_threadpool *pool = ggml_threadpool_new(&params);
    peer.backend = ggml_backend_cpu_init();
    if (!pool || !peer.backend) return false;
    ggml_backend_cpu_set_n_threads(peer.backend, threads);
    ggml_backend_cpu_set_threadpool(peer.backend, pool);
    peer.memory = ggml_gallocr_new(ggml_backend_cpu_buffer_type());
    ggml_backend_buffer_type_t repacking = find_repacking(peer.backend);
    return peer.memory && repacking && place(&peer.repacked, repacking) &&
           place(&peer.plain, ggml_backend_cpu_buffer_type());
}

double peers_run_ggml(bool repacked, int32_t tokens)
{
    const struct weights *weights = repacked ? &peer.repacked : &peer.plain;
    struct ggml_tensor *results[PEERS_TASKS];
    struct ggml_init_params params = {
        .mem_size = 64 * ggml_tensor_overhead() + ggml_graph_overhead(), .no_alloc = true};
    struct ggml_context *context = ggml_init(params);
    struct ggml_tensor *x = ggml_new_tensor_2d(context, GGML_TYPE_F32, PEERS_HIDDEN, tokens);
    struct ggml_cgraph *graph = ggml_new_graph(context);
    ggml_set_input(x);
    for (int32_t e = 0; e < PEERS_TASKS; e++) {
        struct ggml_tensor *const *matrices = weights->tensors[peer.next];
        struct ggml_tensor *gate = ggml_mul_mat(context, matrices[0], x);
        struct ggml_tensor *up = ggml_mul_mat(context, matrices[1], x);
        struct ggml_tensor *middle = ggml_swiglu_clamp(context, gate, up, PEERS_LIMIT);
        middle = ggml_scale(context, middle, PEERS_WEIGHT);
        results[e] = ggml_mul_mat(context, matrices[2], middle);
        ggml_set_output(results[e]);
        ggml_build_forward_expand(graph, results[e]);
        peer.next = (peer.next + 1) % PEERS_EXPERTS;
    }
    double seconds = -1;
    if (ggml_gallocr_alloc_graph(peer.memory, graph)) {
        size_t bytes = sizeof(float) * PEERS_HIDDEN * (size_t)tokens;
        ggml_backend_tensor_set(x, peers_activations(), 0, bytes);
        uint64_t start_ns = bench_now_ns();
        enum ggml_status status = ggml_backend_graph_compute(peer.backend, graph);
        if (status == GGML_STATUS_SUCCESS) seconds = (double)(bench_now_ns() - start_ns) / 1e9;
        ggml_backend_tensor_get(results[0], peer.out, 0, bytes);
    }
    ggml_free(context);
    return seconds;
}

const float *peers_ggml_output(void)
{
    return peer.out;
}
