/* labels: unit */
/* Safetensors headers: what is read, and what is refused with which words. */
#include "runtime/safetensors.h"
#include "tests/support.h"

#include <string.h>

static enum sl_status parse(const char *json, uint64_t data_bytes, struct safetensors **out,
                            struct sl_error *error)
{
    return safetensors_parse(json, strlen(json), 1000, data_bytes, "shard", out, error);
}

static void refused(const char *json, const char *words)
{
    struct safetensors *file = NULL;
    struct sl_error error = {0};
    assert_int_equal(parse(json, 16, &file, &error), SL_ERR_FORMAT);
    assert_null(file);
    if (!strstr(error.message, words) || !strstr(error.message, "shard"))
        fail_msg("expected '%s' in '%s'", words, error.message);
    assert_int_equal(parse(json, 16, &file, NULL), SL_ERR_FORMAT);
}

static void tensors_are_found_with_shape_and_place(void **state)
{
    struct safetensors *file = NULL;
    (void)state;
    assert_int_equal(parse("{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}  ",
                           16, &file, NULL),
                     SL_OK);
    assert_int_equal(safetensors_count(file), 2);
    assert_string_equal(safetensors_path(file), "shard");
    const struct safetensors_tensor *b = safetensors_find(file, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, DTYPE_BF16);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->offset_bytes, 1004);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(safetensors_find(file, "a")->rank, 0);
    assert_null(safetensors_find(file, "c"));
    assert_null(safetensors_find(file, "__metadata__"));
    assert_ptr_equal(safetensors_at(file, 0), b);
    safetensors_close(file);
}

static void a_thousand_names_are_all_found(void **state)
{
    enum { COUNT = 1500 };
    struct safetensors *file = NULL;
    char *json = malloc(COUNT * 96 + 3);
    (void)state;
    assert_non_null(json);
    size_t used = 0;
    for (int i = 0; i < COUNT; i++)
        used += (size_t)snprintf(
            json + used, 96, "%s\"t%d\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
            i ? "," : "{", i, COUNT - 1 - i, COUNT - i);
    memcpy(json + used, "}", 2);
    assert_int_equal(parse(json, COUNT, &file, NULL), SL_OK);
    for (int i = 0; i < COUNT; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        const struct safetensors_tensor *tensor = safetensors_find(file, name);
        assert_non_null(tensor);
        assert_string_equal(tensor->name, name);
        assert_int_equal(tensor->offset_bytes, 1000 + COUNT - 1 - i);
    }
    assert_null(safetensors_find(file, "t1500"));
    safetensors_close(file);
    free(json);
}

static void an_unknown_dtype_is_kept_by_name_only(void **state)
{
    struct safetensors *file = NULL;
    (void)state;
    assert_int_equal(parse("{\"x\":{\"dtype\":\"F6_E3M2\",\"shape\":[4],\"data_offsets\":[0,3]}}",
                           16, &file, NULL),
                     SL_OK);
    const struct safetensors_tensor *x = safetensors_find(file, "x");
    assert_int_equal(x->dtype, SAFETENSORS_DTYPE_OTHER);
    assert_string_equal(x->dtype_name, "F6_E3M2");
    assert_int_equal(dtype_bytes(x->dtype), 0);
    safetensors_close(file);
}

#define TENSOR(dtype, shape, offsets)                                                              \
    "{\"x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void wrong_headers_are_refused_with_the_tensor_named(void **state)
{
    (void)state;
    refused("", "JSON");
    refused("[]", "JSON");
    refused("{\"x\":", "JSON");
    refused("{\"x\":1}", "tensor x");
    refused("{\"x\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", "tensor x");
    refused(TENSOR("I8", "7", "[0,1]"), "tensor x: shape");
    refused(TENSOR("I8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), "at most 8");
    refused(TENSOR("I8", "[-1]", "[0,1]"), "entry 0");
    refused(TENSOR("I8", "[1.0]", "[0,1]"), "entry 0");
    refused(TENSOR("I8", "[1]", "[0]"), "data_offsets");
    refused(TENSOR("I8", "[1]", "[-1,0]"), "found [-1, 0]");
    refused(TENSOR("I8", "[1]", "[2,1]"), "found [2, 1]");
    refused(TENSOR("I8", "[17]", "[0,17]"), "holds only 16 data bytes");
    refused(TENSOR("F32", "[4]", "[0,15]"), "expected 16 bytes from shape and dtype F32, found "
                                            "data_offsets of 15");
    refused(TENSOR("F32", "[4611686018427387904]", "[0,0]"), "overflows");
    refused(TENSOR("I8", "[1099511627776,1099511627776]", "[0,1]"), "overflows");
    refused(TENSOR("I8", "[1]", "[99999999999999999999,1]"), "JSON");
}

static void a_name_given_twice_is_refused(void **state)
{
    (void)state;
    refused("{\"x\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            "\"x\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
            "duplicate");
}

static void overlapping_tensors_are_refused_touching_ones_are_not(void **state)
{
    struct safetensors *file = NULL;
    (void)state;
    refused("{\"x\":{\"dtype\":\"I8\",\"shape\":[8],\"data_offsets\":[4,12]},"
            "\"y\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[0,5]}}",
            "tensors y and x overlap");
    refused("{\"x\":{\"dtype\":\"I8\",\"shape\":[8],\"data_offsets\":[4,12]},"
            "\"y\":{\"dtype\":\"I8\",\"shape\":[8],\"data_offsets\":[4,12]}}",
            "overlap");
    assert_int_equal(parse("{\"x\":{\"dtype\":\"I8\",\"shape\":[8],\"data_offsets\":[4,12]},"
                           "\"z\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[4,4]},"
                           "\"y\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
                           16, &file, NULL),
                     SL_OK);
    safetensors_close(file);
}

static void deep_nesting_is_refused_not_followed(void **state)
{
    enum { DEPTH = 1 << 20 };
    struct safetensors *file = NULL;
    struct sl_error error = {0};
    char *json = malloc(DEPTH);
    (void)state;
    assert_non_null(json);
    memset(json, '[', DEPTH);
    memcpy(json, "{\"x\":", 5);
    assert_int_equal(safetensors_parse(json, DEPTH, 8, 0, "deep", &file, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "deep"));
    free(json);
}

/* A file whose first eight bytes claim `length`, followed by `text`. */
static void open_refused(const char *directory, uint64_t length, const char *text,
                         const char *words)
{
    char *path = test_path(directory, "file.safetensors");
    struct safetensors *file = NULL;
    struct sl_error error = {0};
    char bytes[256];
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, text, strlen(text));
    test_write_file(path, bytes, 8 + strlen(text));
    assert_int_equal(safetensors_open(path, &file, &error), SL_ERR_FORMAT);
    if (!strstr(error.message, words) || !strstr(error.message, path))
        fail_msg("expected '%s' in '%s'", words, error.message);
    free(path);
}

static void a_header_beyond_the_file_is_refused_before_it_is_read(void **state)
{
    char *directory = test_make_directory("safetensors");
    char *path = test_path(directory, "file.safetensors");
    struct safetensors *file = NULL;
    struct sl_error error = {0};
    (void)state;
    open_refused(directory, 3, "{}", "expected a header of 3 bytes, found a file of 10 bytes");
    open_refused(directory, UINT64_MAX, "{}", "18446744073709551615");
    open_refused(directory, UINT64_MAX - 7, "{}", "found a file of 10 bytes");
    open_refused(directory, 0, "{}", "JSON");
    test_write_file(path, "1234567", 7);
    assert_int_equal(safetensors_open(path, &file, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "at least 8 bytes, found 7"));
    assert_int_equal(safetensors_open(directory, &file, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "found a directory"));
    test_remove_tree(directory);
    assert_int_equal(safetensors_open(path, &file, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, path));
    free(path);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found_with_shape_and_place),
        cmocka_unit_test(a_thousand_names_are_all_found),
        cmocka_unit_test(an_unknown_dtype_is_kept_by_name_only),
        cmocka_unit_test(wrong_headers_are_refused_with_the_tensor_named),
        cmocka_unit_test(a_name_given_twice_is_refused),
        cmocka_unit_test(overlapping_tensors_are_refused_touching_ones_are_not),
        cmocka_unit_test(deep_nesting_is_refused_not_followed),
        cmocka_unit_test(a_header_beyond_the_file_is_refused_before_it_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
