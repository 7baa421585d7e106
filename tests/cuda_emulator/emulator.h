/* What tests may ask of the emulator beyond CUDA's own calls. For C and C++. */
#ifndef SLUICE_TESTS_CUDA_EMULATOR_EMULATOR_H
#define SLUICE_TESTS_CUDA_EMULATOR_EMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One device is found, unless SLUICE_EMULATED_GPUS says otherwise, with 8 GiB: allocations beyond
 * fail. Between barriers a block's threads run forward, in reverse or shuffled, launch by launch in
 * turn: a kernel whose result depends on it has a race. */

/* The kernel launched after `launches` more ones fails, and with it, as on a device, everything
 * after; negative: never. cuda_emulator_revive ends the failure. */
void cuda_emulator_fail_after(int64_t launches);
void cuda_emulator_revive(void);

/* Whether cudaHostRegister and cudaHostAlloc succeed, and whether the driver's calls for waiting on
 * memory exist; all do unless set. */
void cuda_emulator_allow(bool pinning, bool wait_value);

/* Bytes of device memory and host registrations in use: zero after a clean end. */
size_t cuda_emulator_memory_used(void);
size_t cuda_emulator_registered(void);
/* Kernels that have run. */
uint64_t cuda_emulator_launches(void);

#ifdef __cplusplus
}
#endif
#endif
