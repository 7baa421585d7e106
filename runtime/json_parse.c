/* The JSON reader of json_value.h: a recursive descent over bytes already known to be UTF-8.
 *
 * Values and unescaped strings live in the document's blocks, other strings in the text itself. */
#include "runtime/json_value.h"

#include "kernels/base.h"
#include "runtime/json_keys.h"
#include "runtime/json_number.h"
#include "runtime/utf8.h"

#include <string.h>

/* ---- memory ------------------------------------------------------------------------------- */

#define BLOCK_BYTES_MIN ((size_t)4096)
#define BLOCK_BYTES_MAX ((size_t)1 << 20)
#define BLOCK_ALIGNMENT sizeof(void *)

struct json_block {
    struct json_block *next;
    size_t used, capacity; /* bytes of data */
    max_align_t data[];
};

static void *document_alloc(struct json_document *document, size_t bytes)
{
    struct json_block *block = document->blocks;
    if (bytes > SIZE_MAX - sizeof *block - BLOCK_ALIGNMENT) return NULL;
    bytes = (size_t)align_up(bytes, BLOCK_ALIGNMENT);
    if (!block || block->capacity - block->used < bytes) {
        size_t capacity = block ? block->capacity * 2 : BLOCK_BYTES_MIN;
        if (capacity > BLOCK_BYTES_MAX) capacity = BLOCK_BYTES_MAX;
        if (capacity < bytes) capacity = bytes;
        struct json_block *fresh = malloc(sizeof *fresh + capacity);
        if (!fresh) return NULL;
        *fresh = (struct json_block){.next = block, .capacity = capacity};
        document->blocks = block = fresh;
    }
    void *memory = (char *)block->data + block->used;
    block->used += bytes;
    return memory;
}

void json_value_release(struct json_document *document)
{
    for (struct json_block *block = document->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    *document = (struct json_document){0};
}

/* ---- reading ------------------------------------------------------------------------------ */

struct json_reader {
    const char *text;
    size_t bytes, position;
    int depth;
    struct json_document *document;
    struct sl_error *error;
};

struct json_text {
    const char *data;
    size_t bytes;
};

static enum sl_status read_value(struct json_reader *reader, struct json_value **out);

static enum sl_status expected(const struct json_reader *reader, const char *what)
{
    if (reader->position >= reader->bytes) {
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                            "not JSON: expected %s, found the end of the text after %zu bytes",
                            what, reader->bytes);
    }
    unsigned char found = (unsigned char)reader->text[reader->position];
    if (found > 0x20 && found < 0x7f) {
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                            "not JSON: byte %zu: expected %s, found '%c'", reader->position, what,
                            found);
    }
    return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                        "not JSON: byte %zu: expected %s, found the byte 0x%02x", reader->position,
                        what, found);
}

static enum sl_status no_memory(const struct json_reader *reader)
{
    return sl_error_set(reader->error, SL_ERR_NO_MEMORY, 0,
                        "out of memory while reading %zu bytes of JSON", reader->bytes);
}

/* The next byte, or -1 at the end. */
static int peek(const struct json_reader *reader)
{
    return reader->position < reader->bytes ? (unsigned char)reader->text[reader->position] : -1;
}

static bool skip_byte(struct json_reader *reader, char byte)
{
    if (peek(reader) != byte) return false;
    reader->position++;
    return true;
}

static void skip_space(struct json_reader *reader)
{
    for (int byte = peek(reader); byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
         byte = peek(reader))
        reader->position++;
}

static bool skip_word(struct json_reader *reader, const char *word)
{
    size_t bytes = strlen(word);
    if (reader->bytes - reader->position < bytes) return false;
    if (memcmp(reader->text + reader->position, word, bytes) != 0) return false;
    reader->position += bytes;
    return true;
}

static int hex_digit(int byte)
{
    if (byte >= '0' && byte <= '9') return byte - '0';
    if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
    if (byte >= 'A' && byte <= 'F') return byte - 'A' + 10;
    return -1;
}

/* Four hex digits into `*unit`; moves on only if they are there. */
static bool read_hex4(struct json_reader *reader, uint32_t *unit)
{
    if (reader->bytes - reader->position < 4) return false;
    uint32_t value = 0;
    for (size_t i = 0; i < 4; i++) {
        int digit = hex_digit((unsigned char)reader->text[reader->position + i]);
        if (digit < 0) return false;
        value = value << 4 | (uint32_t)digit;
    }
    reader->position += 4;
    *unit = value;
    return true;
}

/* The rest of \uXXXX, with the partner of a high surrogate. */
static enum sl_status read_unicode_escape(struct json_reader *reader, uint32_t *code)
{
    uint32_t unit = 0, partner = 0;
    if (!read_hex4(reader, &unit)) return expected(reader, "four hexadecimal digits after \\u");
    *code = unit >= 0xd800 && unit <= 0xdfff ? 0xfffd : unit;
    if (unit < 0xd800 || unit > 0xdbff) return SL_OK;

    size_t before_partner = reader->position;
    if (skip_word(reader, "\\u") && read_hex4(reader, &partner) && partner >= 0xdc00 &&
        partner <= 0xdfff) {
        *code = 0x10000 + ((unit - 0xd800) << 10) + (partner - 0xdc00);
    } else {
        reader->position = before_partner; /* read again for what it is, or as the fault it is */
    }
    return SL_OK;
}

/* Copies a string that has escapes; `capacity` is the raw length, which no escape exceeds. */
static enum sl_status unescape(struct json_reader *reader, size_t capacity, struct json_text *out)
{
    char *data = document_alloc(reader->document, capacity);
    if (!data) return no_memory(reader);
    size_t used = 0;
    while (!skip_byte(reader, '"')) {
        if (!skip_byte(reader, '\\')) {
            data[used++] = reader->text[reader->position++];
            continue;
        }
        static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        int name = peek(reader);
        const char *found = name > 0 ? strchr(names, name) : NULL;
        if (found) {
            data[used++] = values[found - names];
            reader->position++;
        } else if (skip_byte(reader, 'u')) {
            uint32_t code = 0;
            SL_TRY(read_unicode_escape(reader, &code));
            used += utf8_put(code, data + used);
        } else {
            return expected(reader, "one of \" \\ / b f n r t u after a backslash");
        }
    }
    SL_ASSERT(used <= capacity);
    *out = (struct json_text){data, used};
    return SL_OK;
}

/* A string, after its opening quote. */
static enum sl_status read_string(struct json_reader *reader, struct json_text *out)
{
    size_t start = reader->position;
    bool has_escape = false;
    for (int byte = peek(reader); byte != '"'; byte = peek(reader)) {
        if (byte < 0x20) return expected(reader, "the rest of a string (control bytes escaped)");
        if (byte == '\\') {
            has_escape = true;
            if (++reader->position >= reader->bytes)
                return expected(reader, "an escape after a backslash");
        }
        reader->position++;
    }
    size_t raw_bytes = reader->position - start;
    if (has_escape) {
        reader->position = start;
        return unescape(reader, raw_bytes, out);
    }
    reader->position++;
    *out = (struct json_text){reader->text + start, raw_bytes};
    return SL_OK;
}

static size_t skip_digits(struct json_reader *reader)
{
    size_t start = reader->position;
    for (int byte = peek(reader); byte >= '0' && byte <= '9'; byte = peek(reader))
        reader->position++;
    return reader->position - start;
}

static enum sl_status spell_float(struct json_reader *reader, size_t start,
                                  struct json_value *value)
{
    size_t bytes = reader->position - start;
    char *copy = document_alloc(reader->document, bytes + 1);
    char *text = document_alloc(reader->document, JSON_NUMBER_BYTES_MAX);
    if (!copy || !text) return no_memory(reader);
    memcpy(copy, reader->text + start, bytes);
    copy[bytes] = 0;
    value->type = JSON_FLOAT;
    value->bytes = json_number_spell(copy, text);
    value->text = text;
    return SL_OK;
}

static enum sl_status read_number(struct json_reader *reader, struct json_value *value)
{
    size_t start = reader->position;
    bool negative = skip_byte(reader, '-');
    if (negative && skip_word(reader, "Infinity")) {
        *value = (struct json_value){.type = JSON_FLOAT, .text = "-Infinity", .bytes = 9};
        return SL_OK;
    }
    if (!skip_byte(reader, '0') && skip_digits(reader) == 0) return expected(reader, "a value");
    size_t integer_end = reader->position;

    /* A dot or an e without digits does not belong to the number; what follows it fails then. */
    if (skip_byte(reader, '.') && skip_digits(reader) == 0) reader->position = integer_end;
    size_t fraction_end = reader->position;
    if (skip_byte(reader, 'e') || skip_byte(reader, 'E')) {
        if (!skip_byte(reader, '+')) skip_byte(reader, '-');
        if (skip_digits(reader) == 0) reader->position = fraction_end;
    }
    if (reader->position > integer_end) return spell_float(reader, start, value);

    value->type = JSON_INTEGER;
    value->text = reader->text + start;
    value->bytes = integer_end - start;
    if (negative && value->bytes == 2 && value->text[1] == '0') { /* an int has no negative zero */
        value->text++;
        value->bytes--;
    }
    return SL_OK;
}

/* ---- containers --------------------------------------------------------------------------- */

static enum sl_status read_key(struct json_reader *reader, struct json_text *key)
{
    skip_space(reader);
    if (!skip_byte(reader, '"')) return expected(reader, "a key in double quotes");
    SL_TRY(read_string(reader, key));
    skip_space(reader);
    return skip_byte(reader, ':') ? SL_OK : expected(reader, "':' after a key");
}

/* An array or an object, after its opening bracket. */
static enum sl_status read_container(struct json_reader *reader, struct json_value *container)
{
    bool is_object = container->type == JSON_OBJECT;
    char close = is_object ? '}' : ']';
    if (++reader->depth > JSON_DEPTH_MAX) {
        return sl_error_set(reader->error, SL_ERR_LIMIT, 0,
                            "JSON: byte %zu: values nest deeper than %d", reader->position,
                            JSON_DEPTH_MAX);
    }
    struct json_value **link = &container->first;
    skip_space(reader);
    bool done = skip_byte(reader, close);
    while (!done) {
        struct json_text key = {0};
        if (is_object) SL_TRY(read_key(reader, &key));
        skip_space(reader);
        struct json_value *value;
        SL_TRY(read_value(reader, &value));
        value->key = key.data;
        value->key_bytes = key.bytes;
        *link = value;
        link = &value->next;
        container->count++;
        skip_space(reader);
        done = skip_byte(reader, close);
        if (!done && !skip_byte(reader, ','))
            return expected(reader, is_object ? "',' or '}'" : "',' or ']'");
    }
    reader->depth--;
    return !is_object || json_keys_merge(container) ? SL_OK : no_memory(reader);
}

static enum sl_status read_value(struct json_reader *reader, struct json_value **out)
{
    struct json_value *value = document_alloc(reader->document, sizeof *value);
    if (!value) return no_memory(reader);
    *value = (struct json_value){0};
    *out = value;
    if (skip_byte(reader, '"')) {
        struct json_text text;
        SL_TRY(read_string(reader, &text));
        value->type = JSON_STRING;
        value->text = text.data;
        value->bytes = text.bytes;
    } else if (skip_byte(reader, '{')) {
        value->type = JSON_OBJECT;
        return read_container(reader, value);
    } else if (skip_byte(reader, '[')) {
        value->type = JSON_ARRAY;
        return read_container(reader, value);
    } else if (skip_word(reader, "true")) {
        value->type = JSON_BOOL;
        value->truth = true;
    } else if (skip_word(reader, "false")) {
        value->type = JSON_BOOL;
    } else if (skip_word(reader, "NaN")) {
        *value = (struct json_value){.type = JSON_FLOAT, .text = "NaN", .bytes = 3};
    } else if (skip_word(reader, "Infinity")) {
        *value = (struct json_value){.type = JSON_FLOAT, .text = "Infinity", .bytes = 8};
    } else if (!skip_word(reader, "null")) {
        return read_number(reader, value);
    }
    return SL_OK;
}

enum sl_status json_value_parse(const char *text, size_t bytes, struct json_document *document,
                                struct sl_error *error)
{
    SL_ASSERT((text || bytes == 0) && document);
    *document = (struct json_document){0};
    struct json_reader reader = {
        .text = text, .bytes = bytes, .document = document, .error = error};
    enum sl_status status;
    size_t invalid = utf8_find_invalid(text, bytes);
    if (invalid < bytes) {
        status = sl_error_set(error, SL_ERR_FORMAT, 0, "not JSON: byte %zu is not UTF-8", invalid);
        goto fail;
    }
    skip_space(&reader);
    status = read_value(&reader, &document->root);
    if (status != SL_OK) goto fail;
    skip_space(&reader);
    if (reader.position < bytes) {
        status = expected(&reader, "nothing after the value");
        goto fail;
    }
    SL_ASSERT(reader.depth == 0 && document->root);
    return SL_OK;

fail:
    json_value_release(document);
    return status;
}
