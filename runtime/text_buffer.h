/* Growable bytes for building text.
 *
 * Owned by whoever initialised it, one thread at a time. An allocation that fails makes the buffer
 * `failed`: later appends are ignored and text_buffer_take says so, which leaves one check at the
 * end instead of one at each append. */
#ifndef SLUICE_RUNTIME_TEXT_BUFFER_H
#define SLUICE_RUNTIME_TEXT_BUFFER_H

#include "kernels/status.h"

#include <stdbool.h>
#include <stddef.h>

#define TEXT_BUFFER_LINE_BYTES 512

/* Zero-initialise; free with text_buffer_deinit or hand the bytes on with text_buffer_take. */
struct text_buffer {
    char *data;   /* [capacity], the first `bytes` in use; no terminating zero until taken */
    size_t bytes; /* in use */
    size_t capacity;
    bool failed;
};

void text_buffer_append(struct text_buffer *buffer, const char *data, size_t bytes);
/* The same for a zero-terminated text. */
void text_buffer_append_text(struct text_buffer *buffer, const char *text);
/* One formatted line or part of it, cut at TEXT_BUFFER_LINE_BYTES. */
void text_buffer_say(struct text_buffer *buffer, const char *format, ...) SL_PRINTF(2, 3);
void text_buffer_append_byte(struct text_buffer *buffer, char byte);

/* Empties the buffer and keeps its memory; a failed buffer stays failed. */
void text_buffer_clear(struct text_buffer *buffer);

/* Moves the text into `*out` (zero-terminated, the caller's to free) with its length in `*bytes`
 * and leaves the buffer empty. SL_ERR_NO_MEMORY when any append failed. */
SL_MUST_USE enum sl_status text_buffer_take(struct text_buffer *buffer, char **out, size_t *bytes,
                                            struct sl_error *error);
void text_buffer_deinit(struct text_buffer *buffer);

#endif
