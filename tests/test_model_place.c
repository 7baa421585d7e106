/* labels: unit */
/* Weights copied to large pages: the same bytes, each array at the start of a cache line, and a
 * copy that can be stopped. */
#include "runtime/model_upload.h"
#include "tests/support.h"
#include "tests/support_checkpoint.h"

#include <string.h>

#define LINE_BYTES 64u

static struct model *open_checkpoint(const char *directory)
{
    struct model_open_options options = {
        .directory = directory, .want_mtp = true, .read_dense = true};
    struct model *model = NULL;
    struct sl_error error = {0};
    if (model_open(&options, &model, &error) != SL_OK) fail_msg("%s", error.message);
    return model;
}

static void same_array(const void *placed, const void *mapped, size_t bytes)
{
    assert_ptr_not_equal(placed, mapped);
    assert_int_equal((uintptr_t)placed % LINE_BYTES, 0);
    assert_memory_equal(placed, mapped, bytes);
}

static void same_matrix(const struct matrix *placed, const struct matrix *mapped)
{
    static const size_t element_bytes[] = {[MATRIX_F32] = 4, [MATRIX_BF16] = 2, [MATRIX_FP8] = 1};
    size_t rows = (size_t)mapped->rows, columns = (size_t)mapped->columns;
    assert_int_equal(placed->format, mapped->format);
    assert_int_equal(placed->rows, mapped->rows);
    assert_int_equal(placed->columns, mapped->columns);
    same_array(placed->data, mapped->data, rows * columns * element_bytes[mapped->format]);
    if (mapped->format == MATRIX_FP8)
        same_array(placed->scale, mapped->scale, (rows + 127) / 128 * ((columns + 127) / 128));
}

static void same_layer(const struct model_config *c, const struct layer_weights *placed,
                       const struct layer_weights *mapped)
{
    same_array(placed->attn_norm, mapped->attn_norm, 2 * (size_t)c->hidden);
    same_matrix(&placed->hyper_ffn.fn, &mapped->hyper_ffn.fn);
    same_matrix(&placed->attn.query_up, &mapped->attn.query_up);
    same_matrix(&placed->attn.output_down, &mapped->attn.output_down);
    same_array(placed->attn.sink, mapped->attn.sink, 4 * (size_t)c->heads);
    if (mapped->ratio) same_matrix(&placed->attn.compressor.keys, &mapped->attn.compressor.keys);
    same_matrix(&placed->router, &mapped->router);
    if (mapped->token_experts)
        same_array(placed->token_experts, mapped->token_experts,
                   8 * (size_t)c->vocab * (size_t)c->experts_per_token);
    same_matrix(&placed->shared_down, &mapped->shared_down);
}

static void placed_weights_are_the_mapped_ones_on_whole_lines(void **state)
{
    char *directory = checkpoint_make(3);
    struct model *model = open_checkpoint(directory), *placed = NULL;
    struct sl_error error = {0};
    (void)state;
    assert_int_equal(model_place(model, NULL, NULL, &placed, &error), SL_OK);
    assert_non_null(placed);
    same_matrix(&placed->embed, &model->embed);
    same_matrix(&placed->head, &model->head);
    for (int32_t i = 0; i < model->config.layers + 1; i++)
        same_layer(&model->config, &placed->layers[i], &model->layers[i]);
    same_matrix(&placed->mtp.hidden_proj, &model->mtp.hidden_proj);
    model_upload_free(placed, NULL);
    model_close(model);
    test_remove_tree(directory);
    free(directory);
}

/* Stops at the call whose number is left in the context. */
static bool stop_later(void *context, const char *what, uint64_t done, uint64_t total)
{
    int32_t *calls_left = context;
    assert_non_null(strstr(what, "large pages"));
    assert_true(done <= total);
    return (*calls_left)-- > 0;
}

static void placing_can_be_stopped_between_arrays(void **state)
{
    char *directory = checkpoint_make(3);
    struct model *model = open_checkpoint(directory), *placed = NULL;
    (void)state;
    for (int32_t calls = 0; calls < 40; calls += 13) {
        struct sl_error error = {0};
        int32_t left = calls;
        assert_int_equal(model_place(model, stop_later, &left, &placed, &error), SL_ERR_CANCELLED);
        assert_null(placed);
        assert_non_null(strstr(error.message, "large pages"));
    }
    model_close(model);
    test_remove_tree(directory);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placed_weights_are_the_mapped_ones_on_whole_lines),
        cmocka_unit_test(placing_can_be_stopped_between_arrays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
