/* The router and the experts fused with their meetings with the host, against the chains of ops
 * that they replace, on the same processor. Device memory stands for the mapped one; that a GPU
 * waits for its host is test_gpu_emulated's matter. */
#include "kernels/fused.h"
#include "tests/gpu/twin.h"

#include <string.h>

#define TOP 6

static struct twin_array zeros(struct twin *twin, size_t count)
{
    struct twin_array array = twin_array_make(twin, count * 4);
    twin_upload(twin, &array);
    return array;
}

static void free_all(struct twin *twin, struct twin_array **arrays, size_t count)
{
    for (size_t i = 0; i < count; i++)
        twin_array_free(twin, arrays[i]);
}

/* ---- route ---- */

static void route(struct twin *twin, int32_t tokens, int32_t experts, int32_t columns, bool table)
{
    const struct ops *gpu = twin->gpu;
    size_t rows = (size_t)tokens, scores = rows * (size_t)experts;
    struct twin_array x = twin_floats(twin, rows * (size_t)columns, 1, true),
                      weight = twin_array_make(twin, (size_t)experts * (size_t)columns * 2),
                      bias = twin_floats(twin, (size_t)experts, 1, false),
                      ids = twin_array_make(twin, rows * 4),
                      by_id = twin_array_make(twin, sizeof(int64_t) * TOP * rows),
                      logits = zeros(twin, scores), chosen = zeros(twin, rows * TOP),
                      weights = zeros(twin, rows * TOP),
                      host_x = zeros(twin, rows * (size_t)columns),
                      host_chosen = zeros(twin, rows * TOP), host_weights = zeros(twin, rows * TOP),
                      flag = zeros(twin, 1);
    twin_fill_bf16(twin, weight.host, (size_t)experts * (size_t)columns, 0.1f);
    for (int32_t t = 0; t < tokens; t++)
        ((int32_t *)ids.host)[t] = tokens - 1 - t;
    for (size_t i = 0; i < rows * TOP; i++)
        ((int64_t *)by_id.host)[i] = (int64_t)(twin_random(twin) % (uint32_t)experts);
    twin_upload(twin, &weight), twin_upload(twin, &ids), twin_upload(twin, &by_id);
    struct fused_route_args args = {
        .linear = {.x = x.device,
                   .weight = {weight.device, NULL, MATRIX_BF16, experts, columns},
                   .out = logits.device,
                   .tokens = tokens,
                   .groups = 1,
                   .bf16_input = true},
        .router = {logits.device, table ? NULL : bias.device, table ? by_id.device : NULL,
                   ids.device, chosen.device, weights.device, tokens, experts, TOP, 1.5f},
        .host_x = host_x.device,
        .host_chosen = host_chosen.device,
        .host_weights = host_weights.device,
        .flag = flag.device,
        .value = 7};
    uint32_t seven = 7;
    for (int again = 0; again < 2; again++)
        TWIN_CHECK(twin, gpu->fused->route(twin->gpu_stream, &args), "refused");
    twin_check_bytes(twin, "flag", twin_download(twin, &flag), &seven, sizeof seven);
    twin_check_bytes(twin, "input", twin_download(twin, &host_x), x.host, x.bytes);
    twin_download(twin, &host_chosen), twin_download(twin, &host_weights);
    gpu->linear(twin->gpu_stream, &args.linear);
    gpu->router(twin->gpu_stream, &args.router);
    twin_check_bytes(twin, "chosen", host_chosen.got, twin_download(twin, &chosen), chosen.bytes);
    twin_check_bytes(twin, "weights", host_weights.got, twin_download(twin, &weights),
                     weights.bytes);
    struct twin_array *all[] = {&x,      &weight,  &bias,   &ids,         &by_id,        &logits,
                                &chosen, &weights, &host_x, &host_chosen, &host_weights, &flag};
    free_all(twin, all, SL_COUNT_OF(all));
}

static void route_is_its_chain(struct twin *twin)
{
    static const int32_t token_counts[] = {1, 3, 16};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
        for (int table = 0; table < 2; table++) {
            route(twin, token_counts[i], 256, 640, table);
            route(twin, token_counts[i], 8, 128, table);
        }
}

/* ---- experts ---- */

#define EXPERTS 5 /* of which one has no tokens */
#define HIDDEN  256
#define WIDTH   128

/* Slots with random weights. */
static struct twin_array make_slot(struct twin *twin, const struct expert_layout *layout)
{
    struct twin_array slot = twin_array_make(twin, layout->slot_bytes);
    uint8_t *bytes = slot.host;
    for (int part = 0; part < EXPERT_PARTS; part++)
        for (size_t i = 0; i < layout->part_bytes[part]; i++)
            bytes[layout->offset_bytes[part] + i] =
                (uint8_t)(part % 2 ? 118 + twin_random(twin) % 4 : twin_random(twin));
    twin_upload(twin, &slot);
    return slot;
}

/* Every token goes to all experts but the last. */
static void fill_table(int32_t tokens, struct twin_array *slots, int32_t *rows,
                       int32_t *device_rows, struct expert_task *tasks)
{
    int32_t pairs = tokens * (EXPERTS - 1);
    for (int32_t e = 0; e + 1 < EXPERTS; e++) {
        for (int32_t t = 0; t < tokens; t++) {
            float weight = 0.25f + (float)t;
            rows[e * tokens + t] = t;
            rows[pairs + e * tokens + t] = t * (EXPERTS - 1) + e;
            memcpy(&rows[2 * pairs + e * tokens + t], &weight, sizeof weight);
        }
        int32_t *first = device_rows + e * tokens;
        tasks[e] = (struct expert_task){slots[e].device, first, first + pairs,
                                        (const float *)(const void *)(first + 2 * pairs), tokens};
    }
}

static void experts(struct twin *twin, int32_t tokens)
{
    const struct ops *gpu = twin->gpu;
    struct expert_layout layout = expert_layout_make(HIDDEN, WIDTH);
    size_t pairs = (size_t)tokens * (EXPERTS - 1), floats_out = pairs * HIDDEN;
    size_t task_bytes = sizeof(struct expert_task) * EXPERTS;
    struct twin_array slots[EXPERTS],
        x = twin_floats(twin, (size_t)tokens * HIDDEN, 1, true), out = zeros(twin, floats_out),
        flag = zeros(twin, 1), rows = twin_array_make(twin, 3 * pairs * 4),
        tasks = twin_array_make(twin, task_bytes), rows_here = twin_array_make(twin, 3 * pairs * 4),
        tasks_here = twin_array_make(twin, task_bytes);
    for (int32_t e = 0; e < EXPERTS; e++)
        slots[e] = make_slot(twin, &layout);
    fill_table(tokens, slots, rows.host, rows_here.device, tasks.host);
    twin_upload(twin, &rows), twin_upload(twin, &tasks);
    *(uint32_t *)flag.host = 1;
    twin_upload(twin, &flag);
    const struct gpu_piece pieces[] = {{rows_here.device, rows.device, rows.bytes},
                                       {tasks_here.device, tasks.device, tasks.bytes}};
    struct fused_experts_args args = {.flag = flag.device,
                                      .value = 1,
                                      .pieces = pieces,
                                      .piece_count = SL_COUNT_OF(pieces),
                                      .experts = {.x = x.device,
                                                  .out = out.device,
                                                  .tasks = tasks_here.device,
                                                  .layout = &layout,
                                                  .task_count = EXPERTS,
                                                  .scratch_rows = tokens,
                                                  .limit = 10.0f,
                                                  .round = true,
                                                  .tokens = tokens,
                                                  .pairs = (int32_t)pairs}};
    float *fused = twin_host(out.bytes);
    for (int again = 0; again < 2; again++) { /* the second finds the words as the first did */
        twin_upload(twin, &out);
        TWIN_CHECK(twin, gpu->fused->experts(twin->gpu_stream, &args), "refused");
        memcpy(fused, twin_download(twin, &out), out.bytes);
        twin_upload(twin, &rows_here), twin_upload(twin, &tasks_here); /* zeros */
    }
    twin_upload(twin, &out);
    TWIN_CHECK(twin, gpu->fused->experts(twin->gpu_stream, &args), "refused"); /* the table again */
    gpu->expert_ffn(twin->gpu_stream, &args.experts);
    twin_check_bytes(twin, "rows", fused, twin_download(twin, &out), out.bytes);
    TWIN_CHECK(twin, fused[0] != 0.0f || fused[1] != 0.0f, "nothing was computed");
    args.experts.round = false;
    TWIN_CHECK(twin, !gpu->fused->experts(twin->gpu_stream, &args), "f32 taken");
    for (int32_t e = 0; e < EXPERTS; e++)
        twin_array_free(twin, &slots[e]);
    free(fused);
    struct twin_array *all[] = {&x, &out, &flag, &rows, &tasks, &rows_here, &tasks_here};
    free_all(twin, all, SL_COUNT_OF(all));
}

static void experts_are_their_chain(struct twin *twin)
{
    experts(twin, 1);
    experts(twin, 3);
    experts(twin, 16);
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"route is its chain", route_is_its_chain},
        {"experts are their chain", experts_are_their_chain},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
