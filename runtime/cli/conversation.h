/* The messages of a conversation, as the library's chat functions take them.
 *
 * Owns its messages. Rendering always covers the whole conversation: the session finds out for
 * itself which prefix it holds already. */
#ifndef SLUICE_CLI_CONVERSATION_H
#define SLUICE_CLI_CONVERSATION_H

#include "runtime/cli/answer_args.h"
#include "runtime/cli/grow_text.h"
#include "runtime/cli/ids_input.h"

#include <jansson.h>

struct conversation {
    json_t *messages; /* array */
    enum think_level think;
    bool profile_0731;             /* the checkpoint's levels of thinking */
    const sl_tokenizer *tokenizer; /* the engine's */
    const char *end;               /* text of the token that ends an answer; the tokenizer's */
    size_t end_bytes;
};

/* For the checkpoint of `engine`, which must have a tokenizer and outlive the conversation. */
SL_MUST_USE enum sl_status conversation_init(struct conversation *conversation,
                                             const sl_engine *engine, struct sl_error *error);
void conversation_deinit(struct conversation *conversation);

/* SL_ERR_ARGUMENT for a level that the checkpoint does not know. */
SL_MUST_USE enum sl_status conversation_set_think(struct conversation *conversation,
                                                  enum think_level think, struct sl_error *error);

/* Replaces the system message; an empty or NULL text takes it away. */
SL_MUST_USE enum sl_status conversation_set_system(struct conversation *conversation,
                                                   const char *text, struct sl_error *error);

/* Appends what the user says; invalid UTF-8 becomes U+FFFD. */
SL_MUST_USE enum sl_status conversation_add_user(struct conversation *conversation,
                                                 const char *text, size_t bytes,
                                                 struct sl_error *error);

/* Takes the last message back: a turn that got no answer. */
void conversation_pop(struct conversation *conversation);
/* Forgets everything but the system message. */
void conversation_reset(struct conversation *conversation);

/* Appends the model's answer. Reasoning and tool calls of a complete one are taken apart; an answer
 * that was cut or is malformed stays as plain content. */
SL_MUST_USE enum sl_status conversation_add_answer(struct conversation *conversation,
                                                   const struct grow_text *text, bool complete,
                                                   struct sl_error *error);

/* The prompt's ids; `out` is then to be deinitialised. */
SL_MUST_USE enum sl_status conversation_render(const struct conversation *conversation,
                                               struct ids_input *out, struct sl_error *error);

/* Writes the conversation as JSON, in the form that `sluice debug render` reads. */
SL_MUST_USE enum sl_status conversation_save(const struct conversation *conversation,
                                             const char *path, struct sl_error *error);

#endif
