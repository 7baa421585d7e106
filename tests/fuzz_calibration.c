/* Fuzz target: a machine profile. With the first byte's lowest bit set, the text gets a right
 * checksum at its end, so that everything before is looked at. What is accepted reads the same
 * again after it is written. */
#include "offload/calibration.h"

#include <inttypes.h>
#include <string.h>

#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static char text[CALIBRATION_FILE_BYTES_MAX + 64], again[CALIBRATION_FILE_BYTES_MAX];
    struct calibration first, second;
    struct sl_error error;
    if (bytes < 1 || bytes > CALIBRATION_FILE_BYTES_MAX) return 0;
    bool seal = data[0] & 1;
    size_t length = bytes - 1;
    memcpy(text, data + 1, length);
    if (seal)
        length += (size_t)snprintf(text + length, 64, "checksum %016" PRIx64 "\n",
                                   (uint64_t)XXH3_64bits(text, length));
    if (calibration_parse(text, length, "fuzz", &first, &error) != SL_OK) {
        SL_ASSERT(strstr(error.message, "fuzz"));
        return 0;
    }
    size_t written = calibration_format(&first, again);
    SL_ASSERT(calibration_parse(again, written, "again", &second, &error) == SL_OK);
    SL_ASSERT(memcmp(&first, &second, sizeof first) == 0);
    return 0;
}
