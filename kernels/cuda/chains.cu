/* What the machine code that runs on this device was compiled for: see launch.cuh, chained
 * launches. */
#include "kernels/cuda/launch.cuh"

static __global__ void chains_kernel(uint32_t *out)
{
    launch_chain();
    *out = LAUNCH_CHAINS;
}

extern "C" void stream_probe_chains(struct stream *stream, uint32_t *out)
{
    SL_LAUNCH(stream, chains_kernel, 1, 1, 0, out);
}
