/* Blocks, barriers and warp exchanges over fibers. */
#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/cuda_emulator/fiber.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define LANES 32

cuda_emulator_thread *cuda_emulator_self;
cuda_emulator_grid cuda_emulator_where;

namespace
{
/* A warp's meeting point, named by the lowest lane of its mask: disjoint masks never share one.
 * What lanes show alternates between two rows, since a lane can be one meeting ahead at most. */
struct meeting {
    unsigned mask;
    unsigned arrived;
    uint64_t generation;
    cuda_emulator_words shown[2][LANES];
};

struct warp {
    meeting meetings[LANES];
};

struct thread_state {
    cuda_emulator_thread thread;
    const uint64_t *waits_for; /* runs again once this differs from seen */
    uint64_t seen;
    const char *what;
    bool done;
    bool awaited; /* the kernel before */
    bool yielded; /* has let others run in this sweep */
};

const char *kernel_name = "";
const std::function<void()> *kernel_body;
std::vector<thread_state> threads;
std::vector<warp> warps;
void *shared_memory;
struct {
    unsigned arrived, holding;
    uint64_t generation;
    int result[2];
} barrier;
enum { FORWARD, REVERSE, SHUFFLED, ORDERS };
unsigned order = FORWARD; /* of the running grid */
unsigned grids;
uint64_t order_state = 1;

thread_state &self()
{
    return threads[cuda_emulator_self->linear];
}

void run_fiber(int idx)
{
    (*kernel_body)();
    if (!threads[(size_t)idx].awaited)
        cuda_emulator_die("a thread ends that has not called launch_await");
    threads[(size_t)idx].done = true;
    fiber_leave(true);
}

void wait_until_changed(const uint64_t *generation, uint64_t seen, const char *what)
{
    thread_state &state = self();
    state.waits_for = generation;
    state.seen = seen;
    state.what = what;
    fiber_leave(false);
    state.waits_for = nullptr;
}

void print_place(const uint3 &thread)
{
    const uint3 &block = cuda_emulator_where.block_idx;
    fprintf(stderr, "cuda emulator: kernel %s, block (%u, %u, %u), thread (%u, %u, %u)",
            kernel_name, block.x, block.y, block.z, thread.x, thread.y, thread.z);
}

[[noreturn]] void die_of_deadlock()
{
    int printed = 0;
    for (const thread_state &state : threads) {
        if (state.done || printed++ >= 8) continue;
        print_place(state.thread.thread_idx);
        fprintf(stderr, " waits in %s for threads that never come\n", state.what);
    }
    size_t finished = 0;
    for (const thread_state &state : threads)
        finished += state.done;
    fprintf(stderr, "cuda emulator: %zu of the block's %zu threads have ended\n", finished,
            threads.size());
    abort();
}

/* What comes i-th of `count`. */
size_t in_order(size_t i, size_t count, size_t offset)
{
    if (order == REVERSE) return count - 1 - i;
    if (order == SHUFFLED) return (i * 7919 + offset) % count;
    return i;
}

/* Runs the threads of a warp until all of them wait for others; returns how many ended. Warp by
 * warp, so that the stacks in use stay in the cache. */
size_t run_warp(size_t warp, size_t offset, bool *progress)
{
    size_t first = warp * LANES;
    size_t count = std::min<size_t>(LANES, threads.size() - first);
    size_t ended = 0;
    bool moved = true;
    while (moved) {
        moved = false;
        for (size_t i = 0; i < count; i++) {
            thread_state &state = threads[first + in_order(i, count, offset)];
            if (state.done || state.yielded) continue;
            if (state.waits_for && *state.waits_for == state.seen) continue;
            cuda_emulator_self = &state.thread;
            fiber_enter((int)state.thread.linear);
            moved = *progress = true;
            ended += state.done;
        }
    }
    for (size_t i = 0; i < count; i++)
        threads[first + i].yielded = false;
    return ended;
}

void run_block()
{
    size_t left = threads.size();
    memset(&barrier, 0, sizeof barrier);
    for (warp &one : warps)
        for (meeting &each : one.meetings)
            each.arrived = each.mask = 0;
    for (size_t i = 0; i < threads.size(); i++) {
        threads[i].done = threads[i].yielded = threads[i].awaited = false;
        threads[i].waits_for = nullptr;
        fiber_prepare((int)i, run_fiber);
    }
    while (left > 0) {
        bool progress = false;
        order_state = order_state * 6364136223846793005ull + 1442695040888963407ull;
        size_t offset = (size_t)(order_state >> 40);
        for (size_t i = 0; i < warps.size(); i++)
            left -= run_warp(in_order(i, warps.size(), offset), offset, &progress);
        if (!progress) die_of_deadlock();
    }
    cuda_emulator_self = nullptr;
}

void make_threads(dim3 block)
{
    size_t count = (size_t)block.x * block.y * block.z;
    threads.assign(count, thread_state{});
    warps.resize((count + LANES - 1) / LANES);
    for (size_t i = 0; i < count; i++) {
        threads[i].thread.linear = (unsigned)i;
        threads[i].thread.thread_idx = {(unsigned)(i % block.x), (unsigned)(i / block.x % block.y),
                                        (unsigned)(i / block.x / block.y)};
    }
}
} // namespace

void cuda_emulator_run_grid(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                            const std::function<void()> &body)
{
    kernel_name = name;
    kernel_body = &body;
    order = grids++ % ORDERS;
    make_threads(block);
    cuda_emulator_where.block_dim = block;
    cuda_emulator_where.grid_dim = grid;
    size_t padded = (shared_bytes + 127) / 128 * 128 + 128;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                /* Of its own for each block and as long as asked for, so that sanitizers see
                 * every byte beyond. */
                unsigned char *memory = static_cast<unsigned char *>(malloc(padded));
                if (!memory) cuda_emulator_die("out of memory");
                shared_memory = memory + padded - (shared_bytes + 127) / 128 * 128;
                shared_memory = reinterpret_cast<void *>(
                    reinterpret_cast<uintptr_t>(shared_memory) / 128 * 128);
                memset(shared_memory, 0xff, shared_bytes);
                cuda_emulator_where.block_idx = {x, y, z};
                run_block();
                free(memory);
            }
    shared_memory = nullptr;
}

void *cuda_emulator_shared()
{
    return shared_memory;
}

int cuda_emulator_barrier(bool predicate, const char *what)
{
    uint64_t mine = barrier.generation;
    barrier.holding += predicate;
    if (++barrier.arrived == threads.size()) {
        barrier.result[mine & 1] = (int)barrier.holding;
        barrier.arrived = barrier.holding = 0;
        barrier.generation++;
    } else {
        wait_until_changed(&barrier.generation, mine, what);
    }
    return barrier.result[mine & 1];
}

const cuda_emulator_words *cuda_emulator_exchange(unsigned mask, const cuda_emulator_words &mine,
                                                  const char *what)
{
    unsigned linear = cuda_emulator_self->linear;
    unsigned lane = linear % LANES;
    if (!(mask >> lane & 1)) cuda_emulator_die("a lane calls a warp function it is not in");
    meeting &at = warps[linear / LANES].meetings[__builtin_ctz(mask)];
    if (at.arrived == 0) at.mask = mask;
    if (at.mask != mask) cuda_emulator_die("lanes of a warp meet with different masks");
    uint64_t generation = at.generation;
    cuda_emulator_words *shown = at.shown[generation & 1];
    shown[lane] = mine;
    at.arrived |= 1u << lane;
    if (at.arrived == mask) {
        at.arrived = 0;
        at.generation++;
    } else {
        wait_until_changed(&at.generation, generation, what);
    }
    return shown;
}

void cuda_emulator_awaited()
{
    self().awaited = true;
}

void cuda_emulator_yield()
{
    self().yielded = true;
    fiber_leave(false);
}

void cuda_emulator_die(const char *text)
{
    if (cuda_emulator_self)
        print_place(cuda_emulator_self->thread_idx);
    else
        fprintf(stderr, "cuda emulator: kernel %s", kernel_name);
    fprintf(stderr, ": %s\n", text);
    abort();
}
