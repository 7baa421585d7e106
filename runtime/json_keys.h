/* Repeated keys of a JSON object: the first place and the last value stay.
 *
 * Called by the reader once an object is complete. */
#ifndef SLUICE_RUNTIME_JSON_KEYS_H
#define SLUICE_RUNTIME_JSON_KEYS_H

#include "runtime/json_value.h"

/* Merges members of equal key in O(n log n). False when memory ran out; the object is then as it
 * was. */
SL_MUST_USE bool json_keys_merge(struct json_value *object);

#endif
