/* Reports in JSON; see the header. */
#include "runtime/json_report.h"

json_t *json_report_numbers(const double *values, int count)
{
    json_t *array = json_array();
    for (int i = 0; array && i < count; i++)
        json_array_append_new(array, json_real(values[i]));
    return array;
}

enum sl_status json_report_write(json_t *report, const char *subject, char **out,
                                 struct sl_error *error)
{
    *out = report ? json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(report);
    if (*out) return SL_OK;
    return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to report on %s as JSON", subject);
}
