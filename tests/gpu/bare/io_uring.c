/* The door of offload/io_uring.c on a machine without liburing: closed; reads go through pread. */
#include "offload/io.h"

static enum sl_status refuse(const struct io_options *options, struct io **out,
                             struct sl_error *error)
{
    (void)options, (void)out;
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "io_uring is not in this build");
}

const struct io_ops io_uring_ops = {.name = "io_uring", .open = refuse};
