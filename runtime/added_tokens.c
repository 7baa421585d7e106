/* A tree of the added tokens' bytes, walked from every position of a text; see the header. */
#include "runtime/added_tokens.h"

struct added_tokens_node {
    int32_t first_child, next_sibling; /* 0: none; node 0 is not used */
    int32_t id;                        /* of the token that ends here, or -1 */
    uint8_t byte;
};

void added_tokens_deinit(struct added_tokens *tokens)
{
    free(tokens->nodes);
    *tokens = (struct added_tokens){0};
}

static enum sl_status reserve_nodes(struct added_tokens *tokens, int32_t more)
{
    SL_ASSERT(tokens->count <= tokens->capacity);
    if (more <= tokens->capacity - tokens->count) return SL_OK;
    int64_t capacity = (int64_t)tokens->capacity * 2 + more;
    if (capacity > INT32_MAX) return SL_ERR_NO_MEMORY;
    struct added_tokens_node *nodes =
        realloc(tokens->nodes, (size_t)capacity * sizeof *tokens->nodes);
    if (!nodes) return SL_ERR_NO_MEMORY;
    tokens->nodes = nodes;
    tokens->capacity = (int32_t)capacity;
    return SL_OK;
}

static int32_t find_child(const struct added_tokens *tokens, int32_t parent, uint8_t byte)
{
    int32_t node = tokens->nodes[parent].first_child;
    while (node != 0 && tokens->nodes[node].byte != byte)
        node = tokens->nodes[node].next_sibling;
    return node;
}

enum sl_status added_tokens_add(struct added_tokens *tokens, const char *content, size_t bytes,
                                int32_t id)
{
    SL_ASSERT(bytes > 0 && bytes <= ADDED_TOKENS_CONTENT_BYTES_MAX);
    SL_ASSERT(id >= 0);
    SL_TRY(reserve_nodes(tokens, (int32_t)bytes + 1));
    if (tokens->count == 0) tokens->nodes[tokens->count++] = (struct added_tokens_node){.id = -1};

    int32_t parent = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)content[i];
        int32_t node = i == 0 ? tokens->starts[byte] : find_child(tokens, parent, byte);
        if (node == 0) {
            node = tokens->count++;
            tokens->nodes[node] = (struct added_tokens_node){.id = -1, .byte = byte};
            if (i == 0) {
                tokens->starts[byte] = node;
            } else {
                tokens->nodes[node].next_sibling = tokens->nodes[parent].first_child;
                tokens->nodes[parent].first_child = node;
            }
        }
        parent = node;
    }
    if (tokens->nodes[parent].id < 0) tokens->nodes[parent].id = id;
    return SL_OK;
}

/* The longest token at the start of `text`; false when none starts there. */
static bool match_here(const struct added_tokens *tokens, const char *text, size_t bytes,
                       struct added_tokens_match *out)
{
    int32_t node = tokens->starts[(uint8_t)text[0]];
    bool found = false;
    for (size_t length = 1; node != 0; length++) {
        if (tokens->nodes[node].id >= 0) {
            out->bytes = length;
            out->id = tokens->nodes[node].id;
            found = true;
        }
        if (length == bytes) break;
        node = find_child(tokens, node, (uint8_t)text[length]);
    }
    return found;
}

bool added_tokens_next(const struct added_tokens *tokens, const char *text, size_t bytes,
                       size_t from, struct added_tokens_match *out)
{
    for (size_t at = from; at < bytes; at++) {
        if (match_here(tokens, text + at, bytes - at, out)) {
            out->start = at;
            return true;
        }
    }
    return false;
}

int32_t added_tokens_find(const struct added_tokens *tokens, const char *content, size_t bytes)
{
    struct added_tokens_match match;
    if (bytes == 0 || !match_here(tokens, content, bytes, &match)) return -1;
    return match.bytes == bytes ? match.id : -1;
}
