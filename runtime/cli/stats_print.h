/* The figures of one answer, for people and as JSON. */
#ifndef SLUICE_CLI_STATS_PRINT_H
#define SLUICE_CLI_STATS_PRINT_H

#include "runtime/cli/generate.h"

#include <jansson.h>

void stats_print_text(const struct generate_result *result, FILE *file);

/* A new object, the caller's; NULL when there is no memory. */
json_t *stats_print_json(const struct generate_result *result);

/* A line a layer: experts asked for and missed, what became of guesses, time waited. */
void stats_print_layers(const sl_engine *engine, FILE *file);

#endif
