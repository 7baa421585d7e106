/* Option parsing; see the header. Pure but for the records written. */
#include "runtime/cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Columns of the help: where the explanations start. */
#define HELP_COLUMN 28

/* One option as it was given on the command line. */
struct given {
    const struct option_spec *spec;
    void *field;
    char shown[64]; /* "--ram" or "-m", for messages */
    const char *value;
};

static enum sl_status refuse(const struct given *given, const char *expected,
                             struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_ARGUMENT, 0, "option %s: expected %s, found \"%.80s\"",
                        given->shown, expected, given->value);
}

/* strtod and strtoull accept leading space and signs that no option wants. */
static bool starts_number(const char *text)
{
    return (*text >= '0' && *text <= '9') || *text == '.' || *text == '-';
}

static enum sl_status read_number(const struct given *given, bool whole, double *out,
                                  struct sl_error *error)
{
    const struct option_spec *spec = given->spec;
    char *end = NULL;
    double number = starts_number(given->value) ? strtod(given->value, &end) : NAN;
    bool plain =
        strspn(given->value, whole ? "-0123456789" : "-+.0123456789eE") == strlen(given->value);
    if (!plain || !end || end == given->value || *end || !(number >= spec->min) ||
        !(number <= spec->max)) {
        char expected[96];
        snprintf(expected, sizeof expected, "a %snumber from %.10g to %.10g", whole ? "whole " : "",
                 spec->min, spec->max);
        return refuse(given, expected, error);
    }
    *out = number;
    return SL_OK;
}

/* Digits, then one unit where `units` allows it: K, M, G or T, optionally with B or iB. */
static bool read_u64(const char *text, bool units, uint64_t *out)
{
    if (*text < '0' || *text > '9') return false;
    char *end = NULL;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno || value > INT64_MAX) return false; /* JSON readers have signed integers */
    if (units && *end) {
        static const char letters[] = "KMGT";
        static const char small[] = "kmgt";
        const char *letter = strchr(letters, *end);
        if (!letter) letter = strchr(small, *end) ? strchr(small, *end) - small + letters : NULL;
        if (letter) {
            uint64_t factor = (uint64_t)1 << (10 * (letter - letters + 1));
            if (__builtin_mul_overflow(value, factor, &value)) return false;
            end++;
            if (end[0] == 'i' && end[1] == 'B') end++;
        }
        if (*end == 'B') end++;
    }
    *out = value;
    return *end == 0;
}

static enum sl_status read_choice(const struct given *given, struct sl_error *error)
{
    char expected[256] = "";
    size_t used = 0;
    const char *const *choices = given->spec->choices;
    for (int32_t i = 0; choices[i]; i++) {
        if (strcmp(choices[i], given->value) == 0) {
            *(int32_t *)given->field = i;
            return SL_OK;
        }
        const char *join = i == 0 ? "" : choices[i + 1] ? ", " : " or ";
        int wrote = snprintf(expected + used, sizeof expected - used, "%s%s", join, choices[i]);
        if (wrote > 0 && (size_t)wrote < sizeof expected - used) used += (size_t)wrote;
    }
    return refuse(given, expected, error);
}

static enum sl_status store(const struct given *given, struct sl_error *error)
{
    double number = 0;
    enum sl_status status = SL_OK;
    switch (given->spec->kind) {
    case OPTION_FLAG: *(bool *)given->field = true; break;
    case OPTION_TEXT: *(const char **)given->field = given->value; break;
    case OPTION_INT:
        status = read_number(given, true, &number, error);
        if (status == SL_OK) *(int32_t *)given->field = (int32_t)number;
        break;
    case OPTION_NUMBER:
        status = read_number(given, false, &number, error);
        if (status == SL_OK) *(double *)given->field = number;
        break;
    case OPTION_U64:
        if (!read_u64(given->value, false, given->field))
            status = refuse(given, "a whole number from 0 to 9223372036854775807", error);
        break;
    case OPTION_SIZE:
        if (!read_u64(given->value, true, given->field))
            status = refuse(given, "a size such as 512M or 8G", error);
        break;
    case OPTION_CHOICE: status = read_choice(given, error); break;
    }
    return status;
}

/* Finds an option by name (`bytes` long) or, where name is NULL, by letter. */
static bool find(const struct options_command *command, const char *name, size_t bytes, char letter,
                 struct given *out)
{
    for (const struct option_set *set = command->set; set->specs; set++) {
        for (const struct option_spec *spec = set->specs; spec->name; spec++) {
            bool match = name ? strlen(spec->name) == bytes && !memcmp(spec->name, name, bytes)
                              : spec->letter == letter;
            if (!match) continue;
            out->spec = spec;
            out->field = (char *)set->record + spec->offset;
            return true;
        }
    }
    return false;
}

/* Reads the option at argv[*idx] and moves past its value. */
static enum sl_status parse_option(const struct options_command *command, int argc, char **argv,
                                   int *idx, struct sl_error *error)
{
    const char *argument = argv[(*idx)++];
    struct given given = {0};
    const char *attached = NULL;
    if (argument[1] == '-') {
        size_t bytes = strcspn(argument + 2, "=");
        if (argument[2 + bytes] == '=') attached = argument + 2 + bytes + 1;
        snprintf(given.shown, sizeof given.shown, "--%.*s", (int)(bytes < 40 ? bytes : 40),
                 argument + 2);
        if (!find(command, argument + 2, bytes, 0, &given))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0, "unknown option %s", given.shown);
    } else {
        if (argument[2]) attached = argument + 2;
        snprintf(given.shown, sizeof given.shown, "-%c", argument[1]);
        if (!find(command, NULL, 0, argument[1], &given))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0, "unknown option %s", given.shown);
    }
    if (given.spec->kind == OPTION_FLAG) {
        if (attached)
            return sl_error_set(error, SL_ERR_ARGUMENT, 0, "option %s takes no value, found \"%s\"",
                                given.shown, attached);
    } else if (attached) {
        given.value = attached;
    } else if (*idx < argc) {
        given.value = argv[(*idx)++];
    } else {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "option %s needs a value: %s", given.shown,
                            given.spec->value);
    }
    return store(&given, error);
}

static enum sl_status check_required(const struct options_command *command, struct sl_error *error)
{
    for (const struct option_set *set = command->set; set->specs; set++) {
        for (const struct option_spec *spec = set->specs; spec->name; spec++) {
            const char *const *field =
                (const char *const *)(const void *)((char *)set->record + spec->offset);
            if (!spec->required || *field) continue;
            if (!spec->letter)
                return sl_error_set(error, SL_ERR_ARGUMENT, 0, "option --%s %s is missing",
                                    spec->name, spec->value);
            return sl_error_set(error, SL_ERR_ARGUMENT, 0, "option -%c %s is missing (or --%s)",
                                spec->letter, spec->value, spec->name);
        }
    }
    return SL_OK;
}

enum sl_status options_parse(const struct options_command *command, int argc, char **argv,
                             bool *help, struct sl_error *error)
{
    *help = false;
    bool options_over = false;
    for (int i = 0; i < argc;) {
        const char *argument = argv[i];
        if (!options_over && strcmp(argument, "--") == 0) {
            options_over = true;
            i++;
        } else if (!options_over && (!strcmp(argument, "-h") || !strcmp(argument, "--help"))) {
            *help = true;
            return SL_OK;
        } else if (!options_over && argument[0] == '-' && argument[1]) {
            enum sl_status status = parse_option(command, argc, argv, &i, error);
            if (status != SL_OK) return status;
        } else if (command->operand && !*command->operand) {
            *command->operand = argv[i++];
        } else {
            return sl_error_set(error, SL_ERR_ARGUMENT, 0, "unexpected argument \"%.80s\"",
                                argument);
        }
    }
    return check_required(command, error);
}

static void print_option(const struct option_spec *spec, FILE *file)
{
    char left[96];
    char letter[8] = "    ";
    if (spec->letter) snprintf(letter, sizeof letter, "-%c, ", spec->letter);
    int columns = snprintf(left, sizeof left, "  %s--%s%s%s", letter, spec->name,
                           spec->value ? " " : "", spec->value ? spec->value : "");
    fputs(left, file);
    if (columns >= HELP_COLUMN - 1) {
        fputc('\n', file);
        columns = 0;
    }
    fprintf(file, "%*s%s\n", HELP_COLUMN - columns, "", spec->help);
}

void options_print_help(const struct options_command *command, FILE *file)
{
    fprintf(file, "usage: sluice %s%s%s\n\n%s\n", command->name, command->usage[0] ? " " : "",
            command->usage, command->summary);
    for (const struct option_set *set = command->set; set->specs; set++) {
        if (set == command->set) fputs("\nOptions:\n", file);
        for (const struct option_spec *spec = set->specs; spec->name; spec++)
            print_option(spec, file);
    }
    fprintf(file, "  -h, --help%*sthis text\n", HELP_COLUMN - 12, "");
}
