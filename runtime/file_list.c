/* Lists of packed files; see the header. */
#include "runtime/file_list.h"

#include <string.h>
#include <unistd.h>

static enum sl_status add_name(struct file_list *list, const char *name, struct sl_error *error)
{
    if (!*name)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "a name is missing: give file names with one comma between");
    for (int32_t i = 0; i < list->count; i++)
        if (strcmp(list->names[i], name) == 0)
            return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%s is named twice: name it once", name);
    if (list->count == MODEL_FILE_FILES_MAX)
        return sl_error_set(error, SL_ERR_LIMIT, 0,
                            "%s is one too many: at most %d files of packed experts", name,
                            MODEL_FILE_FILES_MAX);
    list->names[list->count++] = name;
    return SL_OK;
}

enum sl_status file_list_init(struct file_list *list, const char *text, struct sl_error *error)
{
    *list = (struct file_list){.text = strdup(text)};
    if (!list->text)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the file names %s", text);
    char *rest = list->text;
    enum sl_status status = SL_OK;
    bool is_one = access(text, F_OK) == 0;
    while (rest && status == SL_OK) {
        char *name = rest;
        char *comma = is_one ? NULL : strchr(rest, ',');
        rest = comma ? comma + 1 : NULL;
        if (comma) *comma = 0;
        status = add_name(list, name, error);
    }
    if (status != SL_OK) file_list_deinit(list);
    return status;
}

void file_list_deinit(struct file_list *list)
{
    free(list->text);
    *list = (struct file_list){0};
}

enum sl_status file_list_open(const struct file_list *list, bool want_direct,
                              struct model_file **out, struct sl_error *error)
{
    struct model_file *file = NULL, *next;
    SL_ASSERT(list->count > 0);
    *out = NULL;
    enum sl_status status = model_file_open(list->names[0], want_direct, &file, error);
    for (int32_t i = 1; i < list->count && status == SL_OK; i++) {
        status = model_file_open(list->names[i], want_direct, &next, error);
        if (status == SL_OK) status = model_file_join(file, next, error);
    }
    if (status == SL_OK) status = model_file_check_complete(file, error);
    if (status != SL_OK) {
        model_file_close(file);
        return status;
    }
    *out = file;
    return SL_OK;
}
