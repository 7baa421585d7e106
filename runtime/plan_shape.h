/* What sl_plan has to know of a model: how many experts of which size, and what else a token reads.
 */
#ifndef SLUICE_RUNTIME_PLAN_SHAPE_H
#define SLUICE_RUNTIME_PLAN_SHAPE_H

#include "runtime/sl.h"

struct plan_shape {
    int32_t layers, experts, top, hash_layers;
    uint64_t expert_bytes; /* of one, in a slot */
    uint64_t dense_bytes;  /* read by every token, the head included */
    double flop;           /* a token of a prompt: two for each weight that it uses */
    char name[64];
};

/* Of a published shape, or of options->model_dir's config.json; options->dense_bytes goes before
 * what is known. Fails where the name or the bytes that every token reads are not known. */
enum sl_status plan_shape_read(const struct sl_plan_options *options, struct plan_shape *out,
                               struct sl_error *error);

#endif
