/* Fuzz target: the head of a packed experts file. The first byte says whether the checksum is set
 * right, so that the fields behind it are reached; the next eight are the file's claimed size. */
#include "offload/model_file_head.h"

#include <string.h>

#define HEAD_CHECKSUM_AT (MODEL_FILE_HEAD_BYTES - 8)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t head_bytes[MODEL_FILE_HEAD_BYTES] = {0};
    struct model_file_head head;
    struct sl_error error;
    uint64_t file_bytes = 0;
    if (bytes < 9) return 0;
    bool sealed = data[0] & 1;
    memcpy(&file_bytes, data + 1, sizeof file_bytes);
    data += 9, bytes -= 9;
    size_t length = sealed || bytes > sizeof head_bytes ? sizeof head_bytes : bytes;
    memcpy(head_bytes, data, bytes < length ? bytes : length);
    if (sealed) {
        uint64_t checksum = model_file_checksum(head_bytes, HEAD_CHECKSUM_AT);
        memcpy(head_bytes + HEAD_CHECKSUM_AT, &checksum, sizeof checksum);
        if (data[-9] & 2 && bytes >= 56) memcpy(&file_bytes, head_bytes + 48, sizeof file_bytes);
    }
    if (model_file_parse_head(head_bytes, length, file_bytes, "fuzz", &head, &error) != SL_OK)
        return 0;

    /* What is accepted is whole and says the same when written again. */
    uint8_t again[MODEL_FILE_HEAD_BYTES];
    SL_ASSERT(head.file_bytes == file_bytes);
    SL_ASSERT(model_file_slot_start(&head, head.slot_count - 1) + head.spec.slot_bytes ==
              file_bytes);
    /* The first and the last expert of the file have its first and last slot. */
    uint64_t experts = (uint64_t)head.spec.layers * (uint64_t)head.spec.experts;
    uint64_t first = 0, last = experts - 1;
    while (!model_file_holds(&head.spec, first))
        first++;
    while (!model_file_holds(&head.spec, last))
        last--;
    SL_ASSERT(model_file_slot_idx(&head.spec, first) == 0);
    SL_ASSERT(model_file_slot_idx(&head.spec, last) == head.slot_count - 1);
    model_file_head_encode(&head, again);
    SL_ASSERT(memcmp(again, head_bytes, sizeof again) == 0);
    return 0;
}
