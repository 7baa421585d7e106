/* Text that grows: its owner's, zero-terminated while it holds anything. */
#ifndef SLUICE_CLI_GROW_TEXT_H
#define SLUICE_CLI_GROW_TEXT_H

#include "runtime/sl.h"

#include <stdio.h>

/* Most bytes read from a file or stdin: far above any context, far below what hurts. */
#define GROW_TEXT_INPUT_BYTES_MAX ((size_t)256 << 20)

struct grow_text {
    char *data; /* [bytes + 1], or NULL */
    size_t bytes, capacity;
};

void grow_text_deinit(struct grow_text *buffer);

/* SL_ERR_NO_MEMORY leaves the buffer as it was. */
SL_MUST_USE enum sl_status grow_text_append(struct grow_text *buffer, const void *data,
                                            size_t bytes, struct sl_error *error);
/* Room for `bytes` more, so that a callee can write at data + bytes. */
SL_MUST_USE enum sl_status grow_text_reserve(struct grow_text *buffer, size_t bytes,
                                             struct sl_error *error);

/* Appends bytes as whole characters: what is invalid becomes U+FFFD; see sl_text_stream_push. */
SL_MUST_USE enum sl_status grow_text_stream(struct grow_text *buffer, struct sl_text_stream *stream,
                                            const char *data, size_t bytes, struct sl_error *error);

/* Everything in a file, or on stdin when `path` is NULL or "-". */
SL_MUST_USE enum sl_status grow_text_read(struct grow_text *buffer, const char *path,
                                          struct sl_error *error);

#endif
