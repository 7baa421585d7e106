/* Choice of a door to the disk: the one asked for, or io_uring with pread behind it. */
#include "offload/io.h"

#include "offload/io_pread.h"

enum sl_status io_open(enum io_kind kind, const struct io_options *options, struct io **out,
                       struct sl_error *error)
{
    struct sl_error refused = {0};
    SL_ASSERT(options && out);
    SL_ASSERT(options->depth >= 1 && options->depth <= IO_DEPTH_MAX);
    switch (kind) {
    case IO_URING: return io_uring_ops.open(options, out, error);
    case IO_PREAD: return io_pread_ops.open(options, out, error);
    case IO_AUTO: break;
    }
    if (io_uring_ops.open(options, out, &refused) == SL_OK) return SL_OK;
    return io_pread_open(options, refused.message, out, error);
}
