/* Writes the prompt for a conversation; the public call is described in sl.h and docs/chat.md. */
#include "kernels/base.h"
#include "runtime/chat.h"
#include "runtime/chat_strings.h"
#include "runtime/sl.h"

#include <string.h>

/* ---- effort ------------------------------------------------------------------------------- */

/* What the later checkpoint calls "high" is the first release's "max"; a level without a row does
 * not exist there. */
static const struct effort {
    const char *profile, *level, *prefix;
} EFFORTS[] = {
    {"preview", "high", ""},
    {"preview", "max", CHAT_EFFORT_THOROUGH},
    {"0731", "low", ""},
    {"0731", "high", CHAT_EFFORT_THOROUGH},
    {"0731", "max", CHAT_EFFORT_BEYOND},
};

static enum sl_status read_effort(const struct json_value *input, const char **prefix,
                                  struct sl_error *error)
{
    const struct json_value *profile = json_value_find(input, "effort_profile");
    const struct json_value *level = json_value_find(input, "reasoning_effort");
    bool is_0731 = json_value_is(profile, "0731");
    if (profile && !is_0731 && !json_value_is(profile, "preview")) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "effort_profile: expected \"preview\" or \"0731\"");
    }
    *prefix = "";
    if (!level) return SL_OK;
    for (size_t i = 0; i < SL_COUNT_OF(EFFORTS); i++) {
        const struct effort *effort = &EFFORTS[i];
        if (strcmp(effort->profile, is_0731 ? "0731" : "preview") != 0) continue;
        if (!json_value_is(level, effort->level)) continue;
        *prefix = effort->prefix;
        return SL_OK;
    }
    return sl_error_set(error, SL_ERR_ARGUMENT, 0, "reasoning_effort: expected %s%s",
                        is_0731 ? "\"low\", \"high\" or \"max\" with effort_profile \"0731\""
                                : "\"high\" or \"max\" with effort_profile \"preview\"",
                        ", or none");
}

/* ---- pieces ------------------------------------------------------------------------------- */

static void put_text(const struct json_value *text, struct text_buffer *out)
{
    if (text) text_buffer_append(out, text->text, text->bytes);
}

static void put_tools(const struct json_value *tools, struct text_buffer *out)
{
    text_buffer_append_text(out, CHAT_BLOCK_SEPARATOR CHAT_TOOLS_BEFORE_SCHEMAS);
    for (const struct json_value *tool = tools->first; tool; tool = tool->next) {
        json_value_write(json_value_find(tool, "function"), out);
        if (tool->next) text_buffer_append_byte(out, '\n');
    }
    text_buffer_append_text(out, CHAT_TOOLS_AFTER_SCHEMAS);
}

/* Content, tools and reply format of a system or developer message. */
static void put_instructions(const struct chat_message *message, struct text_buffer *out)
{
    put_text(message->content, out);
    if (message->tools) put_tools(message->tools, out);
    if (message->response_format) {
        text_buffer_append_text(out, CHAT_BLOCK_SEPARATOR CHAT_FORMAT_BEFORE_SCHEMA);
        json_value_write(message->response_format, out);
    }
}

static void put_part(const struct json_value *part, struct text_buffer *out)
{
    const struct json_value *type = json_value_find(part, "type");
    if (json_value_is(type, "text")) {
        put_text(json_value_find(part, "text"), out);
        return;
    }
    text_buffer_append_text(out, "[Unsupported ");
    put_text(type, out);
    text_buffer_append_byte(out, ']');
}

static void put_block(const struct chat_block *block, struct text_buffer *out)
{
    if (!block->is_result) {
        put_text(block->content, out);
        return;
    }
    text_buffer_append_text(out, CHAT_RESULT_BEFORE);
    if (block->content && block->content->type == JSON_ARRAY) {
        for (const struct json_value *part = block->content->first; part; part = part->next) {
            put_part(part, out);
            if (part->next) text_buffer_append_text(out, CHAT_BLOCK_SEPARATOR);
        }
    } else {
        put_text(block->content, out);
    }
    text_buffer_append_text(out, CHAT_RESULT_AFTER);
}

/* ---- tool calls --------------------------------------------------------------------------- */

static void put_param(const char *key, size_t key_bytes, const struct json_value *value,
                      struct text_buffer *out)
{
    bool is_text = value->type == JSON_STRING;
    text_buffer_append_text(out, CHAT_PARAM_TAG " " CHAT_NAME);
    text_buffer_append(out, key, key_bytes);
    text_buffer_append_text(out, CHAT_PARAM_AFTER_KEY);
    text_buffer_append_text(out, is_text ? "true" : "false");
    text_buffer_append_text(out, CHAT_PARAM_AFTER_FLAG);
    if (is_text) {
        put_text(value, out);
    } else {
        json_value_write(value, out);
    }
    text_buffer_append_text(out, CHAT_PARAM_END_TAG ">");
}

/* Arguments that are no JSON text, as a model may have written them, become one parameter. */
static void put_raw_arguments(const struct json_value *arguments, struct text_buffer *out)
{
    static const char key[] = "arguments";
    put_param(key, sizeof key - 1, arguments, out);
}

/* `where` names the field for messages. */
static enum sl_status put_arguments(const struct json_value *arguments, const char *where,
                                    struct text_buffer *out, struct sl_error *error)
{
    struct json_document document = {0};
    if (arguments->type != JSON_STRING) {
        put_raw_arguments(arguments, out);
        return SL_OK;
    }
    enum sl_status status = json_value_parse(arguments->text, arguments->bytes, &document, NULL);
    if (status == SL_ERR_FORMAT) {
        put_raw_arguments(arguments, out);
        return SL_OK;
    }
    if (status != SL_OK) {
        return sl_error_set(error, status, 0, "%s: %s", where,
                            status == SL_ERR_LIMIT ? "values nest too deep" : "out of memory");
    }
    if (document.root->type == JSON_OBJECT) {
        for (const struct json_value *value = document.root->first; value; value = value->next) {
            put_param(value->key, value->key_bytes, value, out);
            if (value->next) text_buffer_append_byte(out, '\n');
        }
    } else {
        status = sl_error_set(error, SL_ERR_ARGUMENT, 0, "%s: expected a JSON object, found %s",
                              where, json_value_kind(document.root));
    }
    json_value_release(&document);
    return status;
}

static enum sl_status put_calls(const struct chat_message *message, struct text_buffer *out,
                                struct sl_error *error)
{
    text_buffer_append_text(out, CHAT_CALLS_TAG CHAT_TAG_END);
    size_t idx = 0;
    for (const struct json_value *call = message->tool_calls->first; call;
         call = call->next, idx++) {
        const struct json_value *function = json_value_find(call, "function");
        char where[96];
        snprintf(where, sizeof where, "messages[%zu].tool_calls[%zu].function.arguments",
                 message->input_idx, idx);
        text_buffer_append_text(out, CHAT_CALL_TAG " " CHAT_NAME);
        put_text(json_value_find(function, "name"), out);
        text_buffer_append_text(out, CHAT_CALL_AFTER_NAME);
        SL_TRY(put_arguments(json_value_find(function, "arguments"), where, out, error));
        text_buffer_append_text(out, "\n" CHAT_CALL_END_TAG CHAT_TAG_END);
    }
    text_buffer_append_text(out, CHAT_CALLS_END_TAG);
    return SL_OK;
}

/* ---- messages ----------------------------------------------------------------------------- */

static enum sl_status put_assistant(const struct chat_conversation *conversation, size_t idx,
                                    struct text_buffer *out, struct sl_error *error)
{
    const struct chat_message *message = &conversation->messages[idx];
    bool follows_task = idx > 0 && conversation->messages[idx - 1].task_token;
    bool is_past = conversation->turn_idx != SIZE_MAX && idx <= conversation->turn_idx;
    if (conversation->is_thinking && !follows_task && !(conversation->drops_past && is_past)) {
        put_text(message->reasoning, out);
        text_buffer_append_text(out, CHAT_THINK_END);
    }
    put_text(message->content, out);
    if (message->tool_calls) SL_TRY(put_calls(message, out, error));
    if (!message->without_eos) text_buffer_append_text(out, CHAT_EOS);
    return SL_OK;
}

static enum sl_status put_message(const struct chat_conversation *conversation, size_t idx,
                                  struct text_buffer *out, struct sl_error *error)
{
    const struct chat_message *message = &conversation->messages[idx];
    switch (message->role) {
    case CHAT_ROLE_SYSTEM: put_instructions(message, out); return SL_OK;
    case CHAT_ROLE_DEVELOPER:
        if (!json_value_is_truthy(message->content)) {
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "messages[%zu].content: a developer message needs text",
                                message->input_idx);
        }
        text_buffer_append_text(out, CHAT_USER);
        put_instructions(message, out);
        return SL_OK;
    case CHAT_ROLE_USER:
        text_buffer_append_text(out, CHAT_USER);
        for (size_t i = 0; i < message->block_count; i++) {
            if (i > 0) text_buffer_append_text(out, CHAT_BLOCK_SEPARATOR);
            put_block(&conversation->blocks[message->first_block + i], out);
        }
        return SL_OK;
    case CHAT_ROLE_LATEST_REMINDER:
        text_buffer_append_text(out, CHAT_LATEST_REMINDER);
        put_text(message->content, out);
        return SL_OK;
    case CHAT_ROLE_ASSISTANT: return put_assistant(conversation, idx, out, error);
    case CHAT_ROLE_TOOL: break;
    }
    SL_ASSERT(message->role != CHAT_ROLE_TOOL); /* merged into user turns */
    return SL_ERR_ARGUMENT;
}

/* What leads from message `idx` to what the assistant says next. */
static void put_transition(const struct chat_conversation *conversation, size_t idx,
                           struct text_buffer *out)
{
    const struct chat_message *message = &conversation->messages[idx];
    if (idx + 1 < conversation->count) {
        enum chat_role next = message[1].role;
        if (next != CHAT_ROLE_ASSISTANT && next != CHAT_ROLE_LATEST_REMINDER) return;
    }
    bool thinks = conversation->is_thinking;
    if (message->task_is_action) {
        text_buffer_append_text(out, CHAT_ASSISTANT);
        text_buffer_append_text(out, thinks ? CHAT_THINK_START : CHAT_THINK_END);
    }
    if (message->task_token) {
        text_buffer_append_text(out, message->task_token);
        return;
    }
    if (message->role != CHAT_ROLE_USER && message->role != CHAT_ROLE_DEVELOPER) return;
    SL_ASSERT(conversation->turn_idx != SIZE_MAX && idx <= conversation->turn_idx);
    if (conversation->drops_past && idx < conversation->turn_idx) thinks = false;
    text_buffer_append_text(out, CHAT_ASSISTANT);
    text_buffer_append_text(out, thinks ? CHAT_THINK_START : CHAT_THINK_END);
}

static enum sl_status put_prompt(const struct json_value *input, struct text_buffer *out,
                                 struct sl_error *error)
{
    bool is_thinking, drop_thinking, add_bos;
    const char *effort_prefix;
    SL_TRY(chat_read_mode(input, &is_thinking, error));
    SL_TRY(chat_read_flag(input, "drop_thinking", true, &drop_thinking, error));
    SL_TRY(chat_read_flag(input, "add_bos", true, &add_bos, error));
    SL_TRY(read_effort(input, &effort_prefix, error));

    struct chat_conversation conversation;
    enum sl_status status =
        chat_conversation_init(input, is_thinking, drop_thinking, &conversation, error);
    if (status != SL_OK) goto done;
    if (add_bos) text_buffer_append_text(out, CHAT_BOS);
    if (is_thinking && conversation.count > 0) text_buffer_append_text(out, effort_prefix);
    for (size_t i = 0; i < conversation.count; i++) {
        status = put_message(&conversation, i, out, error);
        if (status != SL_OK) goto done;
        put_transition(&conversation, i, out);
    }
done:
    chat_conversation_deinit(&conversation);
    return status;
}

enum sl_status sl_chat_render(const char *input, size_t input_bytes, char **prompt, size_t *bytes,
                              struct sl_error *error)
{
    SL_ASSERT((input || input_bytes == 0) && prompt && bytes);
    struct json_document document;
    struct text_buffer out = {0};
    SL_TRY(chat_read_input(input, input_bytes, "input of render", &document, error));
    enum sl_status status = put_prompt(document.root, &out, error);
    if (status == SL_OK) status = text_buffer_take(&out, prompt, bytes, error);
    text_buffer_deinit(&out);
    json_value_release(&document);
    return status;
}
