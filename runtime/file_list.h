/* Names of several packed files in one option: "FILE" or "FILE,FILE...".
 *
 * The list is the caller's memory and owns its copy of the names. */
#ifndef SLUICE_RUNTIME_FILE_LIST_H
#define SLUICE_RUNTIME_FILE_LIST_H

#include "offload/model_file.h"

struct file_list {
    char *text; /* cut up */
    const char *names[MODEL_FILE_FILES_MAX];
    int32_t count;
};

/* Cuts `text` at its commas, unless a file of that whole name exists. SL_ERR_ARGUMENT: an empty
 * name, or one that is there twice; SL_ERR_LIMIT: too many; SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status file_list_init(struct file_list *list, const char *text,
                                          struct sl_error *error);
void file_list_deinit(struct file_list *list); /* of zeros is fine */

/* Opens the named files as copies of one packed file or as all parts of one set. `*out` is the
 * caller's to close. Statuses of model_file_open, model_file_join, model_file_check_complete. */
SL_MUST_USE enum sl_status file_list_open(const struct file_list *list, bool want_direct,
                                          struct model_file **out, struct sl_error *error);

#endif
