/* Reading ids; see the header. */
#include "runtime/cli/ids_input.h"

#include "runtime/cli/grow_text.h"

#include <stdlib.h>
#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t skip_space(const char *text, size_t bytes, size_t at)
{
    while (at < bytes && is_space(text[at]))
        at++;
    return at;
}

static enum sl_status refuse(const char *text, size_t bytes, size_t at, const char *expected,
                             struct sl_error *error)
{
    if (at >= bytes)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "token ids: expected %s, found the end",
                            expected);
    int shown = bytes - at < 12 ? (int)(bytes - at) : 12;
    return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                        "token ids: expected %s at byte %zu, found \"%.*s\"", expected, at, shown,
                        text + at);
}

/* Moves `*at` past one number. */
static enum sl_status parse_id(const char *text, size_t bytes, size_t *at, int32_t *out,
                               struct sl_error *error)
{
    size_t start = *at;
    int64_t value = 0;
    while (*at < bytes && is_digit(text[*at])) {
        value = value * 10 + (text[*at] - '0');
        if (value > INT32_MAX) return refuse(text, bytes, start, "an id below 2147483648", error);
        ++*at;
    }
    if (*at == start) return refuse(text, bytes, start, "a number", error);
    *out = (int32_t)value;
    return SL_OK;
}

/* Reads numbers into `ids`, which has room for every second byte of the text. */
static enum sl_status parse_list(const char *text, size_t bytes, struct ids_input *out,
                                 struct sl_error *error)
{
    size_t at = skip_space(text, bytes, 0);
    bool bracket = at < bytes && text[at] == '[';
    if (bracket) at = skip_space(text, bytes, at + 1);
    bool comma = false;
    while (at < bytes && (comma || text[at] != ']' || !bracket)) {
        enum sl_status status = parse_id(text, bytes, &at, &out->ids[out->count], error);
        if (status != SL_OK) return status;
        out->count++;
        size_t next = skip_space(text, bytes, at);
        comma = next < bytes && text[next] == ',';
        if (comma) next = skip_space(text, bytes, next + 1);
        if (next == at && at < bytes && !(bracket && text[at] == ']'))
            return refuse(text, bytes, at, "a comma or white space", error);
        at = next;
    }
    if (comma) return refuse(text, bytes, at, "a number after the last comma", error);
    if (!bracket) return SL_OK;
    if (at == bytes) return refuse(text, bytes, at, "\"]\"", error);
    at = skip_space(text, bytes, at + 1);
    return at == bytes ? SL_OK : refuse(text, bytes, at, "nothing after \"]\"", error);
}

enum sl_status ids_input_parse(const char *text, size_t bytes, struct ids_input *out,
                               struct sl_error *error)
{
    *out = (struct ids_input){0};
    /* A number takes at least one byte and a separator another. */
    out->ids = malloc((bytes / 2 + 1) * sizeof *out->ids);
    if (!out->ids) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the token ids");
    enum sl_status status = parse_list(text, bytes, out, error);
    if (status != SL_OK) ids_input_deinit(out);
    return status;
}

enum sl_status ids_input_load(const char *text, const char *path, struct ids_input *out,
                              struct sl_error *error)
{
    *out = (struct ids_input){0};
    if (!text == !path)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "expected either --ids or --ids-file");
    if (text) return ids_input_parse(text, strlen(text), out, error);
    struct grow_text buffer = {0};
    enum sl_status status = grow_text_read(&buffer, path, error);
    if (status == SL_OK) status = ids_input_parse(buffer.data, buffer.bytes, out, error);
    grow_text_deinit(&buffer);
    return status;
}

enum sl_status ids_input_check(const struct ids_input *input, int32_t vocab, struct sl_error *error)
{
    if (input->count == 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "token ids: expected at least one");
    for (size_t i = 0; i < input->count; i++) {
        if (input->ids[i] < vocab) continue;
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "token ids: expected ids below the vocabulary's %d, found %d at "
                            "place %zu",
                            vocab, input->ids[i], i);
    }
    return SL_OK;
}

void ids_input_deinit(struct ids_input *input)
{
    free(input->ids);
    *input = (struct ids_input){0};
}
