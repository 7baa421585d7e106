/* Python's spelling of a floating-point number: what repr() and json.dumps() give.
 *
 * No state and no heap; any thread. Independent of the program's locale. */
#ifndef SLUICE_RUNTIME_JSON_NUMBER_H
#define SLUICE_RUNTIME_JSON_NUMBER_H

#include <stddef.h>

/* Room for every spelling, with its terminating zero. */
#define JSON_NUMBER_BYTES_MAX 32

/* Writes the shortest decimal that reads back as the double nearest to `text` (zero-terminated, in
 * JSON's grammar): "1e5" gives "100000.0", "1e-6" gives "1e-06", "1e999" gives "Infinity". Returns
 * its length. */
size_t json_number_spell(const char *text, char out[JSON_NUMBER_BYTES_MAX]);

#endif
