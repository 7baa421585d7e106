/* The values of a random checkpoint: any part of any tensor, from the seed and the tensor's name
 * alone. Cheap enough that the disk is the limit. Pure functions, any thread. */
#ifndef SLUICE_RUNTIME_SYNTH_VALUES_H
#define SLUICE_RUNTIME_SYNTH_VALUES_H

#include "runtime/synth_plan.h"

/* Tables that depend on nothing; make once, then read. */
struct synth_values {
    uint64_t seed;
    uint8_t fp8_codes[256]; /* e4m3 codes of the 256 quantiles of a normal distribution */
};

void synth_values_init(struct synth_values *values, uint64_t seed);

/* Writes elements first .. first + count - 1 of the tensor. Element i is the same however the
 * tensor is cut, except that `first` must be a multiple of 8 and, for SYNTH_TOKEN_EXPERTS, both a
 * multiple of the row length. `experts` bounds the entries of that table. */
void synth_values_fill(const struct synth_values *values, const struct synth_tensor *tensor,
                       int32_t experts, uint64_t first, uint64_t count, void *out);

#endif
