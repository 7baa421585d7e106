/* What a random checkpoint consists of: its configuration, and for every tensor name, shape, dtype,
 * the distribution of its values and its place in a shard.
 *
 * Plain data in the caller's struct; pure functions, any thread. */
#ifndef SLUICE_RUNTIME_SYNTH_PLAN_H
#define SLUICE_RUNTIME_SYNTH_PLAN_H

#include "runtime/model_config.h"

#define SYNTH_NAME_BYTES_MAX 64
#define SYNTH_LAYERS_MAX     (MODEL_LAYERS_MAX - 16)

enum synth_fill {
    SYNTH_NORMAL,       /* f32 or bf16: mean + deviation * normal */
    SYNTH_CODES_FP8,    /* e4m3 codes of a normal of deviation SYNTH_FP8_DEVIATION */
    SYNTH_CODES_FP4,    /* pairs of e2m1 codes, all equally likely */
    SYNTH_SCALES,       /* e8m0, two neighbouring powers of two with mean square deviation^2 */
    SYNTH_TOKEN_EXPERTS /* i64 rows of distinct numbers below `experts` */
};

#define SYNTH_FP8_DEVIATION 64.0f     /* of the codes' values: 448 is 7 deviations */
#define SYNTH_FP4_DEVIATION 2.926175f /* root mean square of the sixteen e2m1 values */

struct synth_tensor {
    char name[SYNTH_NAME_BYTES_MAX];
    enum dtype dtype;
    enum synth_fill fill;
    int32_t rank; /* 1 or 2 */
    int64_t shape[2];
    float mean, deviation;
    uint64_t bytes, offset_bytes; /* in the shard's data */
    int32_t shard;
};

struct synth_plan {
    const char *preset;
    struct model_config config;
    struct synth_tensor *tensors; /* in the order of the files */
    size_t count, room;
    int32_t shard_count;
    uint64_t shard_bytes_max; /* of data, unless one tensor alone is larger */
    uint64_t total_bytes;     /* of data */
};

/* Plans a preset ("tiny", "small", "flash") with `layers` main layers (0: its own count) and an MTP
 * block. SL_ERR_ARGUMENT for an unknown preset or a count beyond SYNTH_LAYERS_MAX. */
SL_MUST_USE enum sl_status synth_plan_init(struct synth_plan *plan, const char *preset,
                                           int32_t layers, struct sl_error *error);
void synth_plan_deinit(struct synth_plan *plan);

#endif
