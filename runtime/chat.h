/* Chat messages as the prompt encoder sees them, between JSON and text.
 *
 * chat_read.c checks and names the fields of one message, chat_messages.c joins messages into turns
 * (merging, order of tool results, dropped reasoning), chat_render.c writes the prompt and
 * chat_parse.c reads a completion; the last two are the public calls of sl.h. Everything here
 * borrows from the JSON document of the input. No state: any thread. Input that cannot be rendered
 * is SL_ERR_ARGUMENT, with the message's index in the input and the field. */
#ifndef SLUICE_RUNTIME_CHAT_H
#define SLUICE_RUNTIME_CHAT_H

#include "runtime/json_value.h"

enum chat_role {
    CHAT_ROLE_SYSTEM,
    CHAT_ROLE_DEVELOPER,
    CHAT_ROLE_USER,
    CHAT_ROLE_ASSISTANT,
    CHAT_ROLE_TOOL,
    CHAT_ROLE_LATEST_REMINDER,
};

/* One message, its fields checked. A pointer is NULL where the field is absent, null or, for lists
 * and response_format, empty. */
struct chat_message {
    enum chat_role role;
    size_t input_idx;                         /* place in the input's messages */
    const struct json_value *content;         /* text; of a tool also an array of parts */
    const struct json_value *reasoning;       /* assistant: text */
    const struct json_value *tool_calls;      /* assistant: array, each call checked */
    const struct json_value *tool_call_id;    /* tool: text */
    const struct json_value *tools;           /* not user, not tool: array, each with a function */
    const struct json_value *response_format; /* system, developer */
    const char *task_token;                   /* not tool */
    bool task_is_action;
    bool without_eos; /* assistant */
    /* User, once merged: its part of the conversation's blocks. */
    size_t first_block, block_count;
};

/* A piece of a user turn: the text of a user message, or the result of a tool. */
struct chat_block {
    bool is_result;
    const struct json_value *content; /* as in the message it comes from */
    const struct json_value *id;      /* of a result */
};

struct chat_conversation {
    struct chat_message *messages; /* [count] */
    size_t count;
    struct chat_block *blocks;    /* [one per user and tool message of the input] */
    size_t turn_idx;              /* of the last user or developer message; SIZE_MAX: none */
    bool is_thinking, drops_past; /* drops_past: reasoning before turn_idx is left out */
};

/* ---- reading: chat_read.c ----------------------------------------------------------------- */

/* Checks the input's thinking_mode. */
SL_MUST_USE enum sl_status chat_read_mode(const struct json_value *input, bool *is_thinking,
                                          struct sl_error *error);

/* An optional field of the input that is true or false. */
SL_MUST_USE enum sl_status chat_read_flag(const struct json_value *input, const char *key,
                                          bool fallback, bool *out, struct sl_error *error);

/* Parses `text` as a JSON object; `what` names it in the message. */
SL_MUST_USE enum sl_status chat_read_input(const char *text, size_t bytes, const char *what,
                                           struct json_document *document, struct sl_error *error);

/* Checks message `idx` of the input and names its fields. */
SL_MUST_USE enum sl_status chat_read_message(const struct json_value *value, size_t idx,
                                             struct chat_message *out, struct sl_error *error);

/* The id of a checked tool call, its own or its function's, or NULL when it has none. */
const struct json_value *chat_call_id(const struct json_value *call);

/* ---- turns: chat_messages.c --------------------------------------------------------------- */

/* Reads the input's messages and makes turns of them. Release with chat_conversation_deinit, which
 * may also be called after a failure or on zeros. */
SL_MUST_USE enum sl_status chat_conversation_init(const struct json_value *input, bool is_thinking,
                                                  bool drop_thinking, struct chat_conversation *out,
                                                  struct sl_error *error);
void chat_conversation_deinit(struct chat_conversation *conversation);

#endif
