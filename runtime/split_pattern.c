/* Walks a pattern once to measure and once to write its translation; see the header. */
#include "runtime/split_pattern.h"

#include "runtime/unicode_additions.h"

#include <ctype.h>
#include <string.h>

/* PCRE2's \s also takes U+180E, which has not been white space since Unicode 6.3. */
#define WHITE_SPACE     "\\p{White_Space}"
#define NOT_WHITE_SPACE "\\P{White_Space}"

/* Escapes of letters that mean one and the same character in both libraries. */
#define LETTER_ESCAPES "rntf"

struct walk {
    const char *pattern;
    size_t bytes, at;
    bool in_class;
    char *out; /* NULL while measuring */
    size_t written;
    const char *refused; /* what the pattern has that we do not translate */
};

static void put(struct walk *walk, const char *text, size_t bytes)
{
    if (walk->out) memcpy(walk->out + walk->written, text, bytes);
    walk->written += bytes;
}

static char peek(const struct walk *walk, size_t ahead)
{
    return ahead < walk->bytes - walk->at ? walk->pattern[walk->at + ahead] : 0;
}

static void copy(struct walk *walk, size_t bytes)
{
    SL_ASSERT(bytes <= walk->bytes - walk->at);
    put(walk, walk->pattern + walk->at, bytes);
    walk->at += bytes;
}

/* \p{L} and the characters of that category which PCRE2 may not know yet. */
static void walk_property(struct walk *walk)
{
    char category = peek(walk, 3);
    if (peek(walk, 2) != '{' || category == 0 || !strchr("LMNPSZ", category) ||
        peek(walk, 4) != '}') {
        walk->refused = "a property other than \\p{L}, {M}, {N}, {P}, {S} and {Z}";
        return;
    }
    if (!walk->in_class) put(walk, "[", 1);
    copy(walk, 5);
    for (size_t i = 0; i < SL_COUNT_OF(unicode_additions); i++) {
        const struct unicode_addition *addition = &unicode_additions[i];
        if (addition->category != category) continue;
        char range[32];
        int length =
            snprintf(range, sizeof range, "\\x{%x}-\\x{%x}", addition->first, addition->last);
        put(walk, range, (size_t)length);
    }
    if (!walk->in_class) put(walk, "]", 1);
}

static void walk_escape(struct walk *walk)
{
    unsigned char next = (unsigned char)peek(walk, 1);
    if (next == 'p') {
        walk_property(walk);
    } else if (next == 's' || next == 'S') {
        const char *property = next == 's' ? WHITE_SPACE : NOT_WHITE_SPACE;
        put(walk, property, strlen(property));
        walk->at += 2;
    } else if (ispunct(next) || (next != 0 && strchr(LETTER_ESCAPES, next))) {
        copy(walk, 2);
    } else {
        walk->refused = "an escape other than \\p{..}, \\s, \\S, \\r, \\n, \\t, \\f and those "
                        "of punctuation";
    }
}

static void walk_in_class(struct walk *walk)
{
    char next = peek(walk, 0);
    if (next == '[' || (next == '&' && peek(walk, 1) == '&')) {
        walk->refused = "a set operation inside [..]";
        return;
    }
    if (next == ']') walk->in_class = false;
    copy(walk, 1);
}

static void walk_class_start(struct walk *walk)
{
    size_t length = peek(walk, 1) == '^' ? 2 : 1;
    if (peek(walk, length) == ']') {
        walk->refused = "a class that begins with ]";
        return;
    }
    walk->in_class = true;
    copy(walk, length);
}

static void walk_group_start(struct walk *walk)
{
    char kind = peek(walk, 2);
    if (peek(walk, 1) == '*' || (peek(walk, 1) == '?' && kind != ':' && kind != '=' && kind != '!'))
        walk->refused = "a group other than (..), (?:..), (?=..) and (?!..)";
    else
        copy(walk, 1);
}

/* {n}, {n,} and {n,m}; a + after it makes it possessive in PCRE2 and repeats it in Oniguruma. */
static void walk_count(struct walk *walk)
{
    size_t length = 1;
    while (isdigit((unsigned char)peek(walk, length)))
        length++;
    bool counted = length > 1;
    if (peek(walk, length) == ',') length++;
    while (isdigit((unsigned char)peek(walk, length)))
        length++;
    if (!counted || peek(walk, length) != '}' || peek(walk, length + 1) == '+') {
        walk->refused = "a repetition other than {n}, {n,} and {n,m}";
        return;
    }
    copy(walk, length + 1);
}

static void walk_pattern(struct walk *walk)
{
    while (walk->at < walk->bytes && !walk->refused) {
        char next = peek(walk, 0);
        if (next == '\\')
            walk_escape(walk);
        else if (walk->in_class)
            walk_in_class(walk);
        else if (next == '[')
            walk_class_start(walk);
        else if (next == '(')
            walk_group_start(walk);
        else if (next == '{')
            walk_count(walk);
        else if (next == '^' || next == '$')
            walk->refused = "an anchor (^ or $)";
        else
            copy(walk, 1);
    }
}

enum sl_status split_pattern_translate(const char *pattern, size_t bytes, const char *path,
                                       char **out, struct sl_error *error)
{
    if (bytes == 0 || bytes > SPLIT_PATTERN_BYTES_MAX)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s: a split pattern has %zu bytes; 1 to %d can be used", path, bytes,
                            SPLIT_PATTERN_BYTES_MAX);
    struct walk measure = {.pattern = pattern, .bytes = bytes};
    walk_pattern(&measure);
    if (measure.refused)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s: the split pattern \"%.*s\" has %s (at byte %zu), which is not "
                            "supported",
                            path, (int)bytes, pattern, measure.refused, measure.at);

    char *text = malloc(measure.written + 1);
    if (!text)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "%s: out of memory for a split pattern",
                            path);
    struct walk write = {.pattern = pattern, .bytes = bytes, .out = text};
    walk_pattern(&write);
    SL_ASSERT(write.written == measure.written);
    text[write.written] = 0;
    *out = text;
    return SL_OK;
}
