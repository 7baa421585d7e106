/* The answer's options; see the header. */
#include "runtime/cli/answer_args.h"

#include <sys/random.h>
#include <time.h>

#define ANSWER_TOKENS_DEFAULT 256
#define ANSWER_TOKENS_MAX     (1 << 24)
#define TEMPERATURE_MAX       100
#define TOP_K_MAX             (1 << 24)

const char *const answer_args_think_names[] = {"none", "low", "high", "max", NULL};

#define FIELD(name) .offset = offsetof(struct answer_args, name)

const struct option_spec answer_args_specs[] = {
    {"system", 0, OPTION_TEXT, false, FIELD(system), .value = "TEXT",
     .help = "system message before the conversation"},
    {"think", 0, OPTION_CHOICE, false, FIELD(think), .choices = answer_args_think_names,
     .value = "LEVEL", .help = "none, high or max; low too with a 0731 checkpoint (none)"},
    {"tokens", 'n', OPTION_INT, false, FIELD(tokens), 0, ANSWER_TOKENS_MAX, .value = "N",
     .help = "most tokens of the answer (256)"},
    {"temp", 0, OPTION_NUMBER, false, FIELD(temperature), 0, TEMPERATURE_MAX, .value = "T",
     .help = "temperature; 0 takes the most likely token (1)"},
    {"top-p", 0, OPTION_NUMBER, false, FIELD(top_p), 0, 1, .value = "P",
     .help = "draw from the likeliest tokens of this mass; 1 is off (1)"},
    {"top-k", 0, OPTION_INT, false, FIELD(top_k), 0, TOP_K_MAX, .value = "K",
     .help = "draw from the K likeliest tokens; 0 is off (0)"},
    {"min-p", 0, OPTION_NUMBER, false, FIELD(min_p), 0, 1, .value = "P",
     .help = "drop tokens below this share of the likeliest; 0 is off (0)"},
    {"seed", 0, OPTION_U64, false, FIELD(seed), .value = "N",
     .help = "the same seed draws the same tokens (random)"},
    {"stats", 0, OPTION_FLAG, false, FIELD(stats),
     .help = "speeds and reads afterwards, on stderr"},
    {"quiet", 0, OPTION_FLAG, false, FIELD(quiet), .help = "no progress on the terminal"},
    {0},
};

struct answer_args answer_args_default(void)
{
    struct answer_args args = {.tokens = ANSWER_TOKENS_DEFAULT, .temperature = 1, .top_p = 1};
    /* Short enough to type again. Without entropy the clock will do: a seed only has to differ from
     * run to run. */
    uint32_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed)
        seed = (uint32_t)time(NULL);
    args.seed = seed;
    return args;
}

enum sl_status answer_args_sampler(const struct answer_args *args, int32_t vocab, sl_sampler **out,
                                   struct sl_error *error)
{
    struct sl_sampling sampling = {
        .temperature = (float)args->temperature,
        .top_p = (float)args->top_p,
        .min_p = (float)args->min_p,
        .top_k = args->top_k,
    };
    return sl_sampler_create(&sampling, vocab, args->seed, out, error);
}
