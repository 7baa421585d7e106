/* Safetensors headers from any bytes: refused, or every tensor inside the data, sized as its shape
 * says, and found again by name. */
#include "runtime/safetensors.h"

#define DATA_START 4096
#define DATA_BYTES 1000000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct safetensors *file = NULL;
    struct sl_error error = {0};
    enum sl_status status = safetensors_parse((const char *)data, bytes, DATA_START, DATA_BYTES,
                                              "shard", &file, &error);
    SL_ASSERT((status == SL_OK) == (file != NULL));
    if (status != SL_OK) {
        SL_ASSERT(error.status == status && error.message[0]);
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct safetensors_tensor *tensor = safetensors_at(file, i);
        uint64_t expected = dtype_bytes(tensor->dtype);
        SL_ASSERT(safetensors_find(file, tensor->name) == tensor);
        SL_ASSERT(tensor->offset_bytes >= DATA_START);
        SL_ASSERT(tensor->offset_bytes + tensor->bytes <= DATA_START + DATA_BYTES);
        SL_ASSERT(tensor->rank >= 0 && tensor->rank <= SAFETENSORS_RANK_MAX);
        for (int32_t k = 0; k < tensor->rank; k++)
            expected *= (uint64_t)tensor->shape[k];
        SL_ASSERT(tensor->dtype == SAFETENSORS_DTYPE_OTHER || expected == tensor->bytes);
    }
    safetensors_close(file);
    return 0;
}
