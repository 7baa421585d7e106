/* Stands in for CUDA's header of the same name: the part of the runtime that this tree uses, on the
 * CPU. Blocks run one after another and every thread of a block is a fiber, so barriers and warp
 * exchanges behave; streams are threads with a queue, so host and device are really concurrent.
 * kernels/README.md says what the emulator finds and what it cannot. */
#ifndef SLUICE_TESTS_CUDA_EMULATOR_CUDA_RUNTIME_H
#define SLUICE_TESTS_CUDA_EMULATOR_CUDA_RUNTIME_H

#define SL_CUDA_EMULATOR 1

#include "tests/cuda_emulator/runtime_api.h"
#ifdef __cplusplus
#include "tests/cuda_emulator/device_code.h"
#endif

#endif
