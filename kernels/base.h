/* Assertions, checked arithmetic, alignment and element types: what every module leans on. */
#ifndef SLUICE_KERNELS_BASE_H
#define SLUICE_KERNELS_BASE_H

#include "kernels/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* A broken invariant is our bug: say where, then stop. Stays on in release builds, for work done
 * once per request, token or layer. */
#define SL_ASSERT(condition)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            fprintf(stderr, "sluice: internal error: %s:%d: %s\n", __FILE__, __LINE__,             \
                    #condition);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* The same for work done per element; off with NDEBUG. */
#ifdef NDEBUG
#define SL_DEBUG_ASSERT(condition) ((void)sizeof(condition))
#else
#define SL_DEBUG_ASSERT(condition) SL_ASSERT(condition)
#endif

/* Forwards a failure; only where nothing is held yet. */
#define SL_TRY(expression)                                                                         \
    do {                                                                                           \
        enum sl_status sl_try_status_ = (expression);                                              \
        if (sl_try_status_ != SL_OK) return sl_try_status_;                                        \
    } while (0)

#define SL_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Slots, packed experts and direct reads start and end on this boundary, in every tier. */
#define SL_PAGE_BYTES 4096u

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_F8_E8M0, DTYPE_I8, DTYPE_I32, DTYPE_I64 };

/* Bytes of one element. */
static inline size_t dtype_bytes(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
    case DTYPE_I32: return 4;
    case DTYPE_BF16: return 2;
    case DTYPE_I64: return 8;
    case DTYPE_F8_E4M3:
    case DTYPE_F8_E8M0:
    case DTYPE_I8: return 1;
    }
    return 0;
}

/* `value` rounded up to a multiple of `alignment`, a power of two; the caller rules out overflow.
 */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}

static inline uint64_t align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

/* True and `*out = a * b` unless the product overflows. */
static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static inline int32_t ceil_div_i32(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

#endif
