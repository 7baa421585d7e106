/* The calls of jansson by which a checkpoint is opened, for a machine that has only a compiler:
 * SLUICE_GPU_ONLY builds find this header in the library's place. Reading is the prompt's JSON
 * reader's (runtime/json_value.h); a repeated key is merged there and not refused, look-ups scan,
 * and nothing is written, so messages cannot show values. Good for the checkpoints of tests/golden,
 * no more. */
#ifndef SLUICE_TESTS_GPU_BARE_JANSSON_H
#define SLUICE_TESTS_GPU_BARE_JANSSON_H

#include <stdbool.h>
#include <stddef.h>

typedef struct json_t json_t;
typedef long long json_int_t;
typedef struct {
    char text[160];
} json_error_t;

#define JSON_REJECT_DUPLICATES 0
#define JSON_DECODE_ANY        0
#define JSON_ENCODE_ANY        0
#define JSON_COMPACT           0
#define JSON_ENSURE_ASCII      0

json_t *json_loadb(const char *text, size_t bytes, size_t flags, json_error_t *error);
json_t *json_loads(const char *text, size_t flags, json_error_t *error);
json_t *json_load_file(const char *path, size_t flags, json_error_t *error);
char *json_dumps(const json_t *value, size_t flags); /* always NULL */
json_t *json_incref(json_t *value);
void json_decref(json_t *value);

bool json_is_object(const json_t *value);
bool json_is_array(const json_t *value);
bool json_is_string(const json_t *value);
bool json_is_integer(const json_t *value);
bool json_is_number(const json_t *value);
bool json_equal(const json_t *a, const json_t *b); /* of scalars and arrays */

json_t *json_null(void);
json_t *json_integer(json_int_t number);
json_int_t json_integer_value(const json_t *value);
double json_number_value(const json_t *value);
const char *json_string_value(const json_t *value);

size_t json_array_size(const json_t *array);
json_t *json_array_get(const json_t *array, size_t idx);

json_t *json_object(void);
size_t json_object_size(const json_t *object);
json_t *json_object_get(const json_t *object, const char *key);
int json_object_set_new(json_t *object, const char *key, json_t *value);
#define json_object_set_new_nocheck json_object_set_new
void *json_object_iter(json_t *object);
void *json_object_iter_next(json_t *object, void *at);
const char *json_object_iter_key(void *at);
json_t *json_object_iter_value(void *at);
int json_object_iter_set(json_t *object, void *at, json_t *value);
#define json_object_foreach(object, key, value)                                                    \
    for (void *at_ = json_object_iter(object);                                                     \
         at_ && ((key) = json_object_iter_key(at_)) && ((value) = json_object_iter_value(at_));    \
         at_ = json_object_iter_next((object), at_))

#endif
