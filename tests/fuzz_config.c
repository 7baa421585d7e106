/* A configuration from any bytes: refused with a message, or one whose numbers are within the
 * bounds that the rest relies on. */
#include "kernels/ops.h"
#include "runtime/model_config.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct model_config c;
    struct sl_error error = {0};
    float frequencies[MODEL_ROTARY_MAX / 2];
    if (model_config_parse((const char *)data, bytes, "config.json", &c, &error) != SL_OK) {
        SL_ASSERT(error.status != SL_OK && error.message[0]);
        return 0;
    }
    SL_ASSERT(c.layers > 0 && c.layers + c.mtp_layers <= MODEL_LAYERS_MAX);
    SL_ASSERT(c.experts > 0 && c.experts <= OPS_EXPERTS_MAX && c.experts_per_token <= c.experts);
    SL_ASSERT(c.experts_per_token > 0 && c.experts_per_token <= OPS_EXPERTS_PER_TOKEN_MAX);
    SL_ASSERT(c.streams > 0 && c.streams <= OPS_STREAMS_MAX);
    SL_ASSERT(c.heads % c.output_groups == 0 && c.head_dim <= OPS_HEAD_DIM_MAX);
    SL_ASSERT(c.rotary % 2 == 0 && c.rotary <= c.head_dim && (c.head_dim - c.rotary) % 64 == 0);
    SL_ASSERT(expert_layout_make(c.hidden, c.expert_width).slot_bytes > 0);
    for (int32_t layer = 0; layer < c.layers + c.mtp_layers; layer++)
        SL_ASSERT(c.ratios[layer] == 0 || c.ratios[layer] == 4 || c.ratios[layer] == 128);
    for (int32_t ratio = 0; ratio <= 4; ratio += 4) {
        model_config_rope_frequencies(&c, ratio, frequencies);
        for (int32_t j = 0; j < c.rotary / 2; j++)
            SL_ASSERT(isfinite(frequencies[j]) && frequencies[j] >= 0);
    }
    return 0;
}
