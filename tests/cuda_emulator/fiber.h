/* Fibers: stacks that one OS thread switches between. */
#ifndef SLUICE_TESTS_CUDA_EMULATOR_FIBER_H
#define SLUICE_TESTS_CUDA_EMULATOR_FIBER_H

#include <cstddef>

#define FIBER_STACK_BYTES ((size_t)256 << 10)
#define FIBERS_MAX        1024

/* Prepares fiber `idx` to run entry(idx); entry must end in fiber_leave and never return. */
void fiber_prepare(int idx, void (*entry)(int));

/* Runs fiber `idx` until it leaves. From outside the fibers only. */
void fiber_enter(int idx);

/* Back to fiber_enter's caller; returns when the fiber is entered again. `last` promises that it
 * never is. */
void fiber_leave(bool last);

#endif
