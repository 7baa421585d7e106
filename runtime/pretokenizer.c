/* Split rules on PCRE2; see the header. Machine code is used for the patterns where the system
 * permits it, else PCRE2's interpreter, with the same result. */
#include "runtime/pretokenizer.h"

#include "runtime/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Steps PCRE2 may take for one match: trying the white-space rules on a run of n characters takes
 * a few n, so this only ends patterns whose time explodes. */
#define MATCH_STEPS_MIN      100000u
#define MATCH_STEPS_PER_BYTE 16u
#define MATCH_HEAP_KIB_MAX   (1u << 20)

struct pretokenizer {
    pcre2_code *rules[PRETOKENIZER_RULES_MAX];
    int32_t count;
};

/* One call of pretokenizer_split. */
struct split {
    const struct pretokenizer *pretokenizer;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pretokenizer_piece_fn fn;
    void *context;
    struct sl_error *error;
};

enum sl_status pretokenizer_create(struct pretokenizer **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? SL_OK : SL_ERR_NO_MEMORY;
}

void pretokenizer_destroy(struct pretokenizer *pretokenizer)
{
    if (!pretokenizer) return;
    for (int32_t i = 0; i < pretokenizer->count; i++)
        pcre2_code_free(pretokenizer->rules[i]);
    free(pretokenizer);
}

static enum sl_status compile_rule(const char *pattern, const char *path, pcre2_code **out,
                                   struct sl_error *error)
{
    pcre2_compile_context *options = pcre2_compile_context_create(NULL);
    if (!options) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "%s: out of memory", path);
    pcre2_set_newline(options, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE offset;
    pcre2_code *rule = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &code, &offset, options);
    pcre2_compile_context_free(options);
    if (!rule) {
        PCRE2_UCHAR reason[160];
        pcre2_get_error_message(code, reason, sizeof reason);
        enum sl_status status =
            code == PCRE2_ERROR_HEAP_FAILED ? SL_ERR_NO_MEMORY : SL_ERR_UNSUPPORTED;
        return sl_error_set(error, status, 0, "%s: a split pattern cannot be compiled: %s", path,
                            (const char *)reason);
    }
    uint32_t matches_empty = 0;
    pcre2_pattern_info(rule, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty) {
        pcre2_code_free(rule);
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s: a split pattern can match nothing at all, which is not supported",
                            path);
    }
    (void)pcre2_jit_compile(rule, PCRE2_JIT_COMPLETE); /* without it the interpreter runs */
    *out = rule;
    return SL_OK;
}

enum sl_status pretokenizer_add(struct pretokenizer *pretokenizer, const char *pattern,
                                size_t bytes, const char *path, struct sl_error *error)
{
    SL_ASSERT(pretokenizer->count < PRETOKENIZER_RULES_MAX);
    char *translated;
    SL_TRY(split_pattern_translate(pattern, bytes, path, &translated, error));
    enum sl_status status =
        compile_rule(translated, path, &pretokenizer->rules[pretokenizer->count], error);
    if (status == SL_OK) pretokenizer->count++;
    free(translated);
    return status;
}

static enum sl_status match_failed(const struct split *split, int code)
{
    if (code == PCRE2_ERROR_NOMEMORY)
        return sl_error_set(split->error, SL_ERR_NO_MEMORY, 0,
                            "out of memory while splitting text");
    PCRE2_UCHAR reason[160];
    pcre2_get_error_message(code, reason, sizeof reason);
    return sl_error_set(split->error, SL_ERR_LIMIT, 0,
                        "a split pattern of the tokenizer gave up on the text: %s",
                        (const char *)reason);
}

/* The first match of a rule in piece[from, bytes): 1 found, 0 none, else a PCRE2 error. */
static int match_rule(const struct split *split, int32_t rule, const char *piece, size_t bytes,
                      size_t from)
{
    const pcre2_code *code = split->pretokenizer->rules[rule];
    /* Checking the text's encoding again for every match would take quadratic time. */
    uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int found =
        pcre2_match(code, (PCRE2_SPTR)piece, bytes, from, options, split->match, split->limits);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(code, (PCRE2_SPTR)piece, bytes, from, options | PCRE2_NO_JIT,
                            split->match, split->limits);
    if (found == PCRE2_ERROR_NOMATCH) return 0;
    return found < 0 ? found : 1;
}

/* Applies rule `rule` and the ones behind it to a piece; as deep as there are rules. */
static enum sl_status split_piece(const struct split *split, int32_t rule, const char *piece,
                                  size_t bytes)
{
    if (bytes == 0) return SL_OK;
    if (rule == split->pretokenizer->count) return split->fn(split->context, piece, bytes);

    size_t done = 0;
    while (done < bytes) {
        int found = match_rule(split, rule, piece, bytes, done);
        if (found < 0) return match_failed(split, found);
        if (found == 0) break;
        const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(split->match);
        size_t start = offsets[0], end = offsets[1];
        SL_ASSERT(start >= done && end > start && end <= bytes);
        SL_TRY(split_piece(split, rule + 1, piece + done, start - done));
        SL_TRY(split_piece(split, rule + 1, piece + start, end - start));
        done = end;
    }
    return split_piece(split, rule + 1, piece + done, bytes - done);
}

enum sl_status pretokenizer_split(const struct pretokenizer *pretokenizer, const char *text,
                                  size_t bytes, pretokenizer_piece_fn fn, void *context,
                                  struct sl_error *error)
{
    struct split split = {
        .pretokenizer = pretokenizer,
        .match = pcre2_match_data_create(1, NULL),
        .limits = pcre2_match_context_create(NULL),
        .fn = fn,
        .context = context,
        .error = error,
    };
    enum sl_status status;
    if (split.match && split.limits) {
        size_t steps = bytes > (UINT32_MAX - MATCH_STEPS_MIN) / MATCH_STEPS_PER_BYTE
                           ? UINT32_MAX
                           : MATCH_STEPS_MIN + bytes * MATCH_STEPS_PER_BYTE;
        pcre2_set_match_limit(split.limits, (uint32_t)steps);
        pcre2_set_heap_limit(split.limits, MATCH_HEAP_KIB_MAX);
        status = split_piece(&split, 0, text, bytes);
    } else {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory while splitting text");
    }
    pcre2_match_context_free(split.limits);
    pcre2_match_data_free(split.match);
    return status;
}
