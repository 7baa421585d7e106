/* Complete files only; see the header. */
#include "runtime/cli/output_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static enum sl_status failed(const struct output_file *output, struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_IO, errno, "cannot write %s: %s", output->path,
                        strerror(errno));
}

/* True for what a rename over it would destroy. */
static bool is_special(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && !S_ISREG(status.st_mode);
}

enum sl_status output_file_open(struct output_file *output, const char *path,
                                struct sl_error *error)
{
    *output = (struct output_file){.path = path, .file = stdout};
    if (strcmp(path, "-") == 0) return SL_OK;
    if (!is_special(path) && asprintf(&output->temporary, "%s.tmp", path) < 0) {
        output->temporary = NULL;
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a file name");
    }
    output->file = fopen(output->temporary ? output->temporary : path, "wb");
    if (output->file) return SL_OK;
    enum sl_status status = failed(output, error);
    free(output->temporary);
    return status;
}

enum sl_status output_file_write(struct output_file *output, const void *data, size_t bytes,
                                 struct sl_error *error)
{
    return fwrite(data, 1, bytes, output->file) == bytes ? SL_OK : failed(output, error);
}

enum sl_status output_file_commit(struct output_file *output, struct sl_error *error)
{
    enum sl_status status = SL_OK;
    int closed = output->file == stdout ? fflush(stdout) : fclose(output->file);
    if (closed != 0 || (output->temporary && rename(output->temporary, output->path) != 0))
        status = failed(output, error);
    if (status != SL_OK && output->temporary) remove(output->temporary);
    free(output->temporary);
    return status;
}

void output_file_discard(struct output_file *output)
{
    if (output->file != stdout) fclose(output->file);
    if (output->temporary) remove(output->temporary);
    free(output->temporary);
}
