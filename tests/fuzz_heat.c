/* Fuzz target: a heat profile. The first byte says whether the checksums are set right, so that
 * what lies behind them is reached. */
#include "offload/heat.h"

#include <string.h>

#include <xxhash.h>

#define LAYERS  2
#define EXPERTS 4
#define BODY    (sizeof(float) * HEAT_TERMS * LAYERS * (1 + EXPERTS))
#define WHOLE   (HEAT_PROFILE_HEAD_BYTES + BODY)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t file[WHOLE + 8] = {0};
    struct sl_error error;
    struct heat heat;
    if (bytes < 1) return 0;
    bool sealed = data[0] & 1;
    data++, bytes--;
    if (bytes > sizeof file) bytes = sizeof file;
    memcpy(file, data, bytes);
    if (sealed) {
        uint64_t body = XXH3_64bits(file + HEAT_PROFILE_HEAD_BYTES, BODY);
        memcpy(file + 32, &body, sizeof body);
        uint64_t head = XXH3_64bits(file, HEAT_PROFILE_HEAD_BYTES - 8);
        memcpy(file + HEAT_PROFILE_HEAD_BYTES - 8, &head, sizeof head);
        bytes = WHOLE;
    }
    if (heat_init(&heat, LAYERS, EXPERTS, &error) != SL_OK) return 0;
    if (heat_parse(&heat, file, bytes, "fuzz", 0, &error) == SL_OK) {
        SL_ASSERT(bytes == WHOLE);
        for (int32_t i = 0; i < LAYERS * EXPERTS; i++) {
            float rate = heat_rate(&heat, i);
            SL_ASSERT(rate >= 0);
            heat_use(&heat, i, i);
        }
    } else {
        for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
            SL_ASSERT(heat_rate(&heat, i) == 0);
    }
    heat_deinit(&heat);
    return 0;
}
