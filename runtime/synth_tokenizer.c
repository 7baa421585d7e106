/* Vocabulary, merges and splitting rules of the small tokenizer; see the header. */
#include "runtime/synth_tokenizer.h"
#include "runtime/byte_alphabet.h"
#include "runtime/utf8.h"

#include <jansson.h>
#include <string.h>

#define FIRST_BYTE_ID   3
#define TOKEN_BYTES_MAX 64
#define LETTER_PAIRS    676 /* of the 26 lower-case ones */
#define SPECIAL_TOKENS  3   /* begin, end, pad: ids 0, 1, 2 */
#define FULL_WIDTH_BAR  "\xef\xbd\x9c"
#define LOWER_BLOCK     "\xe2\x96\x81"
#define MARKER(text)    "<" FULL_WIDTH_BAR text FULL_WIDTH_BAR ">"
#define SPACE           "\xc4\xa0" /* the byte 32 in the byte alphabet */

static const char *const markers[] = {
    MARKER("begin" LOWER_BLOCK "of" LOWER_BLOCK "sentence"),
    MARKER("end" LOWER_BLOCK "of" LOWER_BLOCK "sentence"),
    MARKER(LOWER_BLOCK "pad" LOWER_BLOCK),
    MARKER("User"),
    MARKER("Assistant"),
    "<think>",
    "</think>",
    FULL_WIDTH_BAR "DSML" FULL_WIDTH_BAR,
    MARKER("latest_reminder"),
    MARKER("action"),
    MARKER("query"),
    MARKER("authority"),
    MARKER("domain"),
    MARKER("title"),
    MARKER("read_url"),
};

/* In the order of rank; both sides are bytes or products of earlier merges. */
static const char *const merges[][2] = {
    {SPACE, "t"},     {"h", "e"},    {"i", "n"},        {SPACE, "a"},     {"r", "e"},
    {"o", "n"},       {"e", "r"},    {SPACE "t", "he"}, {SPACE, "s"},     {"n", "d"},
    {"a", "t"},       {"o", "u"},    {SPACE, "w"},      {"i", "s"},       {"o", "r"},
    {"e", "n"},       {"in", "g"},   {SPACE, "o"},      {"e", "s"},       {"e", "d"},
    {SPACE, "c"},     {"i", "t"},    {"a", "l"},        {SPACE, "b"},     {SPACE, "p"},
    {SPACE, "f"},     {SPACE, "m"},  {"a", "n"},        {SPACE "o", "f"}, {SPACE "a", "nd"},
    {SPACE "t", "o"}, {SPACE, "in"}, {"l", "l"},        {"a", "s"},       {"l", "e"},
    {"r", "o"},       {"i", "on"},   {SPACE, "d"},      {SPACE, SPACE},   {"a", "r"},
    {"c", "h"},       {"s", "t"},    {SPACE, "is"},     {"e", "a"},       {"v", "e"},
};

static const char *const split_rules[] = {
    "\\p{N}{1,3}",
    "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
};

/* ---- vocabulary --------------------------------------------------------------------------- */

/* Ids ascend with the code points of the alphabet: first the bytes that stand for themselves. */
static bool add_bytes(json_t *vocab)
{
    int id = FIRST_BYTE_ID;
    for (uint32_t point = 0; id < FIRST_BYTE_ID + 256; point++) {
        char text[UTF8_CHARACTER_BYTES_MAX + 1];
        if (byte_alphabet_byte(point) < 0) continue;
        text[utf8_put(point, text)] = 0;
        if (json_object_set_new(vocab, text, json_integer(id++))) return false;
    }
    return true;
}

/* Adds the token `left` + `right` and its merge under the next id, unless there is such a token. */
static bool add_merge(json_t *vocab, json_t *list, const char *left, const char *right)
{
    char token[TOKEN_BYTES_MAX];
    snprintf(token, sizeof token, "%s%s", left, right);
    SL_ASSERT(json_object_get(vocab, left) && json_object_get(vocab, right));
    if (json_object_get(vocab, token)) return true;
    return json_object_set_new(vocab, token, json_integer((json_int_t)json_object_size(vocab))) ==
               0 &&
           json_array_append_new(list, json_sprintf("%s %s", left, right)) == 0;
}

static void letter_pair(int number, char *out)
{
    out[0] = (char)('a' + number / 26);
    out[1] = (char)('a' + number % 26);
    out[2] = 0;
}

/* Hand-picked merges, then pairs of letters, those after a space, and pairs of pairs, until the
 * vocabulary holds `tokens`. */
static bool add_merges(json_t *vocab, json_t *list, size_t tokens)
{
    char left[8], right[4];
    for (size_t i = 0; i < SL_COUNT_OF(merges); i++)
        if (!add_merge(vocab, list, merges[i][0], merges[i][1])) return false;
    for (int first = 0; first < LETTER_PAIRS && json_object_size(vocab) < tokens; first++) {
        const char letters[2][2] = {{(char)('a' + first / 26), 0}, {(char)('a' + first % 26), 0}};
        if (!add_merge(vocab, list, letters[0], letters[1])) return false;
    }
    for (int first = 0; first < LETTER_PAIRS && json_object_size(vocab) < tokens; first++) {
        letter_pair(first, right);
        if (!add_merge(vocab, list, SPACE, right)) return false;
    }
    for (int both = 0; both < LETTER_PAIRS * LETTER_PAIRS && json_object_size(vocab) < tokens;
         both++) {
        letter_pair(both / LETTER_PAIRS, left);
        letter_pair(both % LETTER_PAIRS, right);
        if (!add_merge(vocab, list, left, right)) return false;
    }
    return json_object_size(vocab) == tokens;
}

/* The first three are in the vocabulary too, the others follow after it. */
static bool add_markers(json_t *vocab, json_t *list, int first_id)
{
    for (int i = 0; i < (int)SL_COUNT_OF(markers); i++) {
        bool special = i < SPECIAL_TOKENS;
        json_t *entry = json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id",
                                  special ? i : first_id + i - SPECIAL_TOKENS, "content",
                                  markers[i], "single_word", 0, "lstrip", 0, "rstrip", 0,
                                  "normalized", !special, "special", special);
        if (json_array_append_new(list, entry)) return false;
        if (special && json_object_set_new(vocab, markers[i], json_integer(i))) return false;
    }
    return true;
}

/* ---- the file ----------------------------------------------------------------------------- */

static json_t *byte_level(bool prefix, bool trim, bool regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix,
                     "trim_offsets", trim, "use_regex", regex);
}

static json_t *pre_tokenizer(void)
{
    json_t *list = json_array();
    for (size_t i = 0; i < SL_COUNT_OF(split_rules); i++)
        json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split",
                                              "pattern", "Regex", split_rules[i], "behavior",
                                              "Isolated", "invert", 0));
    json_array_append_new(list, byte_level(false, true, false));
    if (json_array_size(list) != SL_COUNT_OF(split_rules) + 1) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

char *synth_tokenizer_text(int32_t vocab_size)
{
    int first_marker_id = vocab_size - (int)SL_COUNT_OF(markers) + SPECIAL_TOKENS;
    SL_ASSERT(vocab_size >= SYNTH_TOKENIZER_VOCAB_MIN);
    json_t *vocab = json_object(), *merge_list = json_array(), *added = json_array();
    json_t *root = NULL;
    char *text = NULL;
    if (vocab && merge_list && added && add_markers(vocab, added, first_marker_id) &&
        add_bytes(vocab) && add_merges(vocab, merge_list, (size_t)first_marker_id))
        root = json_pack("{s:s, s:n, s:n, s:O, s:{s:s, s:[]}, s:o, s:o, s:o, "
                         "s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:O, s:O}}",
                         "version", "1.0", "truncation", "padding", "added_tokens", added,
                         "normalizer", "type", "Sequence", "normalizers", "pre_tokenizer",
                         pre_tokenizer(), "post_processor", byte_level(true, false, true),
                         "decoder", byte_level(true, true, true), "model", "type", "BPE", "dropout",
                         "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                         0, "byte_fallback", 0, "vocab", vocab, "merges", merge_list);
    if (root) text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    json_decref(added);
    json_decref(merge_list);
    json_decref(vocab);
    return text;
}
