/* What reports in JSON have in common, beside jansson. */
#ifndef SLUICE_RUNTIME_JSON_REPORT_H
#define SLUICE_RUNTIME_JSON_REPORT_H

#include "kernels/status.h"

#include <jansson.h>

/* A new array of `values` [count], the caller's; NULL when there is no memory. */
json_t *json_report_numbers(const double *values, int count);

/* Writes `report`, which it takes (NULL: there was no memory to make it), as text, the caller's to
 * free. SL_ERR_NO_MEMORY names the `subject`. */
SL_MUST_USE enum sl_status json_report_write(json_t *report, const char *subject, char **out,
                                             struct sl_error *error);

#endif
