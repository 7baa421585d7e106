/* Reads and writes of whole ranges of a file: what pread and pwrite do in pieces, done to the end.
 *
 * For cold, sequential work (packing, checking, heads and indexes); experts in service go through
 * io.h. Any thread; nothing is owned. */
#ifndef SLUICE_OFFLOAD_FILE_RANGE_H
#define SLUICE_OFFLOAD_FILE_RANGE_H

#include "kernels/base.h"

/* Reads `bytes` at `offset_bytes` of the open file. 0 when all were read, -ENODATA when the file
 * ends before them, else -errno. */
SL_MUST_USE int file_range_read(int fd, void *buffer, size_t bytes, uint64_t offset_bytes);

/* Writes `bytes` at `offset_bytes`. 0 when all were written, else -errno. */
SL_MUST_USE int file_range_write(int fd, const void *buffer, size_t bytes, uint64_t offset_bytes);

#endif
