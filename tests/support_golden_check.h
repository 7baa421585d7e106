/* An engine against the published program's outputs, end to end: f32 numerics within rounding of
 * f32, exact numerics statistically, because every quantiser amplifies rounding noise. Limits are
 * those of tests/golden/model/README.md. Prints the figures it found beside their limits. */
#ifndef SLUICE_TESTS_SUPPORT_GOLDEN_CHECK_H
#define SLUICE_TESTS_SUPPORT_GOLDEN_CHECK_H

#include "runtime/sl.h"

struct golden_check {
    /* An engine on the golden checkpoint in `directory`, with its MTP block, or a failed test. */
    sl_engine *(*open)(void *context, const char *directory, enum sl_numerics numerics);
    void *context;
    int32_t tokens_max;    /* longer sequences are left out */
    int32_t sequences_min; /* so many must have been run */
    size_t rows_min;       /* so many rows of logits must have been compared with exact numerics */
    bool prompts_only;     /* nothing goes token by token */
};

/* Every sequence as one prompt and, unless prompts_only, token by token; the MTP block too, on
 * golden model `model`. */
void golden_check_f32(const struct golden_check *check, const char *model);
void golden_check_exact(const struct golden_check *check, const char *model);

#endif
