/* Names of statuses, and the formatting of user-facing error messages. */
#include "kernels/status.h"

#include <stdarg.h>
#include <stdio.h>

const char *sl_status_name(enum sl_status status)
{
    switch (status) {
    case SL_OK: return "ok";
    case SL_ERR_ARGUMENT: return "argument";
    case SL_ERR_NO_MEMORY: return "no-memory";
    case SL_ERR_IO: return "io";
    case SL_ERR_FORMAT: return "format";
    case SL_ERR_CHECKSUM: return "checksum";
    case SL_ERR_UNSUPPORTED: return "unsupported";
    case SL_ERR_LIMIT: return "limit";
    case SL_ERR_BUSY: return "busy";
    case SL_ERR_CANCELLED: return "cancelled";
    case SL_NEED_MORE: return "need-more";
    }
    return "unknown";
}

enum sl_status sl_error_set(struct sl_error *error, enum sl_status status, int os_errno,
                            const char *format, ...)
{
    if (error) {
        va_list arguments;
        error->status = status;
        error->os_errno = os_errno;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return status;
}
