/* A file that appears under its name only when it is complete.
 *
 * Bytes go to PATH.tmp, which commit renames and discard removes. "-" is stdout; what exists and is
 * no regular file (a device, a pipe) is written as it is, for a rename would put a file in its
 * place. */
#ifndef SLUICE_CLI_OUTPUT_FILE_H
#define SLUICE_CLI_OUTPUT_FILE_H

#include "runtime/sl.h"

#include <stdio.h>

struct output_file {
    FILE *file;
    const char *path; /* borrowed */
    char *temporary;  /* NULL: written in place */
};

SL_MUST_USE enum sl_status output_file_open(struct output_file *output, const char *path,
                                            struct sl_error *error);
SL_MUST_USE enum sl_status output_file_write(struct output_file *output, const void *data,
                                             size_t bytes, struct sl_error *error);
/* One of these two ends every successful open. */
SL_MUST_USE enum sl_status output_file_commit(struct output_file *output, struct sl_error *error);
void output_file_discard(struct output_file *output);

#endif
