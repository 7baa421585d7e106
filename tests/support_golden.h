/* Reading golden vectors: tensors of safetensors files as f32 arrays, and token lists.
 *
 * A folder holds tiny-a and tiny-b as tests/golden/model/README.md describes. The committed one has
 * some outputs for a part of the rows ("rows", "rows_mtp"); SLUICE_GOLDEN_MODEL names another
 * folder, for instance the full set. */
#ifndef SLUICE_TESTS_SUPPORT_GOLDEN_H
#define SLUICE_TESTS_SUPPORT_GOLDEN_H

#include "kernels/base.h"

/* A tensor as f32 (integers are converted too); data is the caller's to free. */
struct golden_tensor {
    float *data;
    int64_t rows;  /* first dimension */
    int64_t width; /* product of the others */
};

/* Folder of a golden model ("tiny-a"); heap memory. */
char *golden_directory(const char *model);

/* The tensor `name` of golden/`sequence`.`suffix`.safetensors in `directory`; false when the file
 * or the tensor is not there. Any other trouble fails the test. */
bool golden_read(const char *directory, const char *sequence, const char *suffix, const char *name,
                 struct golden_tensor *out);

/* Names of the sequences in golden/tokens.json, up to `max`; ids are the caller's to free. */
struct golden_sequence {
    char name[16];
    int32_t *ids;
    int32_t count;
};
int32_t golden_sequences(const char *directory, struct golden_sequence *out, int32_t max);

/* Index of the largest of x [count], and by how much it is above the second largest. */
int32_t golden_argmax(const float *x, int64_t count);
float golden_lead(const float *x, int64_t count);

#endif
