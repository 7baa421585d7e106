/* The machine that a plan is for: what was given, what the machine's profile says was measured on
 * it, and what is assumed for the rest.
 *
 * Cold path, the caller's thread; nothing is kept. */
#ifndef SLUICE_RUNTIME_PLAN_MACHINE_H
#define SLUICE_RUNTIME_PLAN_MACHINE_H

#include "kernels/base.h"
#include "runtime/sl.h"

enum plan_rate { PLAN_GPU, PLAN_LINK, PLAN_CPU, PLAN_DISK, PLAN_MEMORY, PLAN_RATES };
enum plan_source { PLAN_ASSUMED, PLAN_GIVEN, PLAN_MEASURED };

struct plan_machine {
    struct sl_machine machine; /* no rate below 0 is left */
    enum plan_source sources[PLAN_RATES];
    char profile[256]; /* whose figures these are, with drive, device and age; "" where none */
    char notice[SL_ERROR_MESSAGE_BYTES_MAX]; /* why the usual profile was left out; "" */
};

/* "assumed", "given", "measured". */
const char *plan_source_name(enum plan_source source);
/* "gpu", "link", "cpu", "disk", "memory". */
const char *plan_rate_name(enum plan_rate rate);

/* Fills in the rates below 0 of options->machine, for experts of that size. SL_ERR_ARGUMENT,
 * SL_ERR_FORMAT, SL_ERR_CHECKSUM, SL_ERR_UNSUPPORTED: a profile that the options name is not there,
 * damaged, stale or of another machine; the usual one is then left out with a notice. */
SL_MUST_USE enum sl_status plan_machine_make(const struct sl_plan_options *options,
                                             uint64_t expert_bytes, struct plan_machine *out,
                                             struct sl_error *error);

#endif
