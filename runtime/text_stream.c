/* sl_text_stream_push: bytes of tokens to whole characters.
 *
 * The stream is the caller's and holds at most three bytes, the valid start of a character; nothing
 * is allocated and nothing fails. */
#include "runtime/sl.h"
#include "runtime/utf8.h"

#include <string.h>

static size_t put(const struct utf8_step *step, const char *text, char *out)
{
    bool whole = step->kind == UTF8_WHOLE;
    size_t bytes = whole ? step->bytes : UTF8_REPLACEMENT_BYTES;
    memcpy(out, whole ? text : UTF8_REPLACEMENT, bytes);
    return bytes;
}

/* Adds bytes to the held character until it is whole or broken, and writes it then. Returns how
 * many bytes of `data` are used up: a byte that breaks the character is not, it starts anew. */
static size_t push_held(struct sl_text_stream *stream, const char *data, size_t bytes, char *out,
                        size_t *written)
{
    char character[UTF8_CHARACTER_BYTES_MAX];
    size_t held = (size_t)stream->held_bytes;
    size_t added = sizeof character - held < bytes ? sizeof character - held : bytes;
    memcpy(character, stream->held, held);
    memcpy(character + held, data, added);

    struct utf8_step step = utf8_step(character, held + added);
    SL_ASSERT(step.bytes >= held);
    if (step.kind == UTF8_CUT) {
        memcpy(stream->held, character, step.bytes);
        stream->held_bytes = (int32_t)step.bytes;
    } else {
        *written += put(&step, character, out);
        stream->held_bytes = 0;
    }
    return step.bytes - held;
}

size_t sl_text_stream_push(struct sl_text_stream *stream, const char *data, size_t bytes, char *out)
{
    SL_ASSERT(stream->held_bytes >= 0 && stream->held_bytes < UTF8_CHARACTER_BYTES_MAX);
    size_t written = 0;
    if (bytes == 0) {
        if (stream->held_bytes > 0) {
            memcpy(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES);
            written = UTF8_REPLACEMENT_BYTES;
            stream->held_bytes = 0;
        }
        return written;
    }
    size_t at = stream->held_bytes > 0 ? push_held(stream, data, bytes, out, &written) : 0;
    while (at < bytes) {
        struct utf8_step step = utf8_step(data + at, bytes - at);
        if (step.kind == UTF8_CUT) {
            memcpy(stream->held, data + at, step.bytes);
            stream->held_bytes = (int32_t)step.bytes;
        } else {
            written += put(&step, data + at, out + written);
        }
        at += step.bytes;
    }
    SL_ASSERT(written <= 3 * (bytes + 8));
    return written;
}
