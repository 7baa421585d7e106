/* Routed experts in plain f32 numerics; see expert_ffn.cuh. A warp for each element; sums differ
 * from the twin's in their order, 1e-6. */
#include "kernels/cuda/expert_ffn.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"

#define WARPS   8
#define THREADS (WARPS * WARP_LANES)

/* One element of a matrix in tiles. */
__device__ __forceinline__ float plain_weight(const struct expert_ffn_work &ffn,
                                              const uint8_t *slot, int part, int columns, int row,
                                              int column)
{
    size_t tile = (size_t)(row / EXPERT_TILE_ROWS) * (size_t)(columns / EXPERT_TILE_COLUMNS) +
                  (size_t)(column / EXPERT_TILE_COLUMNS);
    int lane = row % EXPERT_TILE_ROWS;
    int place = column % 8;
    uint32_t word = *reinterpret_cast<const uint32_t *>(
        slot + ffn.layout.offset_bytes[part] + tile * EXPERT_TILE_BYTES +
        column % EXPERT_TILE_COLUMNS / 8 * 64 + lane * 4);
    uint8_t scale = slot[ffn.layout.offset_bytes[part + 1] + tile * EXPERT_TILE_ROWS + lane];
    uint8_t nibble = (uint8_t)(word >> (place % 2 * 16 + place / 2 * 4)) & 15;
    return e2m1_decode(nibble) * e8m0_decode(scale);
}

/* Row `row` of a matrix times x [columns], by a warp; every lane gets the sum. */
__device__ __forceinline__ float plain_product(const struct expert_ffn_work &ffn,
                                               const uint8_t *slot, int part, int columns, int row,
                                               const float *x)
{
    float sum = 0.0f;
    for (int c = (int)threadIdx.x % WARP_LANES; c < columns; c += WARP_LANES)
        sum = fmaf(plain_weight(ffn, slot, part, columns, row, c), x[c], sum);
    return warp_sum(sum);
}

/* Without rounding, a warp for each element of the middle; for debugging, so short. Grid (rows of
 * warps, tasks). */
static __global__ void plain_gate_up_kernel(const struct expert_ffn_work ffn)
{
    launch_chain();
    const struct expert_task task = ffn.tasks[blockIdx.y];
    int hidden = ffn.layout.hidden;
    int row = (int)(blockIdx.x * WARPS + threadIdx.x / WARP_LANES);
    if (row >= ffn.layout.width) return;
    for (int i = 0; i < task.count; i++) {
        const float *x = ffn.args.x + (size_t)task.token_rows[i] * (size_t)hidden;
        float gate = plain_product(ffn, task.slot, EXPERT_W1, hidden, row, x);
        float up = plain_product(ffn, task.slot, EXPERT_W3, hidden, row, x);
        size_t pair = (size_t)blockIdx.y * (size_t)ffn.args.scratch_rows + i;
        if (threadIdx.x % WARP_LANES == 0)
            ffn.middle[pair * (size_t)ffn.layout.width + row] =
                task.weights[i] * swiglu(gate, up, ffn.args.limit);
    }
}

static __global__ void plain_down_kernel(const struct expert_ffn_work ffn)
{
    launch_chain();
    const struct expert_task task = ffn.tasks[blockIdx.y];
    int width = ffn.layout.width;
    int row = (int)(blockIdx.x * WARPS + threadIdx.x / WARP_LANES);
    if (row >= ffn.layout.hidden) return;
    for (int i = 0; i < task.count; i++) {
        size_t pair = (size_t)blockIdx.y * (size_t)ffn.args.scratch_rows + i;
        float sum =
            plain_product(ffn, task.slot, EXPERT_W2, width, row, ffn.middle + pair * (size_t)width);
        if (threadIdx.x % WARP_LANES == 0)
            ffn.args.out[(size_t)task.output_rows[i] * (size_t)ffn.layout.hidden + row] = sum;
    }
}

void expert_ffn_plain(struct stream *stream, const struct expert_ffn_work *ffn)
{
    unsigned tasks = (unsigned)ffn->args.task_count;
    SL_LAUNCH(stream, plain_gate_up_kernel, dim3(launch_blocks(ffn->layout.width, WARPS), tasks),
              THREADS, 0, *ffn);
    SL_LAUNCH(stream, plain_down_kernel, dim3(launch_blocks(ffn->layout.hidden, WARPS), tasks),
              THREADS, 0, *ffn);
}
