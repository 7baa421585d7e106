/* One block at a time: its threads as fibers, its barriers, its warps' exchanges.
 *
 * All of it belongs to the OS thread that holds the kernel lock (see streams.cpp). A barrier that
 * some threads never reach, or a warp exchange that a lane of the mask never joins, ends the
 * program with the place of every waiting thread. */
#ifndef SLUICE_TESTS_CUDA_EMULATOR_BLOCK_H
#define SLUICE_TESTS_CUDA_EMULATOR_BLOCK_H

#include "tests/cuda_emulator/vector_types.h"

#include <cstddef>
#include <functional>

/* What one lane shows the others in an exchange. */
struct cuda_emulator_words {
    uint32_t word[2];
};

struct cuda_emulator_thread {
    uint3 thread_idx;
    unsigned linear; /* x + y * Dx + z * Dx * Dy */
};

struct cuda_emulator_grid {
    uint3 block_idx;
    dim3 block_dim, grid_dim;
};

/* The thread and the block that run now. */
extern cuda_emulator_thread *cuda_emulator_self;
extern cuda_emulator_grid cuda_emulator_where;

/* Runs every block of a grid. `name` is for messages. */
void cuda_emulator_run_grid(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                            const std::function<void()> &body);

/* Dynamic shared memory of the running block, filled with 0xff before each block. */
void *cuda_emulator_shared();

/* __syncthreads with the number of threads whose predicate holds. */
int cuda_emulator_barrier(bool predicate, const char *what);

/* All lanes of `mask` meet; returns what each of the 32 lanes showed, valid until the calling
 * lane's next exchange. */
const cuda_emulator_words *cuda_emulator_exchange(unsigned mask, const cuda_emulator_words &mine,
                                                  const char *what);

/* Lets other threads of the block run: for loops that wait for them. */
void cuda_emulator_yield();

/* The calling thread has waited for the kernel before (kernels/cuda/launch.cuh); one that ends
 * without ends the program. */
void cuda_emulator_awaited();

/* Ends the program: "cuda emulator: kernel <name>, block (..), thread (..): <text>". */
[[noreturn]] void cuda_emulator_die(const char *text);

#endif
