/* Fuzz target: a trace in memory. The first byte says how much is sealed before it is read, so that
 * the fields behind the checksums are reached: 1 the head, 2 each block that is found. */
#include "offload/trace_reader.h"

#include <string.h>

#define BLOCK_CHECKSUM_AT (TRACE_BLOCK_HEAD_BYTES - 8)
#define STEPS_MAX         1000 /* read at most: an input of tiny steps is no find */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Heads within bounds are written again, which sets their sum right; others keep the wrong one. */
static void seal_head(uint8_t *head)
{
    struct trace_head parsed;
    struct sl_error error;
    uint8_t again[TRACE_HEAD_BYTES];
    parsed = (struct trace_head){0};
    uint32_t fields[8];
    memcpy(fields, head + 8, sizeof fields);
    parsed.layers = (int32_t)fields[1], parsed.hash_layers = (int32_t)fields[2];
    parsed.experts = (int32_t)fields[3], parsed.top = (int32_t)fields[4];
    parsed.list_count = (int32_t)fields[5], parsed.guesses = (int32_t)fields[6];
    memcpy(parsed.lists, head + 40, sizeof parsed.lists);
    memcpy(parsed.source, "fuzz", 5);
    if (trace_head_check(&parsed, &error) != SL_OK) return;
    trace_head_encode(&parsed, again);
    memcpy(head, again, sizeof again);
}

static void seal_blocks(uint8_t *data, size_t bytes)
{
    size_t at = TRACE_HEAD_BYTES;
    while (at + TRACE_BLOCK_HEAD_BYTES <= bytes) {
        struct trace_block block;
        uint64_t sum;
        if (!trace_block_parse(data + at, &block, &sum)) return;
        size_t payload = at + TRACE_BLOCK_HEAD_BYTES;
        if (block.payload_bytes > bytes - payload) return;
        sum = trace_block_checksum(data + at, data + payload, block.payload_bytes);
        memcpy(data + at + BLOCK_CHECKSUM_AT, &sum, sizeof sum);
        at = payload + block.payload_bytes;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct trace_reader *reader;
    const struct trace_step *step;
    struct sl_error error;
    if (bytes < 1 + TRACE_HEAD_BYTES) return 0;
    uint8_t seal = data[0];
    bytes--;
    uint8_t *copy = malloc(bytes);
    if (!copy) return 0;
    memcpy(copy, data + 1, bytes);
    if (seal & 1) seal_head(copy);
    if (seal & 2) seal_blocks(copy, bytes);
    if (trace_reader_open_memory(copy, bytes, "fuzz", &reader, &error) == SL_OK) {
        const struct trace_head *head = trace_reader_head(reader);
        for (int32_t i = 0; i < STEPS_MAX; i++) {
            if (trace_reader_next(reader, &step, &error) != SL_OK) {
                SL_ASSERT(strstr(error.message, "fuzz"));
                break;
            }
            if (!step) break;
            /* Whatever is handed out keeps the head's promises. */
            size_t chosen = (size_t)step->layers * (size_t)step->tokens * (size_t)head->top;
            for (size_t c = 0; c < chosen; c++)
                SL_ASSERT(step->chosen[c] < head->experts);
        }
        trace_reader_close(reader);
    }
    free(copy);
    return 0;
}
