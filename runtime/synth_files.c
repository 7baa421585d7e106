/* Temporary names, ownership of the directory, and undoing; see the header. */
#include "runtime/synth_files.h"
#include "offload/file_range.h"
#include "runtime/text_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MARKER_NAME      "sluice-synth.part"
#define CONFIG_NAME      "config.json"
#define PART_SUFFIX      ".part"
#define CONFIG_BYTES_MAX (16u << 20)

static enum sl_status no_memory(struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the names of files");
}

static char *join(const char *directory, const char *name, const char *suffix)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s%s", directory, name, suffix) < 0 ? NULL : path;
}

static enum sl_status write_failed(const struct synth_files *files, int os_errno,
                                   struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_IO, os_errno, "cannot write into %s: %s%s", files->directory,
                        strerror(os_errno),
                        os_errno == ENOSPC ? ": free some space or choose a smaller preset" : "");
}

/* ---- whose directory ---------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *suffix)
{
    size_t name_bytes = strlen(name), suffix_bytes = strlen(suffix);
    return name_bytes >= suffix_bytes && strcmp(name + name_bytes - suffix_bytes, suffix) == 0;
}

/* Names that a checkpoint of ours consists of, while written or whole. */
static bool is_our_name(const char *name)
{
    static const char *const names[] = {CONFIG_NAME, "generation_config.json", "tokenizer.json",
                                        "model.safetensors.index.json"};
    if (strncmp(name, "model-", 6) == 0 &&
        (ends_with(name, ".safetensors") || ends_with(name, ".safetensors" PART_SUFFIX)))
        return true;
    for (size_t i = 0; i < SL_COUNT_OF(names); i++) {
        size_t bytes = strlen(names[i]);
        if (strncmp(name, names[i], bytes) == 0 &&
            (name[bytes] == 0 || strcmp(name + bytes, PART_SUFFIX) == 0))
            return true;
    }
    return false;
}

static bool is_marked(const char *directory)
{
    char *marker = join(directory, MARKER_NAME, "");
    char *config = join(directory, CONFIG_NAME, "");
    char *text = NULL;
    size_t bytes = 0;
    bool marked = marker && access(marker, F_OK) == 0;
    if (!marked && config &&
        text_file_read(config, CONFIG_BYTES_MAX, &text, &bytes, NULL) == SL_OK) {
        json_t *root = json_loadb(text, bytes, 0, NULL);
        marked = json_object_get(root, SYNTH_MARK) != NULL;
        json_decref(root);
    }
    free(text);
    free(config);
    free(marker);
    return marked;
}

/* Calls for every entry but . and ..; stops early when `visit` returns false. */
static enum sl_status each_entry(const char *directory, bool (*visit)(int fd, const char *name),
                                 bool *all, struct sl_error *error)
{
    DIR *stream = opendir(directory);
    const struct dirent *entry;
    *all = true;
    if (!stream)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot open %s: %s", directory,
                            strerror(errno));
    while (*all && (entry = readdir(stream)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            *all = visit(dirfd(stream), entry->d_name);
    closedir(stream);
    return SL_OK;
}

static bool refuse_entry(int fd, const char *name)
{
    (void)fd, (void)name;
    return false;
}

static bool remove_our_entry(int fd, const char *name)
{
    return !is_our_name(name) || unlinkat(fd, name, 0) == 0;
}

/* ---- begin -------------------------------------------------------------------------------- */

static enum sl_status place_marker(struct synth_files *files, struct sl_error *error)
{
    char *marker = join(files->directory, MARKER_NAME, "");
    if (!marker) return no_memory(error);
    int fd = open(marker, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    int os_errno = errno;
    free(marker);
    if (fd < 0) return write_failed(files, os_errno, error);
    close(fd);
    files->placed_marker = true;
    return SL_OK;
}

static enum sl_status take_directory(struct synth_files *files, struct sl_error *error)
{
    bool empty = true, removed = true;
    if (mkdir(files->directory, 0777) == 0) {
        files->made_directory = true;
    } else if (errno != EEXIST) {
        return sl_error_set(error, SL_ERR_IO, errno, "cannot make the directory %s: %s",
                            files->directory, strerror(errno));
    }
    SL_TRY(each_entry(files->directory, refuse_entry, &empty, error));
    if (!empty && !is_marked(files->directory))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "%s: expected an empty directory or a synthetic checkpoint, found "
                            "other files: choose another directory",
                            files->directory);
    /* Before anything goes: a run killed from here on leaves a directory that is known as ours. */
    SL_TRY(place_marker(files, error));
    if (empty) return SL_OK;
    /* The configuration goes first: from then on nothing opens. */
    char *config = join(files->directory, CONFIG_NAME, "");
    if (!config) return no_memory(error);
    (void)unlink(config);
    free(config);
    SL_TRY(each_entry(files->directory, remove_our_entry, &removed, error));
    return removed ? SL_OK : write_failed(files, errno, error);
}

static enum sl_status check_space(const struct synth_files *files, uint64_t bytes,
                                  struct sl_error *error)
{
    struct statvfs system;
    if (statvfs(files->directory, &system) != 0) return write_failed(files, errno, error);
    uint64_t available = (uint64_t)system.f_bavail * system.f_frsize;
    if (available >= bytes) return SL_OK;
    return sl_error_set(error, SL_ERR_IO, ENOSPC,
                        "%s: expected %.1f MB of free space for the checkpoint, found %.1f MB",
                        files->directory, (double)bytes / 1e6, (double)available / 1e6);
}

static void remove_marker(const struct synth_files *files)
{
    char *marker = join(files->directory, MARKER_NAME, "");
    if (marker) (void)unlink(marker);
    free(marker);
}

enum sl_status synth_files_begin(struct synth_files *files, const char *directory, uint64_t bytes,
                                 struct sl_error *error)
{
    SL_ASSERT(files && directory);
    memset(files, 0, sizeof *files);
    files->directory = strdup(directory);
    if (!files->directory) return no_memory(error);
    enum sl_status status = take_directory(files, error);
    if (status == SL_OK) status = check_space(files, bytes, error);
    if (status != SL_OK) synth_files_deinit(files, false);
    return status;
}

/* ---- files -------------------------------------------------------------------------------- */

enum sl_status synth_files_create(struct synth_files *files, const char *name, int *fd,
                                  struct sl_error *error)
{
    SL_ASSERT(is_our_name(name));
    struct synth_file *grown =
        realloc(files->files, (size_t)(files->count + 1) * sizeof *files->files);
    if (!grown) return no_memory(error);
    files->files = grown;
    struct synth_file *file = &files->files[files->count];
    *file = (struct synth_file){join(files->directory, name, ""),
                                join(files->directory, name, PART_SUFFIX), false};
    files->count++;
    if (!file->path || !file->temporary) return no_memory(error);
    files->written_bytes = 0;
    *fd = open(file->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    return *fd < 0 ? write_failed(files, errno, error) : SL_OK;
}

enum sl_status synth_files_write(struct synth_files *files, int fd, const void *data, size_t bytes,
                                 struct sl_error *error)
{
    int failure = file_range_write(fd, data, bytes, files->written_bytes);
    if (failure != 0) return write_failed(files, -failure, error);
    files->written_bytes += bytes;
    return SL_OK;
}

enum sl_status synth_files_close(const struct synth_files *files, int fd, struct sl_error *error)
{
    int flushed = fsync(fd) == 0 ? 0 : errno;
    int closed = close(fd) == 0 ? 0 : errno;
    if (flushed || closed) return write_failed(files, flushed ? flushed : closed, error);
    return SL_OK;
}

enum sl_status synth_files_finish(struct synth_files *files, struct sl_error *error)
{
    for (int32_t i = 0; i < files->count; i++) {
        struct synth_file *file = &files->files[i];
        SL_ASSERT(file->path && file->temporary && !file->renamed);
        if (rename(file->temporary, file->path) != 0) return write_failed(files, errno, error);
        file->renamed = true;
    }
    return SL_OK;
}

void synth_files_deinit(struct synth_files *files, bool keep)
{
    if (!files->directory) return;
    /* Backwards: the configuration, made last, is the first to go. */
    for (int32_t i = files->count - 1; i >= 0; i--) {
        struct synth_file *file = &files->files[i];
        const char *present = file->renamed ? file->path : file->temporary;
        if (!keep && present) (void)unlink(present);
        free(file->path);
        free(file->temporary);
    }
    if (files->placed_marker) remove_marker(files);
    if (!keep && files->made_directory) (void)rmdir(files->directory);
    free(files->files);
    free(files->directory);
    memset(files, 0, sizeof *files);
}
