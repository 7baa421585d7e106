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
#include "offload/topology.h"

#define CALIBRATION_VERSION        2
#define CALIBRATION_TEXT_BYTES     96
#define CALIBRATION_FILE_BYTES_MAX 16384
#define CALIBRATION_COUNTS         6                   /* token counts measured: 1 2 4 8 16 64 */
#define CALIBRATION_LINK_DEPTHS    5                   /* copies in flight: 1 2 4 8 16 */
#define CALIBRATION_SETS           7                   /* of lanes that were measured at once */
#define CALIBRATION_AGE_MAX_S      (400ll * 24 * 3600) /* older figures are stale */

extern const int32_t calibration_counts[CALIBRATION_COUNTS];

/* The lanes of each set, a bit 1 << enum rates_lane for each, and its name, "up+cpu". */
extern const struct calibration_set {
    uint32_t lanes;
    const char *name;
} calibration_sets[CALIBRATION_SETS];

/* What CPU and link did at once, bytes/s; 0 where one node, or no device, left no choice. */
struct calibration_placed {
    double cpu, up;
};

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
    /* Whole experts to the device and back by copies in flight, bytes/s; 0: no device. */
    double up_bytes_per_second[CALIBRATION_LINK_DEPTHS];
    double down_bytes_per_second[CALIBRATION_LINK_DEPTHS];
    double together[CALIBRATION_SETS][RATES_LANES]; /* bytes/s of each lane of a set; 0: not run */
    enum topology_spread spread; /* of RAM over nodes: the better of these, by the sum */
    struct calibration_placed in_turn, near; /* with RAM so placed */
    struct rates_profile rates;
};

/* This machine, with the drive of `path` and a device of that name (NULL: "none"), for kernels and
 * threads as given. */
void calibration_machine_here(const char *path, const char *device, const char *kernels,
                              int32_t threads, struct calibration_machine *out);

/* Rates for a run with the device or without: what the lanes that are left do at once is another
 * measurement. Lanes that were not measured are 0. */
void calibration_rates(const struct calibration *calibration, bool with_device,
                       struct rates_profile *out);

/* The file's text into out[CALIBRATION_FILE_BYTES_MAX], zero-terminated; its length. */
size_t calibration_format(const struct calibration *calibration, char *out);

/* SL_ERR_FORMAT: line and what is wrong with it; SL_ERR_CHECKSUM; SL_ERR_UNSUPPORTED: another
 * version. `name` for messages. */
SL_MUST_USE enum sl_status calibration_parse(const char *text, size_t bytes, const char *name,
                                             struct calibration *out, struct sl_error *error);

/* SL_ERR_UNSUPPORTED with the reason where `calibration` is no measurement of `here` with experts
 * of `expert_bytes` at the time `now_s`. One of the machine without its device, or with one that
 * is not used now, holds for the rest. */
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
