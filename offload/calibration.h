/* What this machine was measured to do, kept in a file: rates of every lane at the real expert's
 * size, and what the machine was, so that figures of another machine, disk, version or expert size
 * are not taken for its own.
 *
 * The file is text, one "name value.." a line in a fixed order, closed by a checksum of all before
 * it; calibration_format shows it. A missing lane has rates of 0. Cold path, any thread, no memory
 * kept. */
#ifndef SLUICE_OFFLOAD_CALIBRATION_H
#define SLUICE_OFFLOAD_CALIBRATION_H

#include "offload/rates.h"

#define CALIBRATION_VERSION        1
#define CALIBRATION_TEXT_BYTES     96
#define CALIBRATION_FILE_BYTES_MAX 16384
#define CALIBRATION_COUNTS         6                   /* token counts measured: 1 2 4 8 16 64 */
#define CALIBRATION_AGE_MAX_S      (400ll * 24 * 3600) /* older figures are stale */

extern const int32_t calibration_counts[CALIBRATION_COUNTS];

/* Who measured; texts hold printable characters and no line break, "none" for what is not there. */
struct calibration_machine {
    char cpu[CALIBRATION_TEXT_BYTES];     /* model name of the processor */
    char kernels[CALIBRATION_TEXT_BYTES]; /* instruction set of the expert kernels */
    char disk[CALIBRATION_TEXT_BYTES];    /* the drive that holds the experts */
    char device[CALIBRATION_TEXT_BYTES];
    int32_t cores, nodes, threads; /* threads: that computed */
    uint64_t memory_bytes;
};

struct calibration {
    struct calibration_machine machine;
    int64_t measured_s;                   /* seconds since 1970 */
    double memory_bytes_per_second;       /* reading with all threads */
    double expert_ns[CALIBRATION_COUNTS]; /* one expert on the CPU, by tokens, in calls of six */
    struct rates_profile rates;
};

/* This machine, with the drive of `path` (NULL: "none"), for kernels and threads as given. */
void calibration_machine_here(const char *path, const char *kernels, int32_t threads,
                              struct calibration_machine *out);

/* The file's text into out[CALIBRATION_FILE_BYTES_MAX], zero-terminated; its length. */
size_t calibration_format(const struct calibration *calibration, char *out);

/* SL_ERR_FORMAT: line and what is wrong with it; SL_ERR_CHECKSUM; SL_ERR_UNSUPPORTED: another
 * version. `name` for messages. */
SL_MUST_USE enum sl_status calibration_parse(const char *text, size_t bytes, const char *name,
                                             struct calibration *out, struct sl_error *error);

/* SL_ERR_UNSUPPORTED with the reason where `calibration` is no measurement of `here` with experts
 * of `expert_bytes` at the time `now_s`. */
SL_MUST_USE enum sl_status calibration_check(const struct calibration *calibration,
                                             const struct calibration_machine *here,
                                             uint64_t expert_bytes, int64_t now_s, const char *name,
                                             struct sl_error *error);

/* Replaces the file as a whole; folders above it are made. SL_ERR_IO. */
SL_MUST_USE enum sl_status calibration_save(const struct calibration *calibration, const char *path,
                                            struct sl_error *error);
/* SL_ERR_ARGUMENT: there is no such file. */
SL_MUST_USE enum sl_status calibration_load(const char *path, struct calibration *out,
                                            struct sl_error *error);

/* $XDG_CACHE_HOME/sluice/machine or ~/.cache/sluice/machine; false when neither is known. */
bool calibration_default_path(char *out, size_t bytes);

#endif
