/* The options of run and chat about the answer: its length, the draws and the thinking. */
#ifndef SLUICE_CLI_ANSWER_ARGS_H
#define SLUICE_CLI_ANSWER_ARGS_H

#include "runtime/cli/options.h"

/* Levels of thinking, as --think and /think name them. */
enum think_level { THINK_NONE, THINK_LOW, THINK_HIGH, THINK_MAX };

struct answer_args {
    const char *system; /* NULL: none */
    int32_t think;      /* enum think_level */
    int32_t tokens;     /* most tokens of an answer */
    double temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed;
    bool stats, quiet;
};

/* Over struct answer_args. */
extern const struct option_spec answer_args_specs[];

/* The names of enum think_level, then NULL. */
extern const char *const answer_args_think_names[];

/* The model's published generation settings and a random seed. */
struct answer_args answer_args_default(void);

/* The sampler of these options for `vocab` tokens. */
SL_MUST_USE enum sl_status answer_args_sampler(const struct answer_args *args, int32_t vocab,
                                               sl_sampler **out, struct sl_error *error);

#endif
