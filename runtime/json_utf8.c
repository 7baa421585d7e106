/* UTF-8 for the JSON reader; see the header. */
#include "runtime/json_utf8.h"

#include "kernels/base.h"

size_t json_utf8_find_invalid(const char *text, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0;
    while (i < bytes) {
        unsigned char lead = s[i];
        if (lead < 0x80) {
            i++;
            continue;
        }
        size_t tail = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        if (lead < 0xc2 || lead > 0xf4 || bytes - i <= tail) return i;
        /* The second byte excludes overlong forms, surrogates and what lies above U+10FFFF. */
        unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (s[i + 1] < low || s[i + 1] > high) return i;
        for (size_t k = 2; k <= tail; k++)
            if ((s[i + k] & 0xc0) != 0x80) return i;
        i += tail + 1;
    }
    return bytes;
}

size_t json_utf8_put(uint32_t code, char *out)
{
    SL_ASSERT(code <= 0x10ffff);
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}
