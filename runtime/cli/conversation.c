/* The conversation; see the header. */
#include "runtime/cli/conversation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static enum sl_status no_memory(struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the conversation");
}

enum sl_status conversation_init(struct conversation *conversation, const sl_engine *engine,
                                 struct sl_error *error)
{
    struct sl_model_info info = sl_engine_info(engine);
    const sl_tokenizer *tokenizer = sl_engine_tokenizer(engine);
    *conversation = (struct conversation){
        .messages = json_array(), .profile_0731 = info.drafter_0731, .tokenizer = tokenizer};
    conversation->end = sl_tokenizer_bytes(tokenizer, info.eos_id, &conversation->end_bytes);
    return conversation->messages ? SL_OK : no_memory(error);
}

void conversation_deinit(struct conversation *conversation)
{
    json_decref(conversation->messages);
    *conversation = (struct conversation){0};
}

enum sl_status conversation_set_think(struct conversation *conversation, enum think_level think,
                                      struct sl_error *error)
{
    if (think == THINK_LOW && !conversation->profile_0731)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "this checkpoint thinks at none, high or max, found \"low\"");
    conversation->think = think;
    return SL_OK;
}

/* A message object, or NULL without memory. */
static json_t *make_message(const char *role, const char *text, size_t bytes)
{
    struct grow_text valid = {0};
    struct sl_text_stream stream = {0};
    json_t *message = NULL;
    if (grow_text_stream(&valid, &stream, text, bytes, NULL) == SL_OK &&
        (bytes == 0 || grow_text_stream(&valid, &stream, NULL, 0, NULL) == SL_OK))
        message = json_pack("{s:s, s:s%}", "role", role, "content", valid.data, valid.bytes);
    grow_text_deinit(&valid);
    return message;
}

static bool has_system(const struct conversation *conversation)
{
    const json_t *first = json_array_get(conversation->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    return role && strcmp(role, "system") == 0;
}

enum sl_status conversation_set_system(struct conversation *conversation, const char *text,
                                       struct sl_error *error)
{
    json_t *message = NULL;
    if (text && *text) {
        message = make_message("system", text, strlen(text));
        if (!message) return no_memory(error);
    }
    if (has_system(conversation)) json_array_remove(conversation->messages, 0);
    if (message && json_array_insert_new(conversation->messages, 0, message) != 0)
        return no_memory(error);
    return SL_OK;
}

enum sl_status conversation_add_user(struct conversation *conversation, const char *text,
                                     size_t bytes, struct sl_error *error)
{
    json_t *message = make_message("user", text, bytes);
    if (!message || json_array_append_new(conversation->messages, message) != 0)
        return no_memory(error);
    return SL_OK;
}

void conversation_pop(struct conversation *conversation)
{
    size_t count = json_array_size(conversation->messages);
    if (count) json_array_remove(conversation->messages, count - 1);
}

void conversation_reset(struct conversation *conversation)
{
    size_t kept = has_system(conversation) ? 1 : 0;
    while (json_array_size(conversation->messages) > kept)
        conversation_pop(conversation);
}

static const char *mode_name(const struct conversation *conversation)
{
    return conversation->think == THINK_NONE ? "chat" : "thinking";
}

/* The message in a complete answer, or NULL where there is none to be found. */
static json_t *parse_answer(const struct conversation *conversation, const struct grow_text *text)
{
    struct grow_text whole = {0};
    json_t *input = NULL;
    if (grow_text_append(&whole, text->data, text->bytes, NULL) == SL_OK &&
        grow_text_append(&whole, conversation->end, conversation->end_bytes, NULL) == SL_OK)
        input = json_pack("{s:s%, s:s}", "text", whole.data, whole.bytes, "thinking_mode",
                          mode_name(conversation));
    grow_text_deinit(&whole);
    char *line = input ? json_dumps(input, JSON_COMPACT) : NULL;
    char *message = NULL;
    size_t message_bytes = 0;
    json_t *parsed = NULL;
    if (line && sl_chat_parse(line, strlen(line), &message, &message_bytes, NULL) == SL_OK)
        parsed = json_loadb(message, message_bytes, JSON_ALLOW_NUL, NULL);
    free(message);
    free(line);
    json_decref(input);
    return parsed;
}

enum sl_status conversation_add_answer(struct conversation *conversation,
                                       const struct grow_text *text, bool complete,
                                       struct sl_error *error)
{
    json_t *message = complete ? parse_answer(conversation, text) : NULL;
    if (!message) message = make_message("assistant", text->data, text->bytes);
    if (!message || json_array_append_new(conversation->messages, message) != 0)
        return no_memory(error);
    return SL_OK;
}

/* The whole conversation as sl_chat_render reads it; NULL without memory. */
static json_t *render_input(const struct conversation *conversation)
{
    const char *effort = NULL;
    if (conversation->think != THINK_NONE) effort = answer_args_think_names[conversation->think];
    return json_pack("{s:O, s:s, s:s*, s:s}", "messages", conversation->messages, "thinking_mode",
                     mode_name(conversation), "reasoning_effort", effort, "effort_profile",
                     conversation->profile_0731 ? "0731" : "preview");
}

enum sl_status conversation_render(const struct conversation *conversation, struct ids_input *out,
                                   struct sl_error *error)
{
    *out = (struct ids_input){0};
    json_t *input = render_input(conversation);
    char *line = input ? json_dumps(input, JSON_COMPACT) : NULL;
    json_decref(input);
    if (!line) return no_memory(error);
    char *prompt = NULL;
    size_t bytes = 0;
    enum sl_status status = sl_chat_render(line, strlen(line), &prompt, &bytes, error);
    if (status == SL_OK)
        status = sl_tokenizer_encode(conversation->tokenizer, prompt, bytes, &out->ids, &out->count,
                                     error);
    free(prompt);
    free(line);
    return status;
}

enum sl_status conversation_save(const struct conversation *conversation, const char *path,
                                 struct sl_error *error)
{
    json_t *input = render_input(conversation);
    if (!input) return no_memory(error);
    errno = 0;
    int failed = json_dump_file(input, path, JSON_INDENT(2));
    json_decref(input);
    if (!failed) return SL_OK;
    return sl_error_set(error, SL_ERR_IO, errno, "cannot write %s: %s", path,
                        errno ? strerror(errno) : "the file could not be written");
}
