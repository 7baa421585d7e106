/* Token ids given by people and scripts: "1,2,3", "1 2 3" or a JSON array. */
#ifndef SLUICE_CLI_IDS_INPUT_H
#define SLUICE_CLI_IDS_INPUT_H

#include "runtime/sl.h"

struct ids_input {
    int32_t *ids; /* [count], free() */
    size_t count;
};

/* Numbers separated by white space or commas, optionally in square brackets. An empty list is
 * allowed. The message names the position of what cannot be read. */
SL_MUST_USE enum sl_status ids_input_parse(const char *text, size_t bytes, struct ids_input *out,
                                           struct sl_error *error);

/* From the text of --ids or, where that is NULL, from the file of --ids-file ("-": stdin). Exactly
 * one of them must be given. */
SL_MUST_USE enum sl_status ids_input_load(const char *text, const char *path, struct ids_input *out,
                                          struct sl_error *error);

/* SL_ERR_ARGUMENT names the first id that is not below `vocab`, or an empty list. */
SL_MUST_USE enum sl_status ids_input_check(const struct ids_input *input, int32_t vocab,
                                           struct sl_error *error);

void ids_input_deinit(struct ids_input *input);

#endif
