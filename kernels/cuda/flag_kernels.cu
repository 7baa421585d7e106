/* Flags by kernels of one thread; see kernels/cuda/flags.h. */
#include "kernels/cuda/flags.h"
#include "kernels/cuda/launch.cuh"

#define LOOK_NS 200 /* between looks, so that the link is left to others */

static __global__ void post_kernel(uint32_t *flag, uint32_t value)
{
    __threadfence_system(); /* what kernels before have written is there first */
    *static_cast<volatile uint32_t *>(flag) = value;
}

static __global__ void await_kernel(const uint32_t *flag, uint32_t value)
{
    while (*static_cast<const volatile uint32_t *>(flag) < value)
        __nanosleep(LOOK_NS);
    __threadfence_system();
}

extern "C" void flags_post_by_kernel(struct stream *stream, uint32_t *flag, uint32_t value)
{
    SL_LAUNCH(stream, post_kernel, 1, 1, 0, flag, value);
}

extern "C" void flags_await_by_kernel(struct stream *stream, const uint32_t *flag, uint32_t value)
{
    SL_LAUNCH(stream, await_kernel, 1, 1, 0, flag, value);
}
