/* labels: unit golden
 * The tokenizer against the reference library's ids, and on texts made to be slow.
 *
 * Ids of the published vocabulary are compared when SLUICE_TOKENIZER_JSON names its tokenizer.json;
 * SLUICE_TOKENIZER_VECTORS may name another vectors file for it. */
#include "tests/support.h"

#include "runtime/tokenizer.h"
#include "runtime/utf8.h"

#include <jansson.h>
#include <pthread.h>
#include <string.h>

#define GOLDEN "tests/golden/tokenizer/"

static sl_tokenizer *open_tokenizer(const char *path)
{
    struct sl_error error;
    sl_tokenizer *tokenizer = NULL;
    if (sl_tokenizer_open(path, &tokenizer, &error) != SL_OK) fail_msg("%s", error.message);
    return tokenizer;
}

static int32_t *encode(const sl_tokenizer *tokenizer, const char *text, size_t bytes, size_t *count)
{
    struct sl_error error;
    int32_t *ids = NULL;
    if (sl_tokenizer_encode(tokenizer, text, bytes, &ids, count, &error) != SL_OK)
        fail_msg("%s", error.message);
    return ids;
}

/* The bytes of all ids one after the other, the caller's to free. */
static char *decode(const sl_tokenizer *tokenizer, const int32_t *ids, size_t count, size_t *bytes)
{
    size_t token_bytes;
    *bytes = 0;
    for (size_t i = 0; i < count; i++) {
        assert_non_null(sl_tokenizer_bytes(tokenizer, ids[i], &token_bytes));
        *bytes += token_bytes;
    }
    char *text = malloc(*bytes + 1);
    assert_non_null(text);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const char *token = sl_tokenizer_bytes(tokenizer, ids[i], &token_bytes);
        memcpy(text + at, token, token_bytes);
        at += token_bytes;
    }
    return text;
}

static void assert_decodes_to(const sl_tokenizer *tokenizer, const int32_t *ids, size_t count,
                              const char *text, size_t bytes)
{
    size_t decoded_bytes;
    char *decoded = decode(tokenizer, ids, count, &decoded_bytes);
    assert_int_equal(decoded_bytes, bytes);
    assert_memory_equal(decoded, text, bytes);
    free(decoded);
}

/* ---- vectors ------------------------------------------------------------------------------ */

static json_t *load_vectors(const char *path)
{
    size_t bytes;
    char *text = test_read_file(path, &bytes);
    json_error_t problem;
    json_t *vectors = json_loadb(text, bytes, JSON_ALLOW_NUL, &problem);
    if (!vectors) fail_msg("%s: %s", path, problem.text);
    free(text);
    return vectors;
}

static char *bytes_of_hex(const char *hex, size_t *bytes)
{
    *bytes = strlen(hex) / 2;
    char *data = malloc(*bytes + 1);
    assert_non_null(data);
    for (size_t i = 0; i < *bytes; i++) {
        unsigned int byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        data[i] = (char)byte;
    }
    return data;
}

/* The text of an entry: "text", or "bytes_hex" for bytes that need not be UTF-8. */
static char *entry_text(const json_t *entry, size_t *bytes)
{
    const json_t *text = json_object_get(entry, "text");
    if (!text) return bytes_of_hex(json_string_value(json_object_get(entry, "bytes_hex")), bytes);
    *bytes = json_string_length(text);
    char *copy = malloc(*bytes + 1);
    assert_non_null(copy);
    memcpy(copy, json_string_value(text), *bytes);
    return copy;
}

static int32_t *entry_ids(const json_t *entry, size_t *count)
{
    const json_t *list = json_object_get(entry, "ids");
    assert_true(json_is_array(list));
    *count = json_array_size(list);
    int32_t *ids = calloc(*count + 1, sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < *count; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

static bool entry_agrees(const sl_tokenizer *tokenizer, const json_t *entry)
{
    size_t bytes, count, expected_count;
    char *text = entry_text(entry, &bytes);
    int32_t *expected = entry_ids(entry, &expected_count);
    int32_t *ids = encode(tokenizer, text, bytes, &count);
    bool agrees = count == expected_count && memcmp(ids, expected, count * sizeof *ids) == 0;
    if (agrees) {
        bool valid;
        size_t clean_bytes = utf8_clean_bytes(text, bytes, &valid);
        char *clean = malloc(clean_bytes + 1);
        assert_non_null(clean);
        utf8_clean(text, bytes, clean);
        assert_decodes_to(tokenizer, ids, count, clean, clean_bytes);
        free(clean);
    }
    free(text);
    free(expected);
    free(ids);
    return agrees;
}

static void check_encode_vectors(const char *tokenizer_path, const char *vectors_path)
{
    sl_tokenizer *tokenizer = open_tokenizer(tokenizer_path);
    json_t *vectors = load_vectors(vectors_path);
    const json_t *entries = json_object_get(vectors, "encode");
    size_t count = json_array_size(entries), differing = 0;
    assert_true(count > 0);
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_array_get(entries, i);
        if (entry_agrees(tokenizer, entry)) continue;
        if (differing++ >= 10) continue;
        char *shown = json_dumps(entry, JSON_ENSURE_ASCII | JSON_COMPACT);
        print_message("%s: entry %zu differs: %s\n", vectors_path, i, shown);
        free(shown);
    }
    print_message("%s: %zu of %zu agree\n", vectors_path, count - differing, count);
    json_decref(vectors);
    sl_tokenizer_close(tokenizer);
    assert_int_equal(differing, 0);
}

static void small_vocabulary_encodes_as_the_reference_does(void **state)
{
    (void)state;
    check_encode_vectors(GOLDEN "tokenizer.json", GOLDEN "vectors.json");
    check_encode_vectors(GOLDEN "tokenizer.json", GOLDEN "vectors_small.json");
}

static void published_vocabulary_encodes_as_the_reference_does(void **state)
{
    (void)state;
    const char *tokenizer = getenv("SLUICE_TOKENIZER_JSON");
    const char *vectors = getenv("SLUICE_TOKENIZER_VECTORS");
    if (!tokenizer) {
        print_message("SLUICE_TOKENIZER_JSON does not name the published tokenizer.json\n");
        skip();
    }
    check_encode_vectors(tokenizer, vectors ? vectors : GOLDEN "vectors_real.json");
}

static void ids_decode_to_the_reference_bytes(void **state)
{
    (void)state;
    sl_tokenizer *tokenizer = open_tokenizer(GOLDEN "tokenizer.json");
    json_t *vectors = load_vectors(GOLDEN "vectors.json");
    const json_t *entries = json_object_get(vectors, "decode");
    assert_true(json_array_size(entries) > 0);
    for (size_t i = 0; i < json_array_size(entries); i++) {
        const json_t *entry = json_array_get(entries, i);
        size_t bytes, count;
        char *expected = entry_text(entry, &bytes);
        int32_t *ids = entry_ids(entry, &count);
        assert_decodes_to(tokenizer, ids, count, expected, bytes);
        free(expected);
        free(ids);
    }
    json_decref(vectors);
    sl_tokenizer_close(tokenizer);
}

/* ---- long texts --------------------------------------------------------------------------- */

/* Counts are the reference library's, with the small vocabulary. */
static const struct {
    const char *unit;
    size_t repeats, tokens;
} long_texts[] = {
    {"a", 1000000, 1000000},      {" ", 1000000, 31250},         {"\n", 1000000, 500000},
    {"1", 1000000, 666667},       {"😀", 250000, 750000},         {"!", 1000000, 1000000},
    {"ab", 500000, 500000},       {"a ", 500000, 500001},        {"\r\n", 500000, 1000000},
    {" \n", 500000, 500000},      {"é", 500000, 500000},         {"<", 1000000, 1000000},
    {"<｜User｜>", 80000, 80000}, {"中", 300000, 300000},        {"\x01", 1000000, 1000000},
    {"a1", 500000, 1000000},      {"e\xcc\x81", 300000, 900000}, {"\t ", 500000, 1000000},
    {"=-", 500000, 1000000},      {"the", 300000, 300000},       {" a!\n", 250000, 750000},
};

static void a_million_of_anything_encodes_and_decodes(void **state)
{
    (void)state;
    sl_tokenizer *tokenizer = open_tokenizer(GOLDEN "tokenizer.json");
    for (size_t i = 0; i < SL_COUNT_OF(long_texts); i++) {
        size_t unit_bytes = strlen(long_texts[i].unit), bytes = unit_bytes * long_texts[i].repeats;
        char *text = malloc(bytes);
        assert_non_null(text);
        for (size_t at = 0; at < bytes; at += unit_bytes)
            memcpy(text + at, long_texts[i].unit, unit_bytes);
        size_t count;
        int32_t *ids = encode(tokenizer, text, bytes, &count);
        if (count != long_texts[i].tokens)
            fail_msg("\"%s\" repeated: %zu tokens, expected %zu", long_texts[i].unit, count,
                     long_texts[i].tokens);
        assert_decodes_to(tokenizer, ids, count, text, bytes);
        free(ids);
        free(text);
    }
    sl_tokenizer_close(tokenizer);
}

static void a_million_invalid_bytes_become_replacement_characters(void **state)
{
    (void)state;
    enum { BYTES = 1000000 };
    sl_tokenizer *tokenizer = open_tokenizer(GOLDEN "tokenizer.json");
    char *text = malloc(BYTES), *clean = malloc(3 * BYTES);
    assert_true(text && clean);
    memset(text, 0xff, BYTES);
    utf8_clean(text, BYTES, clean);
    size_t count;
    int32_t *ids = encode(tokenizer, text, BYTES, &count);
    assert_decodes_to(tokenizer, ids, count, clean, 3 * BYTES);
    free(ids);
    free(text);
    free(clean);
    sl_tokenizer_close(tokenizer);
}

/* ---- tokens ------------------------------------------------------------------------------- */

static void added_tokens_are_found_by_text_and_by_id(void **state)
{
    (void)state;
    sl_tokenizer *tokenizer = open_tokenizer(GOLDEN "tokenizer.json");
    int32_t id = sl_tokenizer_added_id(tokenizer, "<｜User｜>");
    size_t bytes;
    assert_int_equal(id, 4262);
    assert_memory_equal(sl_tokenizer_bytes(tokenizer, id, &bytes), "<｜User｜>", 12);
    assert_int_equal(bytes, 12);
    assert_int_equal(sl_tokenizer_added_id(tokenizer, "<｜end▁of▁sentence｜>"), 1);
    assert_int_equal(sl_tokenizer_added_id(tokenizer, "<｜User"), -1);
    assert_int_equal(sl_tokenizer_added_id(tokenizer, "<｜User｜> "), -1);
    assert_int_equal(sl_tokenizer_added_id(tokenizer, "the"), -1);
    assert_int_equal(sl_tokenizer_added_id(tokenizer, ""), -1);
    sl_tokenizer_close(tokenizer);
}

static void ids_outside_the_vocabulary_have_no_bytes(void **state)
{
    (void)state;
    sl_tokenizer *tokenizer = open_tokenizer(GOLDEN "tokenizer.json");
    const int32_t none[] = {-1, INT32_MIN, INT32_MAX, sl_tokenizer_vocab(tokenizer)};
    for (size_t i = 0; i < SL_COUNT_OF(none); i++) {
        size_t bytes = 7;
        assert_null(sl_tokenizer_bytes(tokenizer, none[i], &bytes));
        assert_int_equal(bytes, 0);
    }
    size_t bytes;
    assert_non_null(sl_tokenizer_bytes(tokenizer, sl_tokenizer_vocab(tokenizer) - 1, &bytes));
    sl_tokenizer_close(tokenizer);
}

static void *encode_often(void *tokenizer)
{
    static const char text[] = "Hello, world! 1234 <think> naïve \n\n  \xff";
    int32_t *first = NULL, differing = 0;
    size_t first_count = 0;
    for (int32_t i = 0; i < 200; i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        if (sl_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &count, NULL) != SL_OK)
            return tokenizer;
        if (!first) {
            first = ids;
            first_count = count;
            continue;
        }
        differing += count != first_count || memcmp(ids, first, count * sizeof *ids) != 0;
        free(ids);
    }
    free(first);
    return differing ? tokenizer : NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    sl_tokenizer *tokenizer = open_tokenizer(GOLDEN "tokenizer.json");
    pthread_t threads[4];
    for (size_t i = 0; i < SL_COUNT_OF(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, tokenizer), 0);
    for (size_t i = 0; i < SL_COUNT_OF(threads); i++) {
        void *failed = tokenizer;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    sl_tokenizer_close(tokenizer);
}

static void text_above_the_limit_is_refused(void **state)
{
    (void)state;
    sl_tokenizer *tokenizer = open_tokenizer(GOLDEN "tokenizer.json");
    struct sl_error error;
    int32_t *ids;
    size_t count;
    assert_int_equal(
        sl_tokenizer_encode(tokenizer, "", TOKENIZER_TEXT_BYTES_MAX + 1, &ids, &count, &error),
        SL_ERR_LIMIT);
    assert_non_null(strstr(error.message, "at most"));
    sl_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_vocabulary_encodes_as_the_reference_does),
        cmocka_unit_test(published_vocabulary_encodes_as_the_reference_does),
        cmocka_unit_test(ids_decode_to_the_reference_bytes),
        cmocka_unit_test(a_million_of_anything_encodes_and_decodes),
        cmocka_unit_test(a_million_invalid_bytes_become_replacement_characters),
        cmocka_unit_test(added_tokens_are_found_by_text_and_by_id),
        cmocka_unit_test(ids_outside_the_vocabulary_have_no_bytes),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(text_above_the_limit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
