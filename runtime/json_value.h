/* JSON as Python's json module reads and writes it.
 *
 * Prompts contain JSON whose bytes the model was trained on, so this reader keeps what a general
 * library loses: integers of any length, the order of keys, a repeated key at its first place with
 * its last value, and numbers spelled as Python would write them. It accepts what Python's
 * json.loads accepts, NaN and Infinity included, with these limits: input must be valid UTF-8, a
 * lone surrogate escape (\ud800 without its partner) becomes U+FFFD, and values nest at most
 * JSON_DEPTH_MAX deep.
 *
 * A document owns its values; they also point into the text that was parsed, which must outlive
 * them. Any thread, one at a time a document. Outside input never aborts: a fault is SL_ERR_FORMAT
 * with the byte it was found at. */
#ifndef SLUICE_RUNTIME_JSON_VALUE_H
#define SLUICE_RUNTIME_JSON_VALUE_H

#include "runtime/text_buffer.h"

#define JSON_DEPTH_MAX 256

enum json_type {
    JSON_NULL,
    JSON_BOOL,
    JSON_INTEGER, /* no fraction and no exponent */
    JSON_FLOAT,   /* a double; NaN and the infinities too */
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
};

struct json_value {
    enum json_type type;
    bool truth;       /* JSON_BOOL */
    const char *text; /* [bytes] JSON_STRING: UTF-8, may hold zeros; numbers: as they are written */
    size_t bytes;
    struct json_value *first; /* JSON_ARRAY and JSON_OBJECT: chained by `next` */
    size_t count;             /* of the chain */
    struct json_value *next;  /* in the same container, or NULL */
    const char *key;          /* [key_bytes] in an object: UTF-8, may hold zeros */
    size_t key_bytes;
};

/* Zero-initialise. */
struct json_document {
    struct json_value *root;
    struct json_block *blocks; /* private: memory of the values */
};

/* Parses all of `text`; linear in `bytes`, but for a sort of each object's keys. SL_ERR_FORMAT for
 * a text that is not JSON, SL_ERR_LIMIT when it nests too deep, SL_ERR_NO_MEMORY. After a failure
 * the document is empty. Release with json_value_release. */
SL_MUST_USE enum sl_status json_value_parse(const char *text, size_t bytes,
                                            struct json_document *document, struct sl_error *error);
void json_value_release(struct json_document *document);

/* The member of that name, or NULL; also NULL when its value is null, which our formats do not tell
 * from an absent field. Scans the object once. */
const struct json_value *json_value_find(const struct json_value *object, const char *key);

/* True when `value` is that string. */
bool json_value_is(const struct json_value *value, const char *text);

/* Python's truth: false for NULL, null, false, zero, and empty strings and containers. */
bool json_value_is_truthy(const struct json_value *value);

/* What a value is, for messages: "a number", "an object", "nothing" for NULL. */
const char *json_value_kind(const struct json_value *value);

/* Appends as json.dumps(value, ensure_ascii=False) does. */
void json_value_write(const struct json_value *value, struct text_buffer *out);
/* Appends a string with its quotes; `text` is UTF-8. */
void json_value_write_string(const char *text, size_t bytes, struct text_buffer *out);

#endif
