/* Lists of layers as users write them: "0-2,42". */
#ifndef SLUICE_RUNTIME_LAYER_LIST_H
#define SLUICE_RUNTIME_LAYER_LIST_H

#include "kernels/base.h"

/* out[layer] is set for the layers named and cleared for all others. SL_ERR_ARGUMENT names the
 * first character that cannot be read, or a layer that the model of `layers` layers lacks. */
SL_MUST_USE enum sl_status layer_list_parse(const char *text, int32_t layers, bool *out,
                                            struct sl_error *error);

#endif
