/* Sessions: appending tokens in chunks, reusing a prefix, and recovering from a failed chunk. */
#include "runtime/session.h"

#include "offload/trace_writer.h"

#include <string.h>

enum sl_status sl_session_create(sl_engine *engine, sl_session **out, struct sl_error *error)
{
    const struct model *model = engine->model;
    struct kv_cache_options options = {.config = &model->config,
                                       .layers =
                                           model->config.layers + (model->mtp.present ? 1 : 0),
                                       .context_tokens = engine->budget.context_tokens,
                                       .slack_tokens = engine->budget.chunk_tokens,
                                       .f32_rows = engine->numerics == SL_NUMERICS_F32,
                                       .gpu = engine->gpu};
    *out = NULL;
    sl_session *session = calloc(1, sizeof *session);
    if (!session) goto fail;
    session->engine = engine;
    session->ids = calloc((size_t)options.context_tokens, sizeof *session->ids);
    session->logits = calloc((size_t)model->config.vocab, sizeof *session->logits);
    if (!session->ids || !session->logits) goto fail;
    if (kv_cache_create(&options, &session->cache) != SL_OK) goto fail;
    engine->sessions++;
    *out = session;
    return SL_OK;
fail:
    if (session) {
        free(session->ids);
        free(session->logits);
        free(session);
    }
    return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                        "no memory for a session of %d tokens (%.1f MiB): lower the context",
                        options.context_tokens, (double)engine->budget.session_bytes / 1048576.0);
}

void sl_session_destroy(sl_session *session)
{
    if (!session) return;
    SL_ASSERT(session->engine->sessions > 0);
    session->engine->sessions--;
    gpu_pass_forget(&session->recordings, session->engine->gpu);
    kv_cache_destroy(session->cache);
    free(session->ids);
    free(session->logits);
    free(session);
}

size_t sl_session_length(const sl_session *session)
{
    return (size_t)session->cache->length_tokens;
}

const float *sl_session_logits(const sl_session *session)
{
    return session->logits_valid ? session->logits : NULL;
}

void sl_session_reset(sl_session *session)
{
    kv_cache_reset(session->cache);
    session->logits_valid = false;
}

void sl_session_on_route(sl_session *session, sl_route_fn fn, void *context)
{
    session->on_route = fn;
    session->route_context = context;
}

void sl_session_on_dispatch(sl_session *session, sl_dispatch_fn fn, void *context)
{
    session->on_dispatch = fn;
    session->dispatch_context = context;
}

void sl_session_expect(sl_session *session, const int32_t *tokens, size_t count, float probability)
{
    struct sl_engine *engine = session->engine;
    size_t most = (size_t)engine->budget.chunk_tokens;
    if (count > most) count = most;
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= engine->model->config.vocab) return;
    lookahead_tokens(&engine->forward, tokens, (int32_t)count, engine->forward.token_clock,
                     probability);
}

/* Ids in range and room in the context, before anything is computed. */
static enum sl_status check_tokens(const sl_session *session, const int32_t *tokens, size_t count,
                                   size_t length, struct sl_error *error)
{
    const struct model_config *config = &session->engine->model->config;
    size_t context = (size_t)session->cache->context_tokens;
    if (count > context - length)
        return sl_error_set(error, SL_ERR_LIMIT, 0,
                            "the context is full: %zu tokens and %zu more do not fit in %zu; "
                            "open with a larger context",
                            length, count, context);
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= config->vocab)
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "token %zu is %d: this model's ids are 0 to %d", i, tokens[i],
                                config->vocab - 1);
    return SL_OK;
}

/* The sentence of a failed chunk: the store knows the file, a lost mapping explains the rest. */
static enum sl_status explain_failure(const sl_session *session, enum sl_status status,
                                      struct sl_error *error)
{
    const struct sl_error *fault = &session->engine->forward.fault;
    const char *reason = expert_store_last_failure(session->engine->store);
    if (fault->status != SL_OK)
        return sl_error_set(error, status, 0, "the generation stopped: %s; open the model again",
                            fault->message);
    return sl_error_set(error, status, 0, "the generation stopped: %s",
                        *reason ? reason : sl_status_name(status));
}

/* Where a chunk's logits go, and what follows it. */
struct chunk_output {
    float *logits;     /* [tokens, vocab] or NULL: the last row only, into the session */
    float *mtp_logits; /* [mtp_rows, vocab] or NULL */
    const int32_t *next_ids;
    int32_t mtp_rows;
    const int32_t *following; /* [following_tokens] of the next chunk, or NULL */
    int32_t following_tokens;
    struct prompt_progress *progress; /* NULL: nobody watches */
};

/* Who watches a prompt being computed, and how far it has come. */
struct prompt_progress {
    sl_prefill_fn tell;
    void *context;
    size_t done, total; /* tokens: before the chunk under way; of the prompt */
    int32_t tokens;     /* of the chunk under way */
    int32_t layers;
};

/* Layers of a chunk count as so many of its tokens. */
static bool tell_layer(void *context, int32_t layer)
{
    const struct prompt_progress *progress = context;
    int64_t part = (int64_t)progress->tokens * (layer + 1) / progress->layers;
    return progress->tell(progress->context, progress->done + (size_t)part, progress->total);
}

/* Main layers are recorded; the MTP block runs on other tokens and is not. */
static void begin_record(struct sl_engine *engine, const struct forward_chunk *chunk)
{
    if (!engine->trace) return;
    struct trace_step step = {.kind = chunk->tokens > 1 ? TRACE_PREFILL : TRACE_DECODE,
                              .position = chunk->position,
                              .tokens = chunk->tokens,
                              .layers = engine->model->config.layers,
                              .ids = chunk->ids};
    trace_writer_begin(engine->trace, &step, clock_now_ns(&engine->forward.clock));
    engine->forward.trace = engine->trace;
}

static void end_record(struct sl_engine *engine, enum sl_status status)
{
    if (!engine->forward.trace) return;
    if (status == SL_OK)
        trace_writer_end(engine->trace, clock_now_ns(&engine->forward.clock));
    else
        trace_writer_abandon(engine->trace);
    engine->forward.trace = NULL;
}

static enum sl_status run_chunk(sl_session *session, const int32_t *tokens, int32_t count,
                                const struct chunk_output *output, struct sl_error *error)
{
    struct sl_engine *engine = session->engine;
    struct forward *forward = &engine->forward;
    size_t vocab = (size_t)engine->model->config.vocab;
    int32_t start = session->cache->length_tokens;
    struct forward_chunk chunk = {.cache = session->cache,
                                  .ids = tokens,
                                  .tokens = count,
                                  .position = start,
                                  .recordings = &session->recordings,
                                  .next_ids = output->following,
                                  .next_tokens = output->following_tokens};

    session->logits_valid = false;
    forward->on_layer = output->progress ? tell_layer : NULL;
    forward->layer_context = output->progress;
    forward->on_route = session->on_route;
    forward->route_context = session->route_context;
    forward->on_dispatch = session->on_dispatch;
    forward->dispatch_context = session->dispatch_context;
    kv_cache_begin(session->cache, count);
    begin_record(engine, &chunk);
    enum sl_status status = forward_layers(forward, &chunk);
    if (status == SL_OK && output->logits) {
        status = forward_head(forward, 0, count, output->logits);
        memcpy(session->logits, output->logits + (size_t)(count - 1) * vocab,
               sizeof(float) * vocab);
    } else if (status == SL_OK) {
        status = forward_head(forward, count - 1, count, session->logits);
    }
    end_record(engine, status);
    if (status == SL_OK && output->mtp_rows > 0)
        status =
            forward_mtp(forward, &chunk, output->next_ids, output->mtp_rows, output->mtp_logits);
    forward->token_clock += count;
    if (status != SL_OK) return explain_failure(session, status, error);
    /* A page lost while we computed makes the result worthless: find out before it is used. */
    SL_TRY(engine_check_files(engine, error));
    memcpy(session->ids + start, tokens, sizeof *tokens * (size_t)count);
    kv_cache_commit(session->cache, count);
    session->logits_valid = true;
    return SL_OK;
}

/* Appends the first chunk of tokens [count], which are checked; returns how many in `*step`. */
static enum sl_status append_chunk(sl_session *session, const int32_t *tokens, size_t count,
                                   float *logits, struct prompt_progress *progress, size_t *step,
                                   struct sl_error *error)
{
    size_t most = (size_t)session->engine->budget.chunk_tokens;
    *step = count < most ? count : most;
    size_t left = count - *step;
    struct chunk_output output = {.logits = logits,
                                  .following = tokens + *step,
                                  .following_tokens = (int32_t)(left < most ? left : most),
                                  .progress = progress};
    if (progress) progress->tokens = (int32_t)*step;
    return run_chunk(session, tokens, (int32_t)*step, &output, error);
}

enum sl_status sl_session_append(sl_session *session, const int32_t *tokens, size_t count,
                                 float *logits, struct sl_error *error)
{
    size_t vocab = (size_t)session->engine->model->config.vocab, step = 0;
    SL_TRY(check_tokens(session, tokens, count, sl_session_length(session), error));
    SL_TRY(engine_check_files(session->engine, error));
    for (size_t done = 0; done < count; done += step)
        SL_TRY(append_chunk(session, tokens + done, count - done,
                            logits ? logits + done * vocab : NULL, NULL, &step, error));
    return SL_OK;
}

enum sl_status sl_session_append_mtp(sl_session *session, const int32_t *tokens, size_t count,
                                     float *logits, float *mtp_logits, struct sl_error *error)
{
    size_t vocab = (size_t)session->engine->model->config.vocab;
    if (!session->engine->model->mtp.present)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "this engine has no MTP block: the checkpoint lacks it, or it was "
                            "opened without");
    if (session->cache->length_tokens != 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "MTP logits need a session from its first token on");
    SL_TRY(check_tokens(session, tokens, count, 0, error));
    SL_TRY(engine_check_files(session->engine, error));
    for (size_t done = 0; done < count;) {
        int32_t step = min_i32((int32_t)(count - done), session->engine->budget.chunk_tokens);
        size_t following = count - done - 1; /* tokens after the chunk's first */
        struct chunk_output output = {
            .logits = logits ? logits + done * vocab : NULL,
            .mtp_logits = mtp_logits + done * vocab,
            .next_ids = tokens + done + 1,
            .mtp_rows = min_i32(step, (int32_t)following),
        };
        SL_TRY(run_chunk(session, tokens + done, step, &output, error));
        done += (size_t)step;
    }
    return SL_OK;
}

/* Tokens that the timeline and the request share, one less than all of the request so that at
 * least one token is computed and leaves its logits. */
static int32_t shared_prefix(const sl_session *session, const int32_t *tokens, size_t count)
{
    int32_t limit = min_i32(session->cache->length_tokens, (int32_t)count - 1);
    int32_t shared = 0;
    while (shared < limit && session->ids[shared] == tokens[shared])
        shared++;
    return shared;
}

enum sl_status sl_session_sync(sl_session *session, const int32_t *tokens, size_t count,
                               sl_prefill_fn progress, void *context, struct sl_error *error)
{
    SL_TRY(check_tokens(session, tokens, count, 0, error));
    if (count == 0) {
        sl_session_reset(session);
        return SL_OK;
    }
    if ((size_t)session->cache->length_tokens == count && session->logits_valid &&
        memcmp(session->ids, tokens, sizeof *tokens * count) == 0)
        return SL_OK;

    int32_t shared = shared_prefix(session, tokens, count);
    if (!kv_cache_truncate(session->cache, shared)) sl_session_reset(session);
    session->logits_valid = false;
    struct prompt_progress watch = {.tell = progress,
                                    .context = context,
                                    .total = count,
                                    .layers = session->engine->model->config.layers};
    for (size_t done = sl_session_length(session); done < count;) {
        size_t step = 0;
        watch.done = done;
        enum sl_status status = SL_OK;
        if (progress && !progress(context, done, count)) status = SL_ERR_CANCELLED;
        if (status == SL_OK) status = engine_check_files(session->engine, error);
        if (status == SL_OK)
            status = append_chunk(session, tokens + done, count - done, NULL,
                                  progress ? &watch : NULL, &step, error);
        if (status == SL_ERR_CANCELLED)
            return sl_error_set(error, status, 0, "stopped after %zu of %zu prompt tokens", done,
                                count);
        SL_TRY(status);
        done += step;
    }
    if (progress) progress(context, count, count);
    SL_ASSERT(session->logits_valid && sl_session_length(session) == count);
    return SL_OK;
}
