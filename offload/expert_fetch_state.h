/* The inside of a fetcher, shared by its files alone; see expert_fetch.h.
 *
 *   expert_fetch_setup.c  creation: disks, staging, regions, the door
 *   expert_fetch.c        reads, retries, placing and checksums */
#ifndef SLUICE_OFFLOAD_EXPERT_FETCH_STATE_H
#define SLUICE_OFFLOAD_EXPERT_FETCH_STATE_H

#include "offload/expert_fetch.h"
#include "offload/expert_plan.h"

#define DESCRIPTION_BYTES_MAX 320

struct expert_fetch {
    int32_t expert_idx, slot, disk;
    int32_t reads_pending; /* prepared or in flight */
    bool active;
    enum sl_status status; /* of the first read that failed */
    struct expert_plan plan;
    struct io_read reads[EXPERT_SEGMENTS_MAX];
    int32_t retries[EXPERT_SEGMENTS_MAX]; /* transient failures in a row */
    struct expert_fetch *next;            /* among the free, or among the finished */
};

struct expert_fetcher {
    const struct expert_source *source;
    uint8_t *slots;
    int32_t slot_count;
    bool straight;
    uint8_t *staging;         /* [depth, staging_bytes], or NULL when straight */
    size_t staging_bytes;     /* of one fetch */
    struct iovec *regions;    /* the memory that reads land in: slots when straight, else staging */
    int32_t items_per_region; /* whole slots, or whole stagings */
    struct io *io;
    int32_t depth, io_depth;
    int32_t reads_max;            /* of any expert */
    int32_t disk_depth;           /* fetches at once from one disk */
    int32_t *disk_of;             /* [source->file_count] */
    int32_t *disk_active;         /* [source->file_count]: fetches of each disk */
    struct expert_fetch *fetches; /* [depth] */
    struct expert_fetch *free, *finished;
    int32_t active;
    int32_t reads_pending; /* of all fetches */
    struct io_read *batch[IO_DEPTH_MAX];
    int32_t batch_count;
    bool broken; /* the door failed as a whole */
    uint64_t bytes_read, reads, retries, failures;
    char last_failure[SL_ERROR_MESSAGE_BYTES_MAX];
    char description[DESCRIPTION_BYTES_MAX];
};

#endif
