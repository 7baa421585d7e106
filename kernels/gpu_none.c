/* A build without GPU kernels. */
#include "kernels/gpu.h"

#ifndef SL_WITH_CUDA
enum sl_status gpu_open(struct gpu **out, struct sl_error *error)
{
    *out = NULL;
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "this program was built without GPU kernels");
}
#endif
