/* Growable bytes for building text; see the header. */
#include "runtime/text_buffer.h"

#include "kernels/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CAPACITY_MIN 256u

/* Room for `bytes` more; doubling keeps a sequence of appends linear. */
static bool reserve(struct text_buffer *buffer, size_t bytes)
{
    SL_ASSERT(buffer->bytes <= buffer->capacity);
    if (buffer->failed) return false;
    if (buffer->capacity - buffer->bytes >= bytes) return true;

    size_t needed;
    if (__builtin_add_overflow(buffer->bytes, bytes, &needed)) goto fail;
    size_t capacity = buffer->capacity ? buffer->capacity : CAPACITY_MIN;
    while (capacity < needed) {
        if (__builtin_mul_overflow(capacity, (size_t)2, &capacity)) goto fail;
    }
    char *data = realloc(buffer->data, capacity);
    if (!data) goto fail;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;

fail:
    buffer->failed = true;
    return false;
}

void text_buffer_append(struct text_buffer *buffer, const char *data, size_t bytes)
{
    SL_ASSERT(data || bytes == 0);
    if (bytes == 0 || !reserve(buffer, bytes)) return;
    memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
}

void text_buffer_append_text(struct text_buffer *buffer, const char *text)
{
    text_buffer_append(buffer, text, strlen(text));
}

void text_buffer_say(struct text_buffer *buffer, const char *format, ...)
{
    char line[TEXT_BUFFER_LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length > 0) text_buffer_append_text(buffer, line);
}

void text_buffer_append_byte(struct text_buffer *buffer, char byte)
{
    text_buffer_append(buffer, &byte, 1);
}

void text_buffer_clear(struct text_buffer *buffer)
{
    buffer->bytes = 0;
}

enum sl_status text_buffer_take(struct text_buffer *buffer, char **out, size_t *bytes,
                                struct sl_error *error)
{
    SL_ASSERT(out && bytes);
    text_buffer_append_byte(buffer, 0);
    if (buffer->failed) {
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                            "out of memory after %zu bytes of text; shorten the conversation",
                            buffer->bytes);
    }
    *out = buffer->data;
    *bytes = buffer->bytes - 1;
    *buffer = (struct text_buffer){0};
    return SL_OK;
}

void text_buffer_deinit(struct text_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct text_buffer){0};
}
