/* The door of threads that call pread, opened in place of another one. */
#ifndef SLUICE_OFFLOAD_IO_PREAD_H
#define SLUICE_OFFLOAD_IO_PREAD_H

#include "offload/io.h"

#define IO_PREAD_THREADS_MAX 8

/* As io_pread_ops.open; `reason` (copied, may be NULL) says in describe() why it had to be this
 * one. */
SL_MUST_USE enum sl_status io_pread_open(const struct io_options *options, const char *reason,
                                         struct io **out, struct sl_error *error);

#endif
