/* Python's spelling of floating-point numbers; see the header. */
#include "runtime/json_number.h"

#include "kernels/base.h"

#include <locale.h>
#include <math.h>
#include <string.h>

/* A double needs at most this many significant digits to be told from its neighbours. */
#define DIGITS_MAX 17

struct decimal {
    char digits[DIGITS_MAX + 1]; /* zero-terminated */
    int exponent;                /* value = 0.d1d2d3... * 10^exponent */
};

static void decimal_round(double value, int digits, struct decimal *out)
{
    char text[DIGITS_MAX + 16]; /* d.ddde-308 */
    snprintf(text, sizeof text, "%.*e", digits - 1, value);
    char *mark = strchr(text, 'e');
    SL_ASSERT(mark && digits >= 1 && digits <= DIGITS_MAX);
    out->exponent = (int)strtol(mark + 1, NULL, 10) + 1;
    out->digits[0] = text[0];
    if (digits > 1) memcpy(out->digits + 1, text + 2, (size_t)digits - 1);
    out->digits[digits] = 0;
}

/* One more in the last digit. */
static void decimal_step_up(struct decimal *decimal)
{
    size_t at = strlen(decimal->digits);
    while (at > 0 && decimal->digits[at - 1] == '9')
        decimal->digits[--at] = '0';
    if (at > 0) {
        decimal->digits[at - 1]++;
    } else {
        decimal->digits[0] = '1';
        decimal->exponent++;
    }
}

static bool decimal_reads_as(const struct decimal *decimal, double value)
{
    char text[DIGITS_MAX + 32];
    snprintf(text, sizeof text, "0.%se%d", decimal->digits, decimal->exponent);
    return strtod(text, NULL) == value;
}

/* A decimal of so many digits that reads back as `value`. Below a power of two the doubles lie
 * twice as dense, so there the nearest decimal may miss while the next one up still hits. */
static bool decimal_find(double value, int digits, struct decimal *out)
{
    decimal_round(value, digits, out);
    if (decimal_reads_as(out, value)) return true;
    decimal_step_up(out);
    return decimal_reads_as(out, value);
}

/* If some decimal of n digits reads back then so does one of n + 1: a binary search will do. */
static void decimal_shortest(double value, struct decimal *out)
{
    int low = 1, high = DIGITS_MAX;
    while (low < high) {
        int middle = (low + high) / 2;
        if (decimal_find(value, middle, out)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    bool found = decimal_find(value, low, out);
    SL_ASSERT(found);
    size_t count = strlen(out->digits);
    while (count > 1 && out->digits[count - 1] == '0')
        out->digits[--count] = 0;
}

static size_t spell_finite(double magnitude, const char *sign, char *out)
{
    struct decimal decimal = {.digits = "0", .exponent = 1};
    if (magnitude != 0) decimal_shortest(magnitude, &decimal);
    const char *digits = decimal.digits;
    int count = (int)strlen(digits), point = decimal.exponent, length;
    if (point < -3 || point > 16) {
        const char *dot = count > 1 ? "." : "";
        length = snprintf(out, JSON_NUMBER_BYTES_MAX, "%s%c%s%se%+03d", sign, digits[0], dot,
                          digits + 1, point - 1);
    } else if (point <= 0) {
        length = snprintf(out, JSON_NUMBER_BYTES_MAX, "%s0.%.*s%s", sign, -point, "000", digits);
    } else if (point >= count) {
        length = snprintf(out, JSON_NUMBER_BYTES_MAX, "%s%s%.*s.0", sign, digits, point - count,
                          "0000000000000000");
    } else {
        length =
            snprintf(out, JSON_NUMBER_BYTES_MAX, "%s%.*s.%s", sign, point, digits, digits + point);
    }
    SL_ASSERT(length > 0 && length < JSON_NUMBER_BYTES_MAX);
    return (size_t)length;
}

size_t json_number_spell(const char *text, char out[JSON_NUMBER_BYTES_MAX])
{
    /* strtod and printf follow the thread's locale; the "C" locale is built in, never allocated. */
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    SL_ASSERT(plain);
    locale_t previous = uselocale(plain);
    double value = strtod(text, NULL);
    const char *sign = signbit(value) ? "-" : "";
    size_t length;
    if (isinf(value)) {
        length = (size_t)snprintf(out, JSON_NUMBER_BYTES_MAX, "%sInfinity", sign);
    } else {
        SL_ASSERT(!isnan(value));
        length = spell_finite(fabs(value), sign, out);
    }
    uselocale(previous);
    freelocale(plain);
    return length;
}
