/* JSON values: looking at them and writing them as Python does; json_parse.c reads them. */
#include "runtime/json_value.h"

#include "kernels/base.h"

#include <string.h>

/* ---- looking ------------------------------------------------------------------------------ */

const struct json_value *json_value_find(const struct json_value *object, const char *key)
{
    SL_ASSERT(object && object->type == JSON_OBJECT);
    size_t bytes = strlen(key);
    for (const struct json_value *member = object->first; member; member = member->next) {
        if (member->key_bytes == bytes && memcmp(member->key, key, bytes) == 0)
            return member->type == JSON_NULL ? NULL : member;
    }
    return NULL;
}

bool json_value_is(const struct json_value *value, const char *text)
{
    return value && value->type == JSON_STRING && value->bytes == strlen(text) &&
           memcmp(value->text, text, value->bytes) == 0;
}

bool json_value_is_truthy(const struct json_value *value)
{
    if (!value) return false;
    SL_ASSERT(value->type <= JSON_OBJECT);
    switch (value->type) {
    case JSON_NULL: return false;
    case JSON_BOOL: return value->truth;
    case JSON_INTEGER: return value->bytes != 1 || value->text[0] != '0';
    case JSON_FLOAT: return strspn(value->text, "-0.") < value->bytes;
    case JSON_STRING: return value->bytes > 0;
    case JSON_ARRAY:
    case JSON_OBJECT: return value->count > 0;
    }
    return false;
}

const char *json_value_kind(const struct json_value *value)
{
    if (!value) return "nothing";
    SL_ASSERT(value->type <= JSON_OBJECT);
    switch (value->type) {
    case JSON_NULL: return "null";
    case JSON_BOOL: return value->truth ? "true" : "false";
    case JSON_INTEGER:
    case JSON_FLOAT: return "a number";
    case JSON_STRING: return "text";
    case JSON_ARRAY: return "an array";
    case JSON_OBJECT: return "an object";
    }
    return "";
}

/* ---- writing ------------------------------------------------------------------------------ */

static void write_escape(unsigned char byte, struct text_buffer *out)
{
    static const char values[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt",
                      digits[] = "0123456789abcdef";
    const char *found = byte ? strchr(values, byte) : NULL;
    if (found) {
        char escape[2] = {'\\', names[found - values]};
        text_buffer_append(out, escape, sizeof escape);
    } else {
        char escape[6] = {'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]};
        text_buffer_append(out, escape, sizeof escape);
    }
}

void json_value_write_string(const char *text, size_t bytes, struct text_buffer *out)
{
    text_buffer_append_byte(out, '"');
    size_t plain_start = 0;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte >= 0x20 && byte != '"' && byte != '\\') continue;
        text_buffer_append(out, text + plain_start, i - plain_start);
        write_escape(byte, out);
        plain_start = i + 1;
    }
    if (bytes > plain_start) text_buffer_append(out, text + plain_start, bytes - plain_start);
    text_buffer_append_byte(out, '"');
}

static void write_container(const struct json_value *container, struct text_buffer *out)
{
    bool is_object = container->type == JSON_OBJECT;
    text_buffer_append_byte(out, is_object ? '{' : '[');
    for (const struct json_value *value = container->first; value; value = value->next) {
        if (is_object) {
            json_value_write_string(value->key, value->key_bytes, out);
            text_buffer_append_text(out, ": ");
        }
        json_value_write(value, out);
        if (value->next) text_buffer_append_text(out, ", ");
    }
    text_buffer_append_byte(out, is_object ? '}' : ']');
}

void json_value_write(const struct json_value *value, struct text_buffer *out)
{
    SL_ASSERT(value && out && value->type <= JSON_OBJECT);
    switch (value->type) {
    case JSON_NULL: text_buffer_append_text(out, "null"); return;
    case JSON_BOOL: text_buffer_append_text(out, value->truth ? "true" : "false"); return;
    case JSON_INTEGER:
    case JSON_FLOAT: text_buffer_append(out, value->text, value->bytes); return;
    case JSON_STRING: json_value_write_string(value->text, value->bytes, out); return;
    case JSON_ARRAY:
    case JSON_OBJECT: write_container(value, out); return;
    }
}
