/* Growing text; see the header. */
#include "runtime/cli/grow_text.h"

#include "runtime/cli/interrupt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void grow_text_deinit(struct grow_text *buffer)
{
    free(buffer->data);
    *buffer = (struct grow_text){0};
}

enum sl_status grow_text_reserve(struct grow_text *buffer, size_t bytes, struct sl_error *error)
{
    size_t needed = 0;
    if (__builtin_add_overflow(buffer->bytes, bytes, &needed) || needed > SIZE_MAX / 2)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "the text is too long for memory");
    if (needed < buffer->capacity) return SL_OK;
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity <= needed)
        capacity *= 2;
    char *data = realloc(buffer->data, capacity);
    if (!data)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %zu bytes of text",
                            capacity);
    buffer->data = data;
    buffer->capacity = capacity;
    return SL_OK;
}

enum sl_status grow_text_append(struct grow_text *buffer, const void *data, size_t bytes,
                                struct sl_error *error)
{
    enum sl_status status = grow_text_reserve(buffer, bytes, error);
    if (status != SL_OK) return status;
    if (bytes) memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
    buffer->data[buffer->bytes] = 0;
    return SL_OK;
}

enum sl_status grow_text_stream(struct grow_text *buffer, struct sl_text_stream *stream,
                                const char *data, size_t bytes, struct sl_error *error)
{
    size_t room = 0;
    if (__builtin_mul_overflow(bytes + 8, (size_t)3, &room)) room = SIZE_MAX;
    enum sl_status status = grow_text_reserve(buffer, room, error);
    if (status != SL_OK) return status;
    buffer->bytes += sl_text_stream_push(stream, data, bytes, buffer->data + buffer->bytes);
    buffer->data[buffer->bytes] = 0;
    return SL_OK;
}

static enum sl_status read_all(struct grow_text *buffer, FILE *file, const char *name,
                               struct sl_error *error)
{
    char block[65536];
    for (;;) {
        errno = 0;
        size_t got = fread(block, 1, sizeof block, file);
        enum sl_status status = grow_text_append(buffer, block, got, error);
        if (status != SL_OK) return status;
        if (buffer->bytes > GROW_TEXT_INPUT_BYTES_MAX)
            return sl_error_set(error, SL_ERR_LIMIT, 0, "%s: longer than %zu MiB", name,
                                GROW_TEXT_INPUT_BYTES_MAX >> 20);
        if (got == sizeof block) continue;
        if (interrupt_requested()) return sl_error_set(error, SL_ERR_CANCELLED, 0, "interrupted");
        if (!ferror(file)) return SL_OK;
        return sl_error_set(error, SL_ERR_IO, errno, "cannot read %s: %s", name, strerror(errno));
    }
}

enum sl_status grow_text_read(struct grow_text *buffer, const char *path, struct sl_error *error)
{
    if (!path || strcmp(path, "-") == 0) return read_all(buffer, stdin, "standard input", error);
    FILE *file = fopen(path, "rb");
    if (!file)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot open %s: %s", path, strerror(errno));
    enum sl_status status = read_all(buffer, file, path, error);
    fclose(file);
    return status;
}
