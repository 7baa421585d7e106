/* Helpers of the test programs: seeded random numbers, temporary directories, reading files. */
#ifndef SLUICE_TESTS_SUPPORT_H
#define SLUICE_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* SplitMix64: the next number of a seeded stream. */
uint64_t test_random(uint64_t *state);
/* Uniform in [0, bound), bound > 0. */
uint32_t test_random_below(uint64_t *state, uint32_t bound);
/* Uniform in [-1, 1). */
float test_random_float(uint64_t *state);

/* A fresh directory under TMPDIR or /tmp; the caller frees the path and removes the tree with
 * test_remove_tree. Fails the test when it cannot be made. */
char *test_make_directory(const char *name);
void test_remove_tree(const char *path);

/* The whole file, with a zero after its last byte; the caller frees it. Fails the test when absent.
 */
char *test_read_file(const char *path, size_t *bytes);
void test_write_file(const char *path, const void *data, size_t bytes);

/* "directory/name" in heap memory. */
char *test_path(const char *directory, const char *name);

#endif
