/* Reads a small file as a whole: configuration, index, tokenizer.
 *
 * The text is the caller's to free(). Any thread. Failures name the file and what to do. */
#ifndef SLUICE_RUNTIME_TEXT_FILE_H
#define SLUICE_RUNTIME_TEXT_FILE_H

#include "kernels/base.h"

/* Opens `path` for reading and checks that it is a regular file; `*bytes` is its size. */
SL_MUST_USE enum sl_status text_file_open(const char *path, int *fd, uint64_t *bytes,
                                          struct sl_error *error);

/* Reads exactly `bytes` at `offset_bytes`; an early end of the file is SL_ERR_IO. */
SL_MUST_USE enum sl_status text_file_read_at(int fd, const char *path, uint64_t offset_bytes,
                                             void *out, size_t bytes, struct sl_error *error);

/* The whole of `path`, with a zero after its last byte; larger than `bytes_max` is SL_ERR_FORMAT.
 */
SL_MUST_USE enum sl_status text_file_read(const char *path, size_t bytes_max, char **text,
                                          size_t *bytes, struct sl_error *error);

#endif
