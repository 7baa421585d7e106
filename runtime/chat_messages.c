/* Makes turns of chat messages; see chat.h. */
#include "kernels/base.h"
#include "runtime/chat.h"

#include <string.h>

/* ---- merging ------------------------------------------------------------------------------ */

/* A user or tool message joins the user turn before it, or begins one. */
static void merge_into_turn(struct chat_conversation *conversation,
                            const struct chat_message *message, size_t *block_count)
{
    bool is_result = message->role == CHAT_ROLE_TOOL;
    struct chat_message *last =
        conversation->count > 0 ? &conversation->messages[conversation->count - 1] : NULL;
    /* A task closes a turn to further text, but not to the results of tools. */
    bool joins = last && last->role == CHAT_ROLE_USER && (is_result || !last->task_token);
    if (!joins) {
        last = &conversation->messages[conversation->count++];
        *last = (struct chat_message){
            .role = CHAT_ROLE_USER,
            .input_idx = message->input_idx,
            .task_token = message->task_token,
            .task_is_action = message->task_is_action,
            .first_block = *block_count,
        };
    }
    SL_ASSERT(last->first_block + last->block_count == *block_count);
    conversation->blocks[(*block_count)++] = (struct chat_block){
        .is_result = is_result, .content = message->content, .id = message->tool_call_id};
    last->block_count++;
}

static enum sl_status merge_messages(const struct json_value *list,
                                     struct chat_conversation *conversation, struct sl_error *error)
{
    size_t block_count = 0, idx = 0;
    for (const struct json_value *value = list->first; value; value = value->next, idx++) {
        struct chat_message message;
        SL_TRY(chat_read_message(value, idx, &message, error));
        if (message.role == CHAT_ROLE_USER || message.role == CHAT_ROLE_TOOL) {
            merge_into_turn(conversation, &message, &block_count);
        } else {
            conversation->messages[conversation->count++] = message;
        }
    }
    SL_ASSERT(conversation->count <= list->count && block_count <= list->count);
    return SL_OK;
}

/* ---- order of tool results ---------------------------------------------------------------- */

struct call_place {
    const struct json_value *id;
    size_t position; /* among the calls of its message */
};

struct result_place {
    size_t position, order; /* of the call; of the block before sorting */
    struct chat_block block;
};

/* Scratch, as large as the largest message needs. */
struct result_sorter {
    struct call_place *calls; /* of the latest assistant message with calls, sorted by id */
    size_t call_count;
    struct result_place *results;
};

static int compare_ids(const struct json_value *a, const struct json_value *b)
{
    int order = memcmp(a->text, b->text, a->bytes < b->bytes ? a->bytes : b->bytes);
    if (order != 0) return order;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static int compare_calls(const void *left, const void *right)
{
    const struct call_place *a = left, *b = right;
    int order = compare_ids(a->id, b->id);
    if (order != 0) return order;
    return a->position < b->position ? -1 : a->position > b->position;
}

static int compare_results(const void *left, const void *right)
{
    const struct result_place *a = left, *b = right;
    if (a->position != b->position) return a->position < b->position ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

static void remember_calls(struct result_sorter *sorter, const struct json_value *tool_calls)
{
    size_t position = 0;
    sorter->call_count = 0;
    for (const struct json_value *call = tool_calls->first; call; call = call->next, position++) {
        const struct json_value *id = chat_call_id(call);
        if (id) sorter->calls[sorter->call_count++] = (struct call_place){id, position};
    }
    if (sorter->call_count > 1)
        qsort(sorter->calls, sorter->call_count, sizeof *sorter->calls, compare_calls);
}

/* The position of the call with that id, the last if several share it; 0 if none has it. */
static size_t find_position(const struct result_sorter *sorter, const struct json_value *id)
{
    if (!id || id->bytes == 0) return 0;
    size_t low = 0, high = sorter->call_count; /* first call whose id is greater */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_ids(sorter->calls[middle].id, id) <= 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == 0 || compare_ids(sorter->calls[low - 1].id, id) != 0) return 0;
    return sorter->calls[low - 1].position;
}

static void sort_turn(struct result_sorter *sorter, struct chat_block *blocks, size_t block_count)
{
    size_t count = 0;
    for (size_t i = 0; i < block_count; i++) {
        if (!blocks[i].is_result) continue;
        size_t position = find_position(sorter, blocks[i].id);
        sorter->results[count] = (struct result_place){position, count, blocks[i]};
        count++;
    }
    if (count < 2) return;
    qsort(sorter->results, count, sizeof *sorter->results, compare_results);
    size_t next = 0;
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].is_result) blocks[i] = sorter->results[next++].block;
    SL_ASSERT(next == count);
}

/* Results of parallel calls come in any order; the prompt has them in the order of the calls. */
static enum sl_status sort_results(struct chat_conversation *conversation, struct sl_error *error)
{
    size_t calls_max = 0, blocks_max = 0;
    for (size_t i = 0; i < conversation->count; i++) {
        const struct chat_message *message = &conversation->messages[i];
        if (message->block_count > blocks_max) blocks_max = message->block_count;
        if (message->tool_calls && message->tool_calls->count > calls_max)
            calls_max = message->tool_calls->count;
    }
    if (calls_max == 0 || blocks_max < 2) return SL_OK;

    struct result_sorter sorter = {.calls = malloc(calls_max * sizeof *sorter.calls),
                                   .results = malloc(blocks_max * sizeof *sorter.results)};
    enum sl_status status = SL_OK;
    if (!sorter.calls || !sorter.results) {
        status =
            sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                         "out of memory while sorting the results of %zu tool calls", calls_max);
        goto done;
    }
    for (size_t i = 0; i < conversation->count; i++) {
        const struct chat_message *message = &conversation->messages[i];
        if (message->tool_calls) remember_calls(&sorter, message->tool_calls);
        if (sorter.call_count > 0 && message->block_count > 1)
            sort_turn(&sorter, conversation->blocks + message->first_block, message->block_count);
    }
done:
    free(sorter.calls);
    free(sorter.results);
    return status;
}

/* ---- dropping the past -------------------------------------------------------------------- */

static bool begins_turn(const struct chat_message *message)
{
    return message->role == CHAT_ROLE_USER || message->role == CHAT_ROLE_DEVELOPER;
}

static size_t find_last_turn(const struct chat_conversation *conversation)
{
    for (size_t i = conversation->count; i > 0; i--)
        if (begins_turn(&conversation->messages[i - 1])) return i - 1;
    return SIZE_MAX;
}

/* Developer messages go with the reasoning they led to; that reasoning itself is left out when
 * rendering, by position. */
static void drop_past(struct chat_conversation *conversation)
{
    size_t turn_idx = find_last_turn(conversation), kept = 0;
    if (turn_idx == SIZE_MAX) return;
    for (size_t i = 0; i < conversation->count; i++) {
        const struct chat_message *message = &conversation->messages[i];
        if (i >= turn_idx || message->role != CHAT_ROLE_DEVELOPER)
            conversation->messages[kept++] = *message;
    }
    conversation->count = kept;
}

static bool any_tools(const struct chat_conversation *conversation)
{
    for (size_t i = 0; i < conversation->count; i++)
        if (conversation->messages[i].tools) return true;
    return false;
}

/* ---- all of it ---------------------------------------------------------------------------- */

enum sl_status chat_conversation_init(const struct json_value *input, bool is_thinking,
                                      bool drop_thinking, struct chat_conversation *out,
                                      struct sl_error *error)
{
    *out = (struct chat_conversation){.is_thinking = is_thinking};
    const struct json_value *list = json_value_find(input, "messages");
    if (!list || list->type != JSON_ARRAY) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "messages: expected an array, found %s",
                            json_value_kind(list));
    }
    if (list->count > 0) {
        out->messages = calloc(list->count, sizeof *out->messages);
        out->blocks = calloc(list->count, sizeof *out->blocks);
        if (!out->messages || !out->blocks) {
            return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory for %zu messages",
                                list->count);
        }
    }
    SL_TRY(merge_messages(list, out, error));
    SL_TRY(sort_results(out, error));
    out->drops_past = drop_thinking && !any_tools(out);
    if (is_thinking && out->drops_past) drop_past(out);
    out->turn_idx = find_last_turn(out);
    return SL_OK;
}

void chat_conversation_deinit(struct chat_conversation *conversation)
{
    free(conversation->messages);
    free(conversation->blocks);
    *conversation = (struct chat_conversation){0};
}
