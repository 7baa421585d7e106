/* Fibers. On x86-64 a switch is a few pushes and pops; elsewhere it is ucontext's. */
#include "tests/cuda_emulator/fiber.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#include <sanitizer/common_interface_defs.h>
#endif

namespace
{
unsigned char *stacks; /* FIBERS_MAX of FIBER_STACK_BYTES, made once and kept */
void (*entries[FIBERS_MAX])(int);
int current = -1;

#ifdef __x86_64__
void *stack_pointers[FIBERS_MAX];
void *outside;
extern "C" void cuda_emulator_switch(void **save, void *load);
asm(R"(
.text
.globl cuda_emulator_switch
.type cuda_emulator_switch, @function
cuda_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_emulator_switch, .-cuda_emulator_switch
)");
#else
ucontext_t contexts[FIBERS_MAX];
ucontext_t outside;
#endif

#ifdef FIBER_ASAN
void *fake_stacks[FIBERS_MAX];
const void *outside_bottom;
size_t outside_bytes;
#endif

unsigned char *stack_of(int idx)
{
    return stacks + (size_t)idx * FIBER_STACK_BYTES;
}

/* Where a stack begins. Tops at one distance would all fall into the same lines of the caches. */
unsigned char *top_of(int idx)
{
    return stack_of(idx) + FIBER_STACK_BYTES - (size_t)(idx % 64) * 832;
}

void make_stacks()
{
    /* Untouched pages cost nothing; the lowest page of each stack is closed, so overruns show. */
    void *memory = mmap(nullptr, FIBERS_MAX * FIBER_STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("cuda emulator: stacks");
        abort();
    }
    stacks = static_cast<unsigned char *>(memory);
    for (int i = 0; i < FIBERS_MAX; i++)
        mprotect(stack_of(i), 4096, PROT_NONE);
}

void start()
{
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &outside_bottom, &outside_bytes);
#endif
    entries[current](current);
    abort(); /* entry broke its promise */
}
} // namespace

void fiber_prepare(int idx, void (*entry)(int))
{
    if (!stacks) make_stacks();
    entries[idx] = entry;
#ifdef __x86_64__
    /* As cuda_emulator_switch leaves it: six registers, the return address, and at the entry of a
     * function a stack that is 8 off a multiple of 16. */
    uint64_t *top = reinterpret_cast<uint64_t *>(top_of(idx));
    *--top = 0;
    *--top = reinterpret_cast<uint64_t>(&start);
    for (int i = 0; i < 6; i++)
        *--top = 0;
    stack_pointers[idx] = top;
#else
    getcontext(&contexts[idx]);
    contexts[idx].uc_stack.ss_sp = stack_of(idx) + 4096;
    contexts[idx].uc_stack.ss_size = FIBER_STACK_BYTES - 4096;
    contexts[idx].uc_link = nullptr;
    makecontext(&contexts[idx], start, 0);
#endif
}

void fiber_enter(int idx)
{
    current = idx;
#ifdef FIBER_ASAN
    void *fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_of(idx), FIBER_STACK_BYTES);
#endif
#ifdef __x86_64__
    cuda_emulator_switch(&outside, stack_pointers[idx]);
#else
    swapcontext(&outside, &contexts[idx]);
#endif
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    current = -1;
}

void fiber_leave(bool last)
{
    int idx = current;
#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stacks[idx], outside_bottom,
                                   outside_bytes);
#endif
#ifdef __x86_64__
    cuda_emulator_switch(&stack_pointers[idx], outside);
#else
    swapcontext(&contexts[idx], &outside);
#endif
    (void)last;
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(fake_stacks[idx], &outside_bottom, &outside_bytes);
#endif
}
