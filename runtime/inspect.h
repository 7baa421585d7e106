/* What sl_inspect finds out about a checkpoint, and the two forms in which it tells it.
 *
 * Cold path, the caller's thread. An inspection borrows from the model it was made of. */
#ifndef SLUICE_RUNTIME_INSPECT_H
#define SLUICE_RUNTIME_INSPECT_H

#include "offload/topology.h"
#include "runtime/budget.h"

enum inspect_part {
    INSPECT_EMBED,
    INSPECT_HEAD,
    INSPECT_ATTENTION,
    INSPECT_SHARED,
    INSPECT_ROUTER,
    INSPECT_NORMS, /* and hyper-connections */
    INSPECT_MTP,   /* what the MTP block has beside a layer */
    INSPECT_ROUTED,
    INSPECT_UNUSED, /* in the files, not loaded under these options */
    INSPECT_PARTS
};

struct inspect_sum {
    uint64_t tensors, bytes;
    uint64_t parameters; /* weights without block scales and index tables */
};

struct inspection {
    const char *directory;
    const char *packed_path; /* or a list; NULL: experts are read from the checkpoint */
    const struct model *model;
    struct budget budget;
    struct inspect_sum sums[INSPECT_PARTS];
    int32_t layers_windowed, layers_ratio_4, layers_ratio_128; /* main layers by kind */
    size_t slot_bytes;
    struct topology topology;
    int32_t threads; /* that would compute */
};

/* The report as aligned text or as JSON, in heap memory; NULL when memory ran out. */
char *inspect_text(const struct inspection *inspection);
char *inspect_json(const struct inspection *inspection);

#endif
