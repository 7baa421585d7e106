/* Reading a list of layers; see the header. */
#include "runtime/layer_list.h"

#include <string.h>

/* A number at *at, which moves behind it; -1 where there is none or it is no layer's. */
static int32_t read_layer(const char **at)
{
    int32_t value = -1;
    for (; **at >= '0' && **at <= '9' && value < 100000; (*at)++)
        value = 10 * max_i32(value, 0) + (**at - '0');
    return value;
}

enum sl_status layer_list_parse(const char *text, int32_t layers, bool *out, struct sl_error *error)
{
    const char *at = text;
    memset(out, 0, (size_t)layers * sizeof *out);
    for (;;) {
        int32_t first = read_layer(&at), last = first;
        if (*at == '-') {
            at++;
            last = read_layer(&at);
        }
        if (first < 0 || last < first || (*at && *at != ','))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "\"%.60s\" is no list of layers such as 0-2,42: see \"%.20s\"",
                                text, at);
        if (last >= layers)
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "layer %d of \"%.60s\": this model's layers are 0 to %d", last,
                                text, layers - 1);
        for (int32_t layer = first; layer <= last; layer++)
            out[layer] = true;
        if (*at++ == 0) return SL_OK;
    }
}
