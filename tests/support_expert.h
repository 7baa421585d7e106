/* One expert for op tests: published tensors, the slot made of them, and its results in double. */
#ifndef SLUICE_TESTS_SUPPORT_EXPERT_H
#define SLUICE_TESTS_SUPPORT_EXPERT_H

#include "kernels/expert_layout.h"

struct test_expert {
    struct expert_layout layout;
    uint8_t *parts[EXPERT_PARTS]; /* as published */
    uint8_t *slot;                /* 64-byte aligned; made by test_expert_place */
};

/* Random weights with scale codes scale_first .. scale_first + scale_bound - 1, placed. Lives until
 * ops_test_teardown. */
struct test_expert *test_expert_make(uint64_t *seed, int32_t hidden, int32_t width,
                                     uint32_t scale_first, uint32_t scale_bound);
/* Places the parts again after a change. */
void test_expert_place(struct test_expert *expert);

/* Element of w1, w3 or w2. */
double test_expert_weight(const struct test_expert *expert, enum expert_part part, int32_t row,
                          int32_t column);

/* y [hidden] of one token x [hidden]; with `round` the roundings between the products. */
void test_expert_in_double(const struct test_expert *expert, const float *x, double weight,
                           bool round, double *y);

/* Root of the summed squared differences over that of the wanted. */
double test_expert_relative_rms(const float *got, const double *want, size_t count);

#endif
