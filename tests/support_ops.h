/* Helpers of the op tests: arrays that are released together, random values, comparison, and the
 * number formats computed a second time in double precision. */
#ifndef SLUICE_TESTS_SUPPORT_OPS_H
#define SLUICE_TESTS_SUPPORT_OPS_H

#include "kernels/ops.h"
#include "tests/support.h"

/* Zeroed memory that lives until ops_test_teardown. */
void *ops_test_alloc(size_t bytes);
float *ops_test_floats(size_t count);
/* Uniform in +-magnitude. */
float *ops_test_random(uint64_t *seed, size_t count, float magnitude);
/* The same, each value one that bf16 can hold. */
float *ops_test_random_bf16(uint64_t *seed, size_t count, float magnitude);
/* bf16 codes, uniform in +-magnitude. */
uint16_t *ops_test_random_codes(uint64_t *seed, size_t count, float magnitude);
/* Bytes that are finite e4m3 codes. */
uint8_t *ops_test_random_fp8(uint64_t *seed, size_t count);
uint8_t *ops_test_random_bytes(uint64_t *seed, size_t count, uint32_t first, uint32_t bound);

/* A stream that lives until ops_test_teardown. */
struct stream *ops_test_stream(int32_t threads);

/* Calls check with the op table of every instruction set this processor has; names the others. */
void ops_test_each_variant(void (*check)(const struct ops *ops));

/* cmocka teardown: releases all of the above. */
int ops_test_teardown(void **state);

/* Fails unless |got - want| <= absolute + relative * |want| everywhere. */
void ops_test_close(const char *what, const float *got, const double *want, size_t count,
                    double absolute, double relative);
void ops_test_same_bits(const char *what, const void *got, const void *want, size_t bytes);

/* The formats, straight from their definitions. */
double ops_test_e4m3_value(int code);
double ops_test_e2m1_value(int code);
double ops_test_e8m0_value(int code);
double ops_test_bf16(double value);
/* Values after a block's round trip: the smallest power of two that fits the block, then the
 * nearest code. */
void ops_test_round_trip_fp8(const float *x, double *out, int32_t count, int32_t block);
void ops_test_round_trip_fp4(const double *x, double *out, int32_t count, int32_t block);

/* 200 channels of e4m3 and 8 of bf16, and a row of it as its bytes say. */
extern const struct row_format ops_test_kv_format;
void ops_test_kv_row(const uint8_t *row, double *x);

#endif
