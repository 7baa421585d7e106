#include "runtime/sl.h"
enum sl_status sl_trace_report(const char *path, bool json, char **report, struct sl_error *error)
{
    (void)path;
    (void)json;
    *report = NULL;
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "later");
}
