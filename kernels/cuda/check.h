/* CUDA's results as ours: a status, and a sentence that says what was being done. */
#ifndef SLUICE_KERNELS_CUDA_CHECK_H
#define SLUICE_KERNELS_CUDA_CHECK_H

#include "kernels/base.h"

#include <cuda_runtime.h>

/* SL_OK for cudaSuccess; else `error` (or NULL) says "<what>: <CUDA's text> (<its name>)". */
static inline enum sl_status cuda_check(cudaError_t code, const char *what, struct sl_error *error)
{
    enum sl_status status = SL_ERR_IO;
    if (code == cudaSuccess) return SL_OK;
    (void)cudaGetLastError(); /* a refused call is no fault of the next one */
    if (code == cudaErrorMemoryAllocation) status = SL_ERR_NO_MEMORY;
    if (code == cudaErrorInvalidValue) status = SL_ERR_ARGUMENT;
    if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver ||
        code == cudaErrorNotSupported || code == cudaErrorInvalidDevice ||
        code == cudaErrorNoKernelImageForDevice || code == cudaErrorUnsupportedPtxVersion)
        status = SL_ERR_UNSUPPORTED;
    return sl_error_set(error, status, 0, "%s: %s (%s)", what, cudaGetErrorString(code),
                        cudaGetErrorName(code));
}

/* Forwards a failed CUDA call; only where nothing is held yet. */
#define CUDA_TRY(call, what, error) SL_TRY(cuda_check((call), (what), (error)))

#endif
