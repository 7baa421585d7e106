/* labels: unit
 * Loading a tokenizer.json: both forms of merges, and a clear message for whatever is wrong. */
#include "tests/support.h"

#include "runtime/byte_alphabet.h"
#include "runtime/tokenizer.h"
#include "runtime/utf8.h"

#include <jansson.h>
#include <string.h>

/* A small sound tokenizer: the 256 bytes by value, three merges, two added tokens. */
static json_t *make_file(void)
{
    json_error_t problem;
    json_t *file =
        json_loads("{\"truncation\":null,\"padding\":null,"
                   " \"added_tokens\":["
                   "  {\"id\":259,\"content\":\"<a>\",\"single_word\":false,\"lstrip\":false,"
                   "   \"rstrip\":false,\"normalized\":false,\"special\":true},"
                   "  {\"id\":260,\"content\":\"<a>b\",\"single_word\":false,\"lstrip\":false,"
                   "   \"rstrip\":false,\"normalized\":true,\"special\":false}],"
                   " \"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[]},"
                   " \"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
                   "  {\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"},"
                   "   \"behavior\":\"Isolated\",\"invert\":false},"
                   "  {\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
                   " \"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
                   " \"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                   "  \"byte_fallback\":false,\"vocab\":{\"he\":256,\"ll\":257,\"hell\":258},"
                   "  \"merges\":[\"h e\",\"l l\",\"he ll\"]}}",
                   0, &problem);
    if (!file) fail_msg("%s", problem.text);
    json_t *vocab = json_object_get(json_object_get(file, "model"), "vocab");
    for (int32_t byte = 0; byte < 256; byte++) {
        char token[UTF8_CHARACTER_BYTES_MAX + 1] = {0};
        utf8_put(byte_alphabet_code_point((uint8_t)byte), token);
        json_object_set_new(vocab, token, json_integer(byte));
    }
    return file;
}

/* Sets the value at a path such as "model.merges.0" to a JSON text; NULL removes it. */
static void set_value(json_t *file, const char *path, const char *value)
{
    char name[64];
    json_t *parent = file;
    for (const char *dot = strchr(path, '.'); dot; dot = strchr(path, '.')) {
        snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
        parent = json_is_array(parent) ? json_array_get(parent, (size_t)atoi(name))
                                       : json_object_get(parent, name);
        assert_non_null(parent);
        path = dot + 1;
    }
    json_t *replacement = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    assert_true(!value || replacement);
    if (!value)
        json_object_del(parent, path);
    else if (json_is_array(parent))
        json_array_set_new(parent, (size_t)atoi(path), replacement);
    else
        json_object_set_new(parent, path, replacement);
}

static enum sl_status parse(const json_t *file, sl_tokenizer **out, struct sl_error *error)
{
    char *text = json_dumps(file, JSON_COMPACT);
    assert_non_null(text);
    enum sl_status status = tokenizer_parse(text, strlen(text), "t.json", out, error);
    free(text);
    return status;
}

static void assert_encodes(const sl_tokenizer *tokenizer, const char *text, const int32_t *expected,
                           size_t expected_count)
{
    int32_t *ids;
    size_t count;
    assert_int_equal(sl_tokenizer_encode(tokenizer, text, strlen(text), &ids, &count, NULL), SL_OK);
    assert_int_equal(count, expected_count);
    assert_memory_equal(ids, expected, count * sizeof *ids);
    free(ids);
}

static void merges_are_read_in_both_forms(void **state)
{
    (void)state;
    static const char *const forms[] = {
        "[\"h e\",\"l l\",\"he ll\"]",
        "[[\"h\",\"e\"],[\"l\",\"l\"],[\"he\",\"ll\"]]",
        "[\"h e\",[\"l\",\"l\"],\"he ll\"]",
    };
    for (size_t i = 0; i < SL_COUNT_OF(forms); i++) {
        json_t *file = make_file();
        set_value(file, "model.merges", forms[i]);
        sl_tokenizer *tokenizer;
        assert_int_equal(parse(file, &tokenizer, NULL), SL_OK);
        const int32_t expected[] = {258, 'o', ' ', 256, 'l'};
        assert_encodes(tokenizer, "hello hel", expected, SL_COUNT_OF(expected));
        assert_int_equal(sl_tokenizer_vocab(tokenizer), 261);
        sl_tokenizer_close(tokenizer);
        json_decref(file);
    }
}

static void tokens_taken_from_raw_text_come_before_longer_normalized_ones(void **state)
{
    (void)state;
    json_t *file = make_file();
    sl_tokenizer *tokenizer;
    assert_int_equal(parse(file, &tokenizer, NULL), SL_OK);
    const int32_t raw_first[] = {259, 'b'};
    assert_encodes(tokenizer, "<a>b", raw_first, 2);
    sl_tokenizer_close(tokenizer);

    set_value(file, "added_tokens.0.normalized", "true");
    assert_int_equal(parse(file, &tokenizer, NULL), SL_OK);
    const int32_t longest[] = {260, 259};
    assert_encodes(tokenizer, "<a>b<a>", longest, 2);
    sl_tokenizer_close(tokenizer);
    json_decref(file);
}

static void an_added_token_may_repeat_a_vocabulary_entry(void **state)
{
    (void)state;
    json_t *file = make_file();
    set_value(file, "model.vocab.<a>", "259");
    sl_tokenizer *tokenizer;
    assert_int_equal(parse(file, &tokenizer, NULL), SL_OK);
    const int32_t expected[] = {259};
    assert_encodes(tokenizer, "<a>", expected, 1);
    sl_tokenizer_close(tokenizer);
    json_decref(file);
}

static void empty_text_has_no_ids(void **state)
{
    (void)state;
    json_t *file = make_file();
    sl_tokenizer *tokenizer;
    assert_int_equal(parse(file, &tokenizer, NULL), SL_OK);
    assert_encodes(tokenizer, "", NULL, 0);
    sl_tokenizer_close(tokenizer);
    json_decref(file);
}

static const struct {
    const char *path, *value;
    enum sl_status status;
    const char *says; /* part of the message */
} faults[] = {
    {"model", NULL, SL_ERR_FORMAT, "no \"model\""},
    {"model", "[]", SL_ERR_FORMAT, "no \"model\""},
    {"model.type", "\"Unigram\"", SL_ERR_UNSUPPORTED, "model.type"},
    {"model.byte_fallback", "true", SL_ERR_UNSUPPORTED, "model.byte_fallback"},
    {"model.unk_token", "\"<unk>\"", SL_ERR_UNSUPPORTED, "model.unk_token"},
    {"model.dropout", "0.1", SL_ERR_UNSUPPORTED, "model.dropout"},
    {"model.ignore_merges", "true", SL_ERR_UNSUPPORTED, "model.ignore_merges"},
    {"model.continuing_subword_prefix", "\"##\"", SL_ERR_UNSUPPORTED, "continuing_subword"},
    {"model.end_of_word_suffix", "\"</w>\"", SL_ERR_UNSUPPORTED, "end_of_word_suffix"},
    {"truncation", "{\"max_length\":5}", SL_ERR_UNSUPPORTED, "truncation"},
    {"padding", "{}", SL_ERR_UNSUPPORTED, "padding"},
    {"normalizer", "{\"type\":\"NFC\"}", SL_ERR_UNSUPPORTED, "normalizer"},
    {"normalizer.normalizers", "[{\"type\":\"NFC\"}]", SL_ERR_UNSUPPORTED, "normalizer"},
    {"post_processor", "{\"type\":\"TemplateProcessing\"}", SL_ERR_UNSUPPORTED, "post_processor"},
    {"decoder", "{\"type\":\"WordPiece\"}", SL_ERR_UNSUPPORTED, "decoder.type"},
    {"pre_tokenizer", "null", SL_ERR_UNSUPPORTED, "pre_tokenizer"},
    {"pre_tokenizer", "{\"type\":\"Whitespace\"}", SL_ERR_UNSUPPORTED, "pre_tokenizer"},
    {"pre_tokenizer.pretokenizers", "[]", SL_ERR_UNSUPPORTED, "ByteLevel at its end"},
    {"pre_tokenizer.pretokenizers.1", "{\"type\":\"Digits\"}", SL_ERR_UNSUPPORTED, "ByteLevel"},
    {"pre_tokenizer.pretokenizers.0.invert", "true", SL_ERR_UNSUPPORTED, "step 0"},
    {"pre_tokenizer.pretokenizers.0.behavior", "\"Removed\"", SL_ERR_UNSUPPORTED, "Isolated"},
    {"pre_tokenizer.pretokenizers.0.pattern", "{\"String\":\"a\"}", SL_ERR_UNSUPPORTED, "Regex"},
    {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"(a\"", SL_ERR_UNSUPPORTED, "compiled"},
    {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"^a\"", SL_ERR_UNSUPPORTED, "anchor"},
    {"pre_tokenizer.pretokenizers.1.add_prefix_space", "true", SL_ERR_UNSUPPORTED, "prefix_space"},
    {"pre_tokenizer.pretokenizers.1.use_regex", "true", SL_ERR_UNSUPPORTED, "use_regex"},
    {"model.vocab", "[]", SL_ERR_FORMAT, "model.vocab"},
    {"model.vocab.he", "\"1\"", SL_ERR_FORMAT, "\"he\""},
    {"model.vocab.he", "-1", SL_ERR_FORMAT, "\"he\""},
    {"model.vocab.he", "4294967552", SL_ERR_FORMAT, "\"he\""},
    {"model.vocab.he", "16777216", SL_ERR_FORMAT, "\"he\""},
    {"model.vocab.he", "16777215", SL_ERR_FORMAT, "highest id"},
    {"model.vocab.he", "104", SL_ERR_FORMAT, "another token"},
    {"model.vocab.q", NULL, SL_ERR_FORMAT, "byte 0x71"},
    {"model.vocab.hell", NULL, SL_ERR_FORMAT,
     "merges[2]: the vocabulary lacks the result \"hell\""},
    {"model.vocab.ll", NULL, SL_ERR_FORMAT, "merges[1]"},
    {"model.merges", NULL, SL_ERR_FORMAT, "model.merges"},
    {"model.merges", "{}", SL_ERR_FORMAT, "model.merges"},
    {"model.merges.0", "7", SL_ERR_FORMAT, "merges[0]: expected"},
    {"model.merges.0", "\"he\"", SL_ERR_FORMAT, "merges[0]: expected"},
    {"model.merges.0", "\" he\"", SL_ERR_FORMAT, "merges[0]: expected"},
    {"model.merges.0", "\"h e l\"", SL_ERR_FORMAT, "merges[0]: expected"},
    {"model.merges.0", "[\"h\"]", SL_ERR_FORMAT, "merges[0]: expected"},
    {"model.merges.0", "[\"h\",1]", SL_ERR_FORMAT, "merges[0]: expected"},
    {"model.merges.0", "[\"\",\"h\"]", SL_ERR_FORMAT, "merges[0]: expected"},
    {"model.merges.0", "\"h ee\"", SL_ERR_FORMAT, "merges[0]: the vocabulary lacks \"ee\""},
    {"model.merges.0", "\"l l\"", SL_ERR_FORMAT, "merges[1]: the same pair"},
    {"model.merges.0", "\"hell hell\"", SL_ERR_FORMAT, "lacks the result \"hellhell\""},
    {"added_tokens", "{}", SL_ERR_FORMAT, "added_tokens"},
    {"added_tokens.0", "3", SL_ERR_FORMAT, "added_tokens[0]"},
    {"added_tokens.0.content", NULL, SL_ERR_FORMAT, "added_tokens[0]"},
    {"added_tokens.0.content", "\"\"", SL_ERR_FORMAT, "1 to 1024 bytes"},
    {"added_tokens.0.content", "\"<a>b\"", SL_ERR_FORMAT, "listed twice"},
    {"added_tokens.0.content", "\"hell\"", SL_ERR_FORMAT, "contradicts"},
    {"added_tokens.0.id", "104", SL_ERR_FORMAT, "contradicts"},
    {"added_tokens.0.id", "260", SL_ERR_FORMAT, "contradicts"},
    {"added_tokens.0.id", "null", SL_ERR_FORMAT, "\"<a>\""},
    {"added_tokens.0.normalized", NULL, SL_ERR_FORMAT, "normalized"},
    {"added_tokens.0.lstrip", "true", SL_ERR_UNSUPPORTED, "lstrip"},
    {"added_tokens.0.rstrip", "true", SL_ERR_UNSUPPORTED, "rstrip"},
    {"added_tokens.0.single_word", "true", SL_ERR_UNSUPPORTED, "single_word"},
};

static void every_fault_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(faults); i++) {
        json_t *file = make_file();
        set_value(file, faults[i].path, faults[i].value);
        struct sl_error error = {0};
        sl_tokenizer *tokenizer = NULL;
        enum sl_status status = parse(file, &tokenizer, &error);
        if (status != faults[i].status || error.status != status || tokenizer ||
            !strstr(error.message, faults[i].says) || strncmp(error.message, "t.json: ", 8) != 0)
            fail_msg("%s = %s gives %s: %s", faults[i].path, faults[i].value,
                     sl_status_name(status), error.message);
        json_decref(file);
    }
}

static void text_that_is_not_a_json_object_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "", "{", "[]", "{\"a\":1,\"a\":2}", "{\"a\":\"\\u0000\"}", "\xff"};
    for (size_t i = 0; i < SL_COUNT_OF(texts); i++) {
        sl_tokenizer *tokenizer = NULL;
        struct sl_error error;
        assert_int_equal(tokenizer_parse(texts[i], strlen(texts[i]), "t.json", &tokenizer, &error),
                         SL_ERR_FORMAT);
        assert_null(tokenizer);
    }
}

static void a_path_that_is_no_file_is_named(void **state)
{
    (void)state;
    sl_tokenizer *tokenizer = NULL;
    struct sl_error error;
    assert_int_equal(sl_tokenizer_open("tests/golden/no-such-file", &tokenizer, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "tests/golden/no-such-file"));
    assert_int_equal(sl_tokenizer_open("tests", &tokenizer, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "directory"));
    assert_null(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_are_read_in_both_forms),
        cmocka_unit_test(tokens_taken_from_raw_text_come_before_longer_normalized_ones),
        cmocka_unit_test(an_added_token_may_repeat_a_vocabulary_entry),
        cmocka_unit_test(empty_text_has_no_ids),
        cmocka_unit_test(every_fault_is_named),
        cmocka_unit_test(text_that_is_not_a_json_object_is_refused),
        cmocka_unit_test(a_path_that_is_no_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
