/* Experts from pinned host memory to the device over the copy lanes, alone and while products keep
 * the device's memory busy. The ceiling is one large copy over the same lane. */
#include "bench/gpu/gpu_bench.h"

#define BATCH_EXPERTS 32

struct copies {
    struct gpu_bench *bench;
    uint8_t *host, *target; /* [BATCH_EXPERTS, expert_bytes] */
    size_t expert_bytes;
    struct linear_args product; /* what computes meanwhile; NULL weight: nothing */
    size_t weight_bytes;
};

/* Waits until a lane is done with `ticket`; false on a fault. */
static bool await(struct gpu_bench *bench, uint64_t ticket)
{
    struct device *device = bench->gpu->device;
    const uint64_t patience_ns = 1000000;
    while (device->ops->copy_progress(device, DEVICE_UP) < ticket) {
        const char *fault = device->ops->lane_fault(device, DEVICE_UP);
        if (fault) {
            fprintf(stderr, "sluice-bench-gpu: copies: %s\n", fault);
            bench->failures++;
            return false;
        }
        device->ops->wait(device, patience_ns);
    }
    return true;
}

/* Copies everything in pieces of `piece` bytes; the products run beside it. */
static bool copy_all(struct copies *copies, size_t piece)
{
    struct gpu_bench *bench = copies->bench;
    struct device *device = bench->gpu->device;
    uint64_t ticket = 0;
    for (size_t at = 0; at < BATCH_EXPERTS * copies->expert_bytes; at += piece) {
        struct device_copy copy = {copies->target + at, copies->host + at, piece, 0};
        if (device->ops->copy_submit(device, DEVICE_UP, &copy, &ticket) != SL_OK) {
            bench->failures++;
            return false;
        }
    }
    if (copies->product.weight.rows > 0)
        for (int i = 0; i < (bench->tiny ? 4 : 20 * BATCH_EXPERTS); i++) {
            copies->product.weight.data = gpu_bench_fresh(bench, copies->weight_bytes);
            bench->gpu->ops->linear(bench->gpu->stream, &copies->product);
        }
    return await(bench, ticket);
}

static double measure(struct copies *copies, const char *name, size_t piece, double ceiling)
{
    double samples[GPU_BENCH_SAMPLES_MAX];
    struct gpu_bench *bench = copies->bench;
    struct sl_error error;
    double bytes = (double)(BATCH_EXPERTS * copies->expert_bytes);
    for (int32_t round = -1; round < bench->rounds; round++) {
        uint64_t start_ns = gpu_bench_now_ns();
        if (!copy_all(copies, piece)) return 0;
        uint64_t end_ns = gpu_bench_now_ns();
        if (round >= 0) samples[round] = bytes / (double)(end_ns - start_ns);
        if (bench->gpu->gpu_ops->sync(bench->gpu, &error) != SL_OK) {
            fprintf(stderr, "sluice-bench-gpu: %s: %s\n", name, error.message);
            bench->failures++;
            return 0;
        }
    }
    return gpu_bench_print(bench, name, "GB/s", samples, ceiling);
}

static void measure_all(struct copies *copies)
{
    struct gpu_bench *bench = copies->bench;
    int32_t size = bench->tiny ? 128 : 4096;
    double best =
        measure(copies, "host to device, one copy", BATCH_EXPERTS * copies->expert_bytes, 0);
    if (best > 0) (void)measure(copies, "host to device, experts", copies->expert_bytes, best);
    copies->weight_bytes = (size_t)size * (size_t)size;
    copies->product = (struct linear_args){
        .x = gpu_bench_put(bench, NULL, (size_t)size * 4),
        .weight = {NULL, gpu_bench_fresh(bench, copies->weight_bytes / 16384 + 1), MATRIX_FP8, size,
                   size},
        .out = gpu_bench_put(bench, NULL, (size_t)size * 4),
        .tokens = 1,
        .groups = 1,
        .quantise_input = true,
        .round = true,
        .bf16_input = true,
    };
    if (bench->failures == 0 && best > 0)
        (void)measure(copies, "host to device, experts under compute", copies->expert_bytes, best);
}

void gpu_bench_copies(struct gpu_bench *bench)
{
    struct expert_layout layout =
        bench->tiny ? expert_layout_make(256, 128) : expert_layout_make(4096, 2048);
    struct copies copies = {.bench = bench, .expert_bytes = layout.slot_bytes};
    struct sl_error error;
    void *target = NULL;
    size_t bytes = BATCH_EXPERTS * copies.expert_bytes;
    struct device *device = bench->gpu->device;
    if (bench->failures > 0) return;
    copies.host = aligned_alloc(SL_PAGE_BYTES, bytes);
    SL_ASSERT(copies.host != NULL);
    for (size_t i = 0; i < bytes; i += 64) /* filled before it is pinned */
        copies.host[i] = (uint8_t)i;
    if (device->ops->memory_alloc(device, bytes, &target, &error) != SL_OK) {
        fprintf(stderr, "sluice-bench-gpu: copies: %s\n", error.message);
        bench->failures++;
    } else {
        copies.target = target;
        bool pinned = device->ops->host_pin(device, copies.host, bytes, &error) == SL_OK;
        if (!pinned) fprintf(stderr, "sluice-bench-gpu: unpinned copies: %s\n", error.message);
        measure_all(&copies);
        if (pinned) device->ops->host_unpin(device, copies.host, bytes);
        device->ops->memory_free(device, target);
    }
    free(copies.host);
}
