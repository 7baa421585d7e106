/* Reads a trace (trace.h) and refuses what is damaged, by name and offset.
 *
 * Owned by one thread; takes its buffers at open and grows them with the largest block. */
#ifndef SLUICE_OFFLOAD_TRACE_READER_H
#define SLUICE_OFFLOAD_TRACE_READER_H

#include "offload/trace.h"

struct trace_reader;

/* SL_ERR_IO: cannot be read; SL_ERR_FORMAT, SL_ERR_CHECKSUM: not a trace, or a damaged one, with
 * its name and the offset; SL_ERR_UNSUPPORTED: another version; SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status trace_reader_open(const char *path, struct trace_reader **out,
                                             struct sl_error *error);
/* The same over bytes in memory, which the reader borrows; `name` for messages. */
SL_MUST_USE enum sl_status trace_reader_open_memory(const void *data, size_t bytes,
                                                    const char *name, struct trace_reader **out,
                                                    struct sl_error *error);
void trace_reader_close(struct trace_reader *reader); /* NULL is fine */

const struct trace_head *trace_reader_head(const struct trace_reader *reader);

/* The next step, or NULL in `*out` at the end of the file. Every expert is checked to be below
 * head->experts, every count against the head. After an error only close may follow. */
SL_MUST_USE enum sl_status trace_reader_next(struct trace_reader *reader,
                                             const struct trace_step **out, struct sl_error *error);

/* Back to the first step, also after the end or an error. */
void trace_reader_rewind(struct trace_reader *reader);

#endif
