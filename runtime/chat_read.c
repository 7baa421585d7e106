/* Checks the fields of chat input; see chat.h. */
#include "runtime/chat.h"

#include "kernels/base.h"
#include "runtime/chat_strings.h"

#include <string.h>

/* The path of a nested field, as in "tool_calls[3].function.name". */
#define FIELD_BYTES_MAX 64

static const char *const ROLE_NAMES[] = {
    [CHAT_ROLE_SYSTEM] = "system", [CHAT_ROLE_DEVELOPER] = "developer",
    [CHAT_ROLE_USER] = "user",     [CHAT_ROLE_ASSISTANT] = "assistant",
    [CHAT_ROLE_TOOL] = "tool",     [CHAT_ROLE_LATEST_REMINDER] = "latest_reminder",
};

static const struct {
    const char *name, *token;
} TASKS[] = {
#define TASK_ROW(name, token) {#name, token},
    CHAT_TASKS(TASK_ROW)
#undef TASK_ROW
};

/* ---- the input object --------------------------------------------------------------------- */

enum sl_status chat_read_input(const char *text, size_t bytes, const char *what,
                               struct json_document *document, struct sl_error *error)
{
    SL_TRY(json_value_parse(text, bytes, document, error));
    if (document->root->type == JSON_OBJECT) return SL_OK;
    const char *kind = json_value_kind(document->root);
    json_value_release(document);
    return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%s: expected a JSON object, found %s", what,
                        kind);
}

enum sl_status chat_read_mode(const struct json_value *input, bool *is_thinking,
                              struct sl_error *error)
{
    const struct json_value *mode = json_value_find(input, "thinking_mode");
    *is_thinking = json_value_is(mode, "thinking");
    if (*is_thinking || json_value_is(mode, "chat")) return SL_OK;
    bool is_text = mode && mode->type == JSON_STRING;
    return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                        "thinking_mode: expected \"chat\" or \"thinking\", found %s",
                        is_text ? "another text" : json_value_kind(mode));
}

enum sl_status chat_read_flag(const struct json_value *input, const char *key, bool fallback,
                              bool *out, struct sl_error *error)
{
    const struct json_value *flag = json_value_find(input, key);
    *out = fallback;
    if (!flag) return SL_OK;
    if (flag->type != JSON_BOOL) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%s: expected true or false, found %s", key,
                            json_value_kind(flag));
    }
    *out = flag->truth;
    return SL_OK;
}

/* ---- fields of a message ------------------------------------------------------------------ */

struct message_reader {
    const struct json_value *message;
    size_t idx;
    struct sl_error *error;
};

static enum sl_status expected(const struct message_reader *reader, const char *field,
                               const char *what, const struct json_value *found)
{
    return sl_error_set(reader->error, SL_ERR_ARGUMENT, 0,
                        "messages[%zu].%s: expected %s, found %s", reader->idx, field, what,
                        json_value_kind(found));
}

/* The part of a text that fits into a message. */
static int shown_bytes(const struct json_value *text)
{
    return text->bytes < 40 ? (int)text->bytes : 40;
}

/* An optional field of one type. */
static enum sl_status read_field(const struct message_reader *reader, const char *key,
                                 enum json_type type, const struct json_value **out)
{
    *out = json_value_find(reader->message, key);
    if (!*out || (*out)->type == type) return SL_OK;
    return expected(reader, key, json_value_kind(&(struct json_value){.type = type}), *out);
}

static enum sl_status read_list(const struct message_reader *reader, const char *key,
                                const struct json_value **out)
{
    SL_TRY(read_field(reader, key, JSON_ARRAY, out));
    if (*out && (*out)->count == 0) *out = NULL;
    return SL_OK;
}

static enum sl_status read_role(const struct message_reader *reader, enum chat_role *out)
{
    const struct json_value *role = json_value_find(reader->message, "role");
    if (!role || role->type != JSON_STRING) return expected(reader, "role", "text", role);
    for (size_t i = 0; i < SL_COUNT_OF(ROLE_NAMES); i++) {
        if (!json_value_is(role, ROLE_NAMES[i])) continue;
        *out = (enum chat_role)i;
        return SL_OK;
    }
    return sl_error_set(reader->error, SL_ERR_ARGUMENT, 0,
                        "messages[%zu].role: \"%.*s\" is unknown; use system, developer, user, "
                        "assistant, tool or latest_reminder",
                        reader->idx, shown_bytes(role), role->text);
}

static enum sl_status read_task(const struct message_reader *reader, struct chat_message *out)
{
    const struct json_value *task;
    SL_TRY(read_field(reader, "task", JSON_STRING, &task));
    if (!task) return SL_OK;
    for (size_t i = 0; i < SL_COUNT_OF(TASKS); i++) {
        if (!json_value_is(task, TASKS[i].name)) continue;
        out->task_token = TASKS[i].token;
        out->task_is_action = strcmp(TASKS[i].name, "action") == 0;
        return SL_OK;
    }
    return sl_error_set(reader->error, SL_ERR_ARGUMENT, 0,
                        "messages[%zu].task: \"%.*s\" is unknown; use action, query, authority, "
                        "domain, title or read_url",
                        reader->idx, shown_bytes(task), task->text);
}

static enum sl_status read_tools(const struct message_reader *reader, struct chat_message *out)
{
    SL_TRY(read_list(reader, "tools", &out->tools));
    if (!out->tools) return SL_OK;
    size_t i = 0;
    for (const struct json_value *tool = out->tools->first; tool; tool = tool->next, i++) {
        char field[FIELD_BYTES_MAX];
        snprintf(field, sizeof field, "tools[%zu]", i);
        if (tool->type != JSON_OBJECT) return expected(reader, field, "an object", tool);
        const struct json_value *function = json_value_find(tool, "function");
        snprintf(field, sizeof field, "tools[%zu].function", i);
        if (!function || function->type != JSON_OBJECT)
            return expected(reader, field, "an object", function);
    }
    return SL_OK;
}

static enum sl_status read_call(const struct message_reader *reader, const struct json_value *call,
                                size_t idx)
{
    char field[FIELD_BYTES_MAX];
    snprintf(field, sizeof field, "tool_calls[%zu]", idx);
    if (call->type != JSON_OBJECT) return expected(reader, field, "an object", call);

    const struct json_value *function = json_value_find(call, "function");
    snprintf(field, sizeof field, "tool_calls[%zu].function", idx);
    if (!function || function->type != JSON_OBJECT)
        return expected(reader, field, "an object", function);

    const struct json_value *id = json_value_find(call, "id");
    if (!id) id = json_value_find(function, "id");
    snprintf(field, sizeof field, "tool_calls[%zu].id", idx);
    if (id && id->type != JSON_STRING) return expected(reader, field, "text", id);

    const struct json_value *name = json_value_find(function, "name");
    snprintf(field, sizeof field, "tool_calls[%zu].function.name", idx);
    if (!name || name->type != JSON_STRING) return expected(reader, field, "text", name);

    const struct json_value *arguments = json_value_find(function, "arguments");
    snprintf(field, sizeof field, "tool_calls[%zu].function.arguments", idx);
    if (!arguments) return expected(reader, field, "a JSON object as text", arguments);
    return SL_OK;
}

const struct json_value *chat_call_id(const struct json_value *call)
{
    const struct json_value *id = json_value_find(call, "id");
    if (!json_value_is_truthy(id)) id = json_value_find(json_value_find(call, "function"), "id");
    return json_value_is_truthy(id) && id->type == JSON_STRING ? id : NULL;
}

/* Parts of a tool's content: objects with a type, and those of type text with a text. */
static enum sl_status read_parts(const struct message_reader *reader,
                                 const struct json_value *parts)
{
    size_t i = 0;
    for (const struct json_value *part = parts->first; part; part = part->next, i++) {
        char field[FIELD_BYTES_MAX];
        snprintf(field, sizeof field, "content[%zu]", i);
        if (part->type != JSON_OBJECT) return expected(reader, field, "an object", part);
        const struct json_value *type = json_value_find(part, "type");
        snprintf(field, sizeof field, "content[%zu].type", i);
        if (!type || type->type != JSON_STRING) return expected(reader, field, "text", type);
        const struct json_value *text = json_value_find(part, "text");
        snprintf(field, sizeof field, "content[%zu].text", i);
        if (json_value_is(type, "text") && text && text->type != JSON_STRING)
            return expected(reader, field, "text", text);
    }
    return SL_OK;
}

static enum sl_status read_tool_message(const struct message_reader *reader,
                                        struct chat_message *out)
{
    SL_TRY(read_field(reader, "tool_call_id", JSON_STRING, &out->tool_call_id));
    out->content = json_value_find(reader->message, "content");
    if (!out->content || out->content->type == JSON_STRING) return SL_OK;
    if (out->content->type != JSON_ARRAY)
        return expected(reader, "content", "text or an array of parts", out->content);
    return read_parts(reader, out->content);
}

static enum sl_status read_assistant_message(const struct message_reader *reader,
                                             struct chat_message *out)
{
    SL_TRY(read_field(reader, "reasoning_content", JSON_STRING, &out->reasoning));
    SL_TRY(read_list(reader, "tool_calls", &out->tool_calls));
    const struct json_value *without_eos;
    SL_TRY(read_field(reader, "wo_eos", JSON_BOOL, &without_eos));
    out->without_eos = without_eos && without_eos->truth;
    if (!out->tool_calls) return SL_OK;
    size_t i = 0;
    for (const struct json_value *call = out->tool_calls->first; call; call = call->next, i++)
        SL_TRY(read_call(reader, call, i));
    return SL_OK;
}

enum sl_status chat_read_message(const struct json_value *value, size_t idx,
                                 struct chat_message *out, struct sl_error *error)
{
    SL_ASSERT(value && out);
    if (value->type != JSON_OBJECT) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "messages[%zu]: expected an object, found %s", idx,
                            json_value_kind(value));
    }
    struct message_reader reader = {value, idx, error};
    *out = (struct chat_message){.input_idx = idx};
    SL_TRY(read_role(&reader, &out->role));
    if (out->role == CHAT_ROLE_TOOL) return read_tool_message(&reader, out);

    SL_TRY(read_field(&reader, "content", JSON_STRING, &out->content));
    SL_TRY(read_task(&reader, out));
    if (out->role == CHAT_ROLE_USER) return SL_OK;
    SL_TRY(read_tools(&reader, out));
    if (out->role == CHAT_ROLE_ASSISTANT) return read_assistant_message(&reader, out);

    const struct json_value *format = json_value_find(value, "response_format");
    if (json_value_is_truthy(format)) out->response_format = format;
    return SL_OK;
}
