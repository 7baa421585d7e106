/* A processor with memory of its own, as the runtime sees it: its table of ops, the stream they run
 * on, its memory, and recordings of launches. Made by its implementation (kernels/cuda/gpu.c; in
 * tests a simulated one), used by the engine's thread, destroyed after all that lies in its memory.
 *
 * Ops and copies are done in the order they are launched, after the calls have returned; sync waits
 * for them. A fault of the device is latched: everything later does nothing, and sync says so. */
#ifndef SLUICE_KERNELS_GPU_H
#define SLUICE_KERNELS_GPU_H

#include "kernels/device.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum gpu_memory {
    GPU_DEVICE, /* the device's: an address for ops and copies, which the host must not follow */
    GPU_MAPPED, /* RAM that both see under one address, and that is pinned */
};

#define GPU_PIECES_MAX 4
/* A copy that goes with a flag; the flag and one side of it are mapped memory. */
struct gpu_piece {
    void *target;
    const void *source;
    size_t bytes; /* a multiple of 4, as are the addresses */
};

struct gpu;
struct gpu_graph; /* launches recorded once, to be repeated */

struct gpu_ops {
    /* Aligned to 256 bytes; device memory holds anything, mapped memory zeros. SL_ERR_NO_MEMORY
     * with what was left. */
    enum sl_status (*alloc)(struct gpu *gpu, enum gpu_memory kind, size_t bytes, void **out,
                            struct sl_error *error);
    void (*free)(struct gpu *gpu, enum gpu_memory kind, void *memory); /* NULL is fine */
    /* Launches a copy between any two of device and mapped memory. */
    void (*copy)(struct gpu *gpu, void *target, const void *source, size_t bytes);
    /* Launches copies of `pieces` into mapped memory and then `*flag = value`, which a host that
     * reads it (acquire) may take as a sign that the pieces, and all launched before, are there. */
    void (*publish)(struct gpu *gpu, const struct gpu_piece *pieces, int32_t count, uint32_t *flag,
                    uint32_t value);
    /* Launches a wait, on the device and in its own order, until `*flag >= value`, and then copies
     * of `pieces` out of mapped memory, which the host has filled before it set the flag (release).
     * A wait that is never met never ends. */
    void (*take)(struct gpu *gpu, const uint32_t *flag, uint32_t value,
                 const struct gpu_piece *pieces, int32_t count);
    /* Waits for all that was launched. SL_ERR_IO after a fault, with a sentence on the first. */
    enum sl_status (*sync)(struct gpu *gpu, struct sl_error *error);
    /* Whether all that was launched has ended, or a fault has. Never blocks. */
    bool (*is_idle)(struct gpu *gpu);
    /* Free device memory now, bytes. */
    uint64_t (*free_bytes)(struct gpu *gpu);

    /* From here on ops and copies are recorded and not done; NULL: cannot be had. */
    enum sl_status (*record)(struct gpu *gpu, struct sl_error *error);
    /* Ends the recording. `*out` is destroyed by graph_destroy. On failure nothing is left of it; a
     * second try may go better. */
    enum sl_status (*record_end)(struct gpu *gpu, struct gpu_graph **out, struct sl_error *error);
    void (*graph_launch)(struct gpu *gpu, struct gpu_graph *graph);
    void (*graph_destroy)(struct gpu *gpu, struct gpu_graph *graph); /* NULL is fine */

    /* While set, who launches tells by itself when slots are read no more, and the device's fences
     * are 0: copies wait for nothing that was launched, and no host memory is pinned. */
    void (*set_fenceless)(struct gpu *gpu, bool fenceless);
    /* While set, what is launched is not done: its kernels are loaded, no more. A kernel's first
     * launch may wait for all that the device has begun, and that may wait for the host. NULL:
     * nothing need be loaded. */
    void (*set_loading)(struct gpu *gpu, bool loading);

    /* "NVIDIA H100 80GB HBM3, sm_90, 79.1 of 79.6 GiB free"; the gpu's. */
    const char *(*describe)(const struct gpu *gpu);
    void (*destroy)(struct gpu *gpu);
};

/* Every implementation starts with this. */
struct gpu {
    const struct gpu_ops *gpu_ops;
    const struct ops *ops;
    struct stream *stream;
    struct device *device; /* its copy lanes, for the expert store; destroyed with the gpu */
    char name[96];         /* "NVIDIA H100 80GB HBM3", the same at every start */
    char pci[16];          /* its address, "0000:65:00.0"; "": on no bus */
};

/* The first usable device of this machine. SL_ERR_UNSUPPORTED with a sentence when there is none,
 * or when this build has no kernels for it. */
SL_MUST_USE enum sl_status gpu_open(struct gpu **out, struct sl_error *error);

#ifdef __cplusplus
}
#endif
#endif
