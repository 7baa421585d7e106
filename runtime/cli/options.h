/* Command-line options as tables: one parser and one help printer for every command.
 *
 * A command lists sets of options; each set writes into a record of its own, at the offset named by
 * the option. Text values are borrowed from argv. Nothing is allocated; errors name the option,
 * what was expected and what was found. */
#ifndef SLUICE_CLI_OPTIONS_H
#define SLUICE_CLI_OPTIONS_H

#include "runtime/sl.h"

#include <stdio.h>

enum option_kind {
    OPTION_FLAG,   /* bool; takes no value */
    OPTION_TEXT,   /* const char * */
    OPTION_INT,    /* int32_t within [min, max] */
    OPTION_NUMBER, /* double within [min, max] */
    OPTION_U64,    /* uint64_t up to INT64_MAX */
    OPTION_SIZE,   /* uint64_t bytes: 4096, 512M, 8G; units are binary */
    OPTION_CHOICE, /* int32_t: index into choices */
};

struct option_spec {
    const char *name; /* without the dashes; NULL ends a table */
    char letter;      /* of the short form; 0: none */
    enum option_kind kind;
    bool required;              /* OPTION_TEXT only */
    size_t offset;              /* of the value in the set's record */
    double min, max;            /* OPTION_INT and OPTION_NUMBER, inclusive */
    const char *const *choices; /* OPTION_CHOICE: ends with NULL */
    const char *value;          /* its name in the help; NULL for flags */
    const char *help;
};

struct option_set {
    const struct option_spec *specs; /* NULL ends an array of sets */
    void *record;
};

struct options_command {
    const char *name;             /* "run", "debug logits" */
    const char *usage;            /* what follows the name */
    const char *summary;          /* what the command does, in whole lines */
    const struct option_set *set; /* ends with specs == NULL */
    const char **operand;         /* receives the one argument without dashes; NULL: none allowed */
};

/* Reads `argv`[0 .. argc) into the records, which hold the defaults before. The last one of a
 * repeated option counts; "--" ends the options. `*help` is set when -h or --help is met, and what
 * follows is then not read. SL_ERR_ARGUMENT with a message otherwise. */
SL_MUST_USE enum sl_status options_parse(const struct options_command *command, int argc,
                                         char **argv, bool *help, struct sl_error *error);

void options_print_help(const struct options_command *command, FILE *file);

#endif
