/* A directory that a random checkpoint is written into: whose it is, names while writing, and
 * taking everything back.
 *
 * Files get a temporary name and are renamed when all are whole, config.json last, so that no half
 * checkpoint opens. A marker says that the directory is being written; with it, or with the mark in
 * config.json, a directory is ours to overwrite, otherwise only when empty. One thread. */
#ifndef SLUICE_RUNTIME_SYNTH_FILES_H
#define SLUICE_RUNTIME_SYNTH_FILES_H

#include "kernels/base.h"

/* Key in config.json that marks a checkpoint as synthetic. */
#define SYNTH_MARK "sluice_synthetic"

struct synth_file {
    char *path, *temporary;
    bool renamed;
};

struct synth_files {
    char *directory;
    struct synth_file *files;
    int32_t count;
    uint64_t written_bytes; /* to the file created last */
    bool made_directory, placed_marker;
};

/* Takes the directory (made if absent) and removes an older checkpoint of ours from it. Refuses
 * with SL_ERR_ARGUMENT when it holds anything else, with SL_ERR_IO when fewer than `bytes` are free
 * on its file system. */
SL_MUST_USE enum sl_status synth_files_begin(struct synth_files *files, const char *directory,
                                             uint64_t bytes, struct sl_error *error);

/* Creates a file under its temporary name; `*fd` is the caller's to hand to synth_files_close. One
 * file at a time is written, from its start. */
SL_MUST_USE enum sl_status synth_files_create(struct synth_files *files, const char *name, int *fd,
                                              struct sl_error *error);
SL_MUST_USE enum sl_status synth_files_write(struct synth_files *files, int fd, const void *data,
                                             size_t bytes, struct sl_error *error);
/* Flushes to disk and closes, in any case. */
SL_MUST_USE enum sl_status synth_files_close(const struct synth_files *files, int fd,
                                             struct sl_error *error);

/* Gives all files their names, in the order they were created. */
SL_MUST_USE enum sl_status synth_files_finish(struct synth_files *files, struct sl_error *error);

/* Frees; when `keep` is false also removes every file created, and the directory if made here. */
void synth_files_deinit(struct synth_files *files, bool keep);

#endif
