/* JSON as a tree whose members can be replaced; see include/jansson.h. */
#include <jansson.h>

#include "runtime/json_value.h"
#include "runtime/text_file.h"

#include <string.h>

#define FILE_BYTES_MAX ((size_t)1 << 26)

/* A place in an object, or in an array (without a key). */
struct member {
    char *key;
    json_t *value;
};

struct json_t {
    enum json_type type;
    int32_t references;
    bool truth;
    char *text; /* of strings, and of numbers as they were written */
    json_int_t whole;
    double real;
    struct member *members; /* [count] */
    size_t count, room;
};

static json_t *make(enum json_type type)
{
    json_t *value = calloc(1, sizeof *value);
    if (!value) return NULL;
    value->type = type;
    value->references = 1;
    return value;
}

json_t *json_incref(json_t *value)
{
    if (value) value->references++;
    return value;
}

void json_decref(json_t *value)
{
    if (!value || --value->references > 0) return;
    for (size_t i = 0; i < value->count; i++) {
        free(value->members[i].key);
        json_decref(value->members[i].value);
    }
    free(value->members);
    free(value->text);
    free(value);
}

/* Takes the value, also when it fails. */
static bool append(json_t *into, const char *key, size_t key_bytes, json_t *value)
{
    if (!value) return false;
    if (into->count == into->room) {
        size_t room = 2 * into->room + 4;
        struct member *members = realloc(into->members, room * sizeof *members);
        if (members) {
            into->members = members;
            into->room = room;
        }
    }
    char *name = key ? strndup(key, key_bytes) : NULL;
    if (into->count == into->room || (key && !name)) {
        free(name);
        json_decref(value);
        return false;
    }
    into->members[into->count++] = (struct member){name, value};
    return true;
}

/* ---- reading ---- */

static json_t *copy_of(const struct json_value *value)
{
    json_t *copy = make(value->type);
    if (!copy) return NULL;
    copy->truth = value->truth;
    bool whole = true;
    if (value->text) {
        copy->text = strndup(value->text, value->bytes);
        whole = copy->text != NULL;
    }
    if (copy->text && value->type == JSON_INTEGER) copy->whole = strtoll(copy->text, NULL, 10);
    if (copy->text && value->type == JSON_FLOAT) copy->real = strtod(copy->text, NULL);
    for (const struct json_value *at = value->first; at && whole; at = at->next)
        whole = append(copy, at->key, at->key_bytes, copy_of(at));
    if (whole) return copy;
    json_decref(copy);
    return NULL;
}

json_t *json_loadb(const char *text, size_t bytes, size_t flags, json_error_t *error)
{
    struct json_document document = {0};
    struct sl_error found = {0};
    (void)flags;
    if (json_value_parse(text, bytes, &document, &found) != SL_OK) {
        if (error) snprintf(error->text, sizeof error->text, "%.150s", found.message);
        return NULL;
    }
    json_t *root = copy_of(document.root);
    if (!root && error) snprintf(error->text, sizeof error->text, "out of memory");
    json_value_release(&document);
    return root;
}

json_t *json_loads(const char *text, size_t flags, json_error_t *error)
{
    return json_loadb(text, strlen(text), flags, error);
}

json_t *json_load_file(const char *path, size_t flags, json_error_t *error)
{
    struct sl_error found = {0};
    char *text;
    size_t bytes;
    if (text_file_read(path, FILE_BYTES_MAX, &text, &bytes, &found) != SL_OK) {
        if (error) snprintf(error->text, sizeof error->text, "%.150s", found.message);
        return NULL;
    }
    json_t *root = json_loadb(text, bytes, flags, error);
    free(text);
    return root;
}

char *json_dumps(const json_t *value, size_t flags)
{
    (void)value, (void)flags;
    return NULL;
}

/* ---- asking ---- */

static bool is(const json_t *value, enum json_type type)
{
    return value && value->type == type;
}

bool json_is_object(const json_t *value)
{
    return is(value, JSON_OBJECT);
}

bool json_is_array(const json_t *value)
{
    return is(value, JSON_ARRAY);
}

bool json_is_string(const json_t *value)
{
    return is(value, JSON_STRING);
}

bool json_is_integer(const json_t *value)
{
    return is(value, JSON_INTEGER);
}

bool json_is_number(const json_t *value)
{
    return is(value, JSON_INTEGER) || is(value, JSON_FLOAT);
}

bool json_equal(const json_t *a, const json_t *b)
{
    if (!a || !b || a->type != b->type || a->count != b->count || a->truth != b->truth)
        return false;
    if (a->type == JSON_STRING) return strcmp(a->text, b->text) == 0;
    if (a->whole != b->whole || a->real != b->real) return false;
    for (size_t i = 0; i < a->count; i++)
        if (a->members[i].key || !json_equal(a->members[i].value, b->members[i].value))
            return false;
    return true;
}

json_int_t json_integer_value(const json_t *value)
{
    return json_is_integer(value) ? value->whole : 0;
}

double json_number_value(const json_t *value)
{
    return is(value, JSON_FLOAT) ? value->real : (double)json_integer_value(value);
}

const char *json_string_value(const json_t *value)
{
    return json_is_string(value) ? value->text : NULL;
}

size_t json_array_size(const json_t *array)
{
    return json_is_array(array) ? array->count : 0;
}

json_t *json_array_get(const json_t *array, size_t idx)
{
    return idx < json_array_size(array) ? array->members[idx].value : NULL;
}

/* ---- objects ---- */

json_t *json_null(void)
{
    return make(JSON_NULL);
}

json_t *json_integer(json_int_t number)
{
    json_t *value = make(JSON_INTEGER);
    if (value) value->whole = number;
    return value;
}

json_t *json_object(void)
{
    return make(JSON_OBJECT);
}

size_t json_object_size(const json_t *object)
{
    return json_is_object(object) ? object->count : 0;
}

static struct member *find(const json_t *object, const char *key)
{
    for (size_t i = 0; i < json_object_size(object); i++)
        if (strcmp(object->members[i].key, key) == 0) return &object->members[i];
    return NULL;
}

json_t *json_object_get(const json_t *object, const char *key)
{
    const struct member *member = find(object, key);
    return member ? member->value : NULL;
}

int json_object_set_new(json_t *object, const char *key, json_t *value)
{
    struct member *member = find(object, key);
    if (!member) return append(object, key, strlen(key), value) ? 0 : -1;
    if (!value) return -1;
    json_decref(member->value);
    member->value = value;
    return 0;
}

void *json_object_iter(json_t *object)
{
    return json_object_size(object) ? object->members : NULL;
}

void *json_object_iter_next(json_t *object, void *at)
{
    struct member *next = (struct member *)at + 1;
    return next < object->members + object->count ? next : NULL;
}

const char *json_object_iter_key(void *at)
{
    return ((struct member *)at)->key;
}

json_t *json_object_iter_value(void *at)
{
    return ((struct member *)at)->value;
}

int json_object_iter_set(json_t *object, void *at, json_t *value)
{
    struct member *member = at;
    (void)object;
    if (!value) return -1;
    json_incref(value);
    json_decref(member->value);
    member->value = value;
    return 0;
}
