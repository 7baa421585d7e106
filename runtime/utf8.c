/* Steps through UTF-8 and replaces what is invalid; see the header. */
#include "runtime/utf8.h"

#include <string.h>

/* How a character that starts with `lead` goes on: the number of bytes that follow, and the range
 * of the first of them (Unicode standard, table 3-7); 0 for a byte that starts no longer character.
 */
static uint32_t lead_follow_count(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) return 1;
    if (lead >= 0xe0 && lead <= 0xef) {
        if (lead == 0xe0) *low = 0xa0;
        if (lead == 0xed) *high = 0x9f;
        return 2;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        if (lead == 0xf0) *low = 0x90;
        if (lead == 0xf4) *high = 0x8f;
        return 3;
    }
    return 0;
}

struct utf8_step utf8_step(const char *text, size_t bytes)
{
    SL_DEBUG_ASSERT(bytes > 0);
    uint8_t lead = (uint8_t)text[0];
    if (lead < 0x80) return (struct utf8_step){UTF8_WHOLE, 1, lead};

    uint8_t low, high;
    uint32_t follow_count = lead_follow_count(lead, &low, &high);
    if (follow_count == 0) return (struct utf8_step){UTF8_INVALID, 1, 0};
    uint32_t code_point = lead & (0x3fu >> follow_count);
    for (uint32_t i = 1; i <= follow_count; i++) {
        if (i == bytes) return (struct utf8_step){UTF8_CUT, i, 0};
        uint8_t byte = (uint8_t)text[i];
        if (byte < low || byte > high) return (struct utf8_step){UTF8_INVALID, i, 0};
        code_point = code_point << 6 | (byte & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    return (struct utf8_step){UTF8_WHOLE, follow_count + 1, code_point};
}

size_t utf8_find_invalid(const char *text, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        struct utf8_step step = utf8_step(text + at, bytes - at);
        if (step.kind != UTF8_WHOLE) break;
        at += step.bytes;
    }
    return at;
}

size_t utf8_clean_bytes(const char *text, size_t bytes, bool *valid)
{
    size_t clean = 0;
    *valid = true;
    for (size_t at = 0; at < bytes;) {
        struct utf8_step step = utf8_step(text + at, bytes - at);
        clean += step.kind == UTF8_WHOLE ? step.bytes : UTF8_REPLACEMENT_BYTES;
        *valid = *valid && step.kind == UTF8_WHOLE;
        at += step.bytes;
    }
    return clean;
}

void utf8_clean(const char *text, size_t bytes, char *out)
{
    for (size_t at = 0; at < bytes;) {
        struct utf8_step step = utf8_step(text + at, bytes - at);
        bool whole = step.kind == UTF8_WHOLE;
        size_t length = whole ? step.bytes : UTF8_REPLACEMENT_BYTES;
        memcpy(out, whole ? text + at : UTF8_REPLACEMENT, length);
        out += length;
        at += step.bytes;
    }
}

uint32_t utf8_put(uint32_t code_point, char out[UTF8_CHARACTER_BYTES_MAX])
{
    SL_DEBUG_ASSERT(code_point <= 0x10ffff);
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    uint32_t follow_count = code_point < 0x800 ? 1 : code_point < 0x10000 ? 2 : 3;
    for (uint32_t i = follow_count; i > 0; i--) {
        out[i] = (char)(0x80u | (code_point & 0x3fu));
        code_point >>= 6;
    }
    static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(lead[follow_count] | code_point);
    return follow_count + 1;
}
