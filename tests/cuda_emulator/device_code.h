/* CUDA C++ as C++: qualifiers, built-in variables, and the device functions this tree uses. */
#ifndef SLUICE_TESTS_CUDA_EMULATOR_DEVICE_CODE_H
#define SLUICE_TESTS_CUDA_EMULATOR_DEVICE_CODE_H

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/runtime_api.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__      static /* blocks run one after another */
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

#define threadIdx (cuda_emulator_self->thread_idx)
#define blockIdx  (cuda_emulator_where.block_idx)
#define blockDim  (cuda_emulator_where.block_dim)
#define gridDim   (cuda_emulator_where.grid_dim)
#define warpSize  32

/* Queues a launch on a stream; the arguments are copied now. */
void cuda_emulator_enqueue(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                           cudaStream_t stream, std::function<void()> body);
/* Loads a kernel, or does so before its first launch: which on hardware may wait for the device. */
cudaError_t cuda_emulator_load_kernel(const void *kernel, const char *name);
/* The most dynamic shared memory a kernel may have, by its address. */
cudaError_t cuda_emulator_allow_shared(const void *kernel, int bytes);
void cuda_emulator_check_shared(const void *kernel, const char *name, size_t bytes);

template <class... Parameters, class... Arguments>
void cuda_emulator_start(void (*kernel)(Parameters...), const char *name, dim3 grid, dim3 block,
                         size_t shared_bytes, cudaStream_t stream, Arguments &&...arguments)
{
    std::tuple<Parameters...> copies(std::forward<Arguments>(arguments)...);
    (void)cuda_emulator_load_kernel(reinterpret_cast<const void *>(kernel), name);
    cuda_emulator_check_shared(reinterpret_cast<const void *>(kernel), name, shared_bytes);
    cuda_emulator_enqueue(name, grid, block, shared_bytes, stream,
                          [=]() { std::apply(kernel, copies); });
}

template <class Function> cudaError_t cuda_emulator_load(Function *kernel, const char *name)
{
    return cuda_emulator_load_kernel(reinterpret_cast<const void *>(kernel), name);
}

template <class Function>
cudaError_t cudaFuncSetAttribute(Function *kernel, cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    return cuda_emulator_allow_shared(reinterpret_cast<const void *>(kernel), value);
}

/* Barriers, votes and exchanges. */
static inline void __syncthreads()
{
    cuda_emulator_barrier(false, "__syncthreads");
}
static inline int __syncthreads_count(int predicate)
{
    return cuda_emulator_barrier(predicate != 0, "__syncthreads_count");
}
static inline int __syncthreads_or(int predicate)
{
    return cuda_emulator_barrier(predicate != 0, "__syncthreads_or") != 0;
}
static inline int __syncthreads_and(int predicate)
{
    return cuda_emulator_barrier(predicate == 0, "__syncthreads_and") == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    cuda_emulator_exchange(mask, {}, "__syncwarp");
}

template <class T> const cuda_emulator_words *cuda_emulator_show(unsigned mask, T value)
{
    static_assert(sizeof(T) <= sizeof(cuda_emulator_words), "too wide to exchange");
    cuda_emulator_words words = {};
    memcpy(&words, &value, sizeof value);
    return cuda_emulator_exchange(mask, words, "a warp function");
}

template <class T> T cuda_emulator_seen(const cuda_emulator_words *shown, unsigned lane)
{
    T value;
    memcpy(&value, &shown[lane], sizeof value);
    return value;
}

/* The lane to read from, or the own one where that lies outside the segment. */
template <class T>
T cuda_emulator_shuffle(unsigned mask, T value, int source, int width, bool clamp)
{
    int lane = (int)(cuda_emulator_self->linear % 32);
    int first = lane / width * width;
    const cuda_emulator_words *shown = cuda_emulator_show(mask, value);
    if (clamp && (source < first || source >= first + width)) source = lane;
    source = first + (source - first) % width;
    if (!(mask >> source & 1)) cuda_emulator_die("a shuffle reads a lane outside its mask");
    return cuda_emulator_seen<T>(shown, (unsigned)source);
}

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32)
{
    int first = (int)(cuda_emulator_self->linear % 32) / width * width;
    return cuda_emulator_shuffle(mask, value, first + (source & (width - 1)), width, false);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32)
{
    return cuda_emulator_shuffle(mask, value, (int)(cuda_emulator_self->linear % 32) ^ bits, width,
                                 true);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    return cuda_emulator_shuffle(mask, value, (int)(cuda_emulator_self->linear % 32) - (int)delta,
                                 width, true);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    return cuda_emulator_shuffle(mask, value, (int)(cuda_emulator_self->linear % 32) + (int)delta,
                                 width, true);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    const cuda_emulator_words *shown = cuda_emulator_show(mask, predicate != 0 ? 1u : 0u);
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) ballot |= shown[lane].word[0] << lane;
    return ballot;
}
static inline int __any_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) == mask;
}
template <class T> unsigned __match_any_sync(unsigned mask, T value)
{
    const cuda_emulator_words *shown = cuda_emulator_show(mask, value);
    unsigned same = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && cuda_emulator_seen<T>(shown, lane) == value) same |= 1u << lane;
    return same;
}
[[noreturn]] static inline void __trap()
{
    cuda_emulator_die("__trap");
}
static inline unsigned __activemask()
{
    cuda_emulator_die("__activemask has no meaning here: name the mask");
}

#define CUDA_EMULATOR_REDUCE(name, start, step)                                                    \
    template <class T> T name(unsigned mask, T value)                                              \
    {                                                                                              \
        const cuda_emulator_words *shown = cuda_emulator_show(mask, value);                        \
        T result = start;                                                                          \
        for (unsigned lane = 0; lane < 32; lane++) {                                               \
            T other = cuda_emulator_seen<T>(shown, lane);                                          \
            if (mask >> lane & 1) result = step;                                                   \
        }                                                                                          \
        return result;                                                                             \
    }
CUDA_EMULATOR_REDUCE(__reduce_add_sync, 0, result + other)
CUDA_EMULATOR_REDUCE(__reduce_max_sync, value, std::max(result, other))
CUDA_EMULATOR_REDUCE(__reduce_min_sync, value, std::min(result, other))
CUDA_EMULATOR_REDUCE(__reduce_or_sync, 0, result | other)
CUDA_EMULATOR_REDUCE(__reduce_and_sync, value, result &other)

/* Fences and atomics: threads of the device run one at a time, but the host sees their memory. */
static inline void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void __threadfence_block()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void __threadfence_system()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void __nanosleep(unsigned)
{
    cuda_emulator_yield();
}
template <class T, class U> T cuda_emulator_swap_by(T *address, U step)
{
    T old, next;
    __atomic_load(address, &old, __ATOMIC_SEQ_CST);
    do
        next = step(old);
    while (!__atomic_compare_exchange(address, &old, &next, false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST));
    return old;
}
#define CUDA_EMULATOR_ATOMIC(name, step)                                                           \
    template <class T> T name(T *address, T value)                                                 \
    {                                                                                              \
        return cuda_emulator_swap_by(address, [=](T old) -> T {                                    \
            (void)old;                                                                             \
            return step;                                                                           \
        });                                                                                        \
    }
CUDA_EMULATOR_ATOMIC(atomicAdd, old + value)
CUDA_EMULATOR_ATOMIC(atomicSub, old - value)
CUDA_EMULATOR_ATOMIC(atomicMax, std::max(old, value))
CUDA_EMULATOR_ATOMIC(atomicMin, std::min(old, value))
CUDA_EMULATOR_ATOMIC(atomicOr, old | value)
CUDA_EMULATOR_ATOMIC(atomicAnd, old &value)
CUDA_EMULATOR_ATOMIC(atomicXor, old ^ value)
CUDA_EMULATOR_ATOMIC(atomicExch, value)
CUDA_EMULATOR_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
template <class T> T atomicCAS(T *address, T expected, T value)
{
    return cuda_emulator_swap_by(address,
                                 [=](T old) -> T { return old == expected ? value : old; });
}

/* Memory with cache hints. */
#define CUDA_EMULATOR_LOAD(name)                                                                   \
    template <class T> T name(const T *address)                                                    \
    {                                                                                              \
        if (reinterpret_cast<uintptr_t>(address) % alignof(T))                                     \
            cuda_emulator_die("a misaligned load");                                                \
        return *address;                                                                           \
    }
CUDA_EMULATOR_LOAD(__ldg)
CUDA_EMULATOR_LOAD(__ldcs)
CUDA_EMULATOR_LOAD(__ldcg)
CUDA_EMULATOR_LOAD(__ldca)
CUDA_EMULATOR_LOAD(__ldlu)
CUDA_EMULATOR_LOAD(__ldcv)
template <class T> void __stcs(T *address, T value)
{
    *address = value;
}
template <class T> void __stcg(T *address, T value)
{
    *address = value;
}

/* Bits. */
template <class T, class F> T cuda_emulator_cast(F value)
{
    T result;
    static_assert(sizeof(T) == sizeof(F), "a cast of bits keeps the size");
    memcpy(&result, &value, sizeof result);
    return result;
}
#define __float_as_uint(value) cuda_emulator_cast<unsigned>((float)(value))
#define __float_as_int(value)  cuda_emulator_cast<int>((float)(value))
#define __uint_as_float(value) cuda_emulator_cast<float>((unsigned)(value))
#define __int_as_float(value)  cuda_emulator_cast<float>((int)(value))
static inline int __popc(unsigned value)
{
    return __builtin_popcount(value);
}
static inline int __popcll(unsigned long long value)
{
    return __builtin_popcountll(value);
}
static inline int __clz(int value)
{
    return value ? __builtin_clz((unsigned)value) : 32;
}
static inline int __clzll(long long value)
{
    return value ? __builtin_clzll((unsigned long long)value) : 64;
}
static inline int __ffs(int value)
{
    return __builtin_ffs(value);
}
static inline unsigned __brev(unsigned value)
{
    unsigned result = 0;
    for (int i = 0; i < 32; i++)
        result |= (value >> i & 1) << (31 - i);
    return result;
}
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector)
{
    uint64_t bytes = (uint64_t)high << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> (4 * i) & 0xf;
        unsigned byte = (unsigned)(bytes >> (8 * (nibble & 7))) & 0xff;
        if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << (8 * i);
    }
    return result;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)((((uint64_t)high << 32 | low) << (shift & 31)) >> 32);
}

/* Arithmetic; std's overloads serve the names that C++ has. */
using std::max;
using std::min;
static inline float rsqrtf(float value)
{
    return (float)(1.0 / std::sqrt((double)value));
}
#define __fmaf_rn(a, b, c) fmaf(a, b, c)
#define __fadd_rn(a, b)    ((float)(a) + (float)(b))
#define __fsub_rn(a, b)    ((float)(a) - (float)(b))
#define __fmul_rn(a, b)    ((float)(a) * (float)(b))
#define __fdiv_rn(a, b)    ((float)(a) / (float)(b))
#define __fsqrt_rn(a)      sqrtf(a)
#define __frsqrt_rn(a)     rsqrtf(a)
static inline long long clock64()
{
    return 0;
}

#endif
