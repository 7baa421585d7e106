/* The commands under `sluice debug`; see command.h for what they take and return. */
#ifndef SLUICE_CLI_DEBUG_COMMANDS_H
#define SLUICE_CLI_DEBUG_COMMANDS_H

/* debug_text.c: need no model */
int debug_text_tokens(int argc, char **argv);
int debug_text_bytes(int argc, char **argv);
int debug_text_render(int argc, char **argv);
int debug_text_parse(int argc, char **argv);

/* debug_model.c */
int debug_model_logits(int argc, char **argv);
int debug_model_route(int argc, char **argv);

#endif
