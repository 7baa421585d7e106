/* Renders each question as a chat prompt and decodes its answer; see the header. */
#include "bench/question_trace.h"

#include "kernels/base.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The prompt's ids, the caller's to free. */
static enum sl_status render(const sl_engine *engine, const char *question, bool thinks,
                             int32_t **ids, size_t *count, struct sl_error *error)
{
    char *prompt = NULL;
    size_t bytes = 0;
    json_t *input =
        json_pack("{s:s, s:[{s:s, s:s}]}", "thinking_mode", thinks ? "thinking" : "chat",
                  "messages", "role", "user", "content", question);
    char *text = input ? json_dumps(input, JSON_COMPACT) : NULL;
    json_decref(input);
    if (!text)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "a question that is no text, or no memory for it: %.40s", question);
    enum sl_status status = sl_chat_render(text, strlen(text), &prompt, &bytes, error);
    if (status == SL_OK)
        status = sl_tokenizer_encode(sl_engine_tokenizer(engine), prompt, bytes, ids, count, error);
    free(prompt);
    free(text);
    return status;
}

static int32_t likeliest(const float *logits, int32_t count)
{
    int32_t best = 0;
    for (int32_t i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static enum sl_status answer(sl_engine *engine, sl_session *session, const int32_t *ids,
                             size_t count, struct sl_error *error)
{
    struct sl_model_info info = sl_engine_info(engine);
    enum sl_status status = SL_OK;
    for (size_t i = 0; i < count && status == SL_OK; i++)
        status = sl_session_append(session, ids + i, 1, NULL, error);
    for (int i = 0; i < QUESTION_ANSWER_MAX && status == SL_OK; i++) {
        int32_t id = likeliest(sl_session_logits(session), info.vocab);
        if (id == info.eos_id) break;
        status = sl_session_append(session, &id, 1, NULL, error);
    }
    return status;
}

enum sl_status question_trace_ask(sl_engine *engine, const char *file, struct sl_error *error)
{
    SL_ASSERT(engine && file);
    if (!sl_engine_tokenizer(engine))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "questions need a tokenizer.json in the checkpoint's directory");
    FILE *input = fopen(file, "r");
    if (!input)
        return sl_error_set(error, SL_ERR_IO, errno, "%s: cannot be read: %s", file,
                            strerror(errno));
    sl_session *session = NULL;
    enum sl_status status = sl_session_create(engine, &session, error);
    char *line = NULL;
    size_t room = 0;
    bool thinks = false;
    for (ssize_t bytes; status == SL_OK && (bytes = getline(&line, &room, input)) >= 0;
         thinks = !thinks) {
        int32_t *ids = NULL;
        size_t count = 0;
        if (bytes && line[bytes - 1] == '\n') line[--bytes] = 0;
        if (bytes == 0) continue;
        status = render(engine, line, thinks, &ids, &count, error);
        if (status == SL_OK) status = answer(engine, session, ids, count, error);
        free(ids);
        sl_session_reset(session);
    }
    if (status == SL_OK && ferror(input))
        status =
            sl_error_set(error, SL_ERR_IO, errno, "%s: cannot be read: %s", file, strerror(errno));
    free(line);
    if (session) sl_session_destroy(session);
    fclose(input);
    return status;
}
