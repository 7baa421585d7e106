/* The token loop shared by run and chat: prompt in, tokens out as they come.
 *
 * One thread. The result owns its arrays and text. Ctrl-C ends the loop in order, with what was
 * made so far; a failing read of an expert ends it with an error, also with what was made so far.
 */
#ifndef SLUICE_CLI_GENERATE_H
#define SLUICE_CLI_GENERATE_H

#include "runtime/cli/grow_text.h"
#include "runtime/cli/progress.h"

enum generate_finish {
    GENERATE_STOP,        /* the model ended its turn */
    GENERATE_LENGTH,      /* --tokens or the context is used up */
    GENERATE_INTERRUPTED, /* Ctrl-C */
};

struct generate_args {
    sl_engine *engine;
    sl_session *session;
    sl_sampler *sampler;
    const int32_t *prompt; /* [prompt_tokens], at least one */
    size_t prompt_tokens;
    int32_t tokens_max;
    bool thinking;             /* the prompt ends inside the thinking part */
    FILE *output;              /* where text appears as it comes; NULL: nowhere */
    struct progress *progress; /* of the prompt */
};

struct generate_result {
    enum generate_finish finish;
    int32_t *ids; /* [count], without the token that ended the turn */
    size_t count;
    struct grow_text text;  /* their text, whole characters; empty without a tokenizer */
    size_t prompt_tokens;   /* of the prompt */
    size_t prompt_computed; /* of these, not found in the session */
    size_t steps;           /* tokens computed one at a time */
    uint64_t prompt_ns, decode_ns;
    uint64_t first_token_ns; /* from the start to the first token; 0: none came */
    struct sl_stats stats;   /* counters of this call; sizes as they are */
};

/* `result` is to be deinitialised in every case. */
SL_MUST_USE enum sl_status generate(const struct generate_args *args,
                                    struct generate_result *result, struct sl_error *error);
void generate_result_deinit(struct generate_result *result);

/* "stop", "length" or "interrupted". */
const char *generate_finish_name(enum generate_finish finish);

#endif
