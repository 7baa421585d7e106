/* Cuts text into the pieces that are tokenized each by itself: split rules, one after the other.
 *
 * Every rule is a pattern and works on the pieces that the rule before left; each match becomes a
 * piece, and so does every stretch between matches. A rule sees nothing beyond its piece. The
 * struct is read only once it is made, so threads may share it. Patterns come from a file: they are
 * compiled once, and one that needs absurd time on some text is an error there. */
#ifndef SLUICE_RUNTIME_PRETOKENIZER_H
#define SLUICE_RUNTIME_PRETOKENIZER_H

#include "kernels/base.h"

#define PRETOKENIZER_RULES_MAX 16

struct pretokenizer;

SL_MUST_USE enum sl_status pretokenizer_create(struct pretokenizer **out);
void pretokenizer_destroy(struct pretokenizer *pretokenizer); /* NULL is allowed */

/* Appends a rule (at most PRETOKENIZER_RULES_MAX), written as split_pattern.h describes; `path` is
 * for messages. */
SL_MUST_USE enum sl_status pretokenizer_add(struct pretokenizer *pretokenizer, const char *pattern,
                                            size_t bytes, const char *path, struct sl_error *error);

/* Sees one piece, never empty; another status than SL_OK ends the split. */
typedef enum sl_status (*pretokenizer_piece_fn)(void *context, const char *piece, size_t bytes);

/* Calls `fn` with the pieces of `text`, valid UTF-8, in order. Returns what `fn` returned, or
 * SL_ERR_LIMIT when a pattern needs too much time or memory, or SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status pretokenizer_split(const struct pretokenizer *pretokenizer,
                                              const char *text, size_t bytes,
                                              pretokenizer_piece_fn fn, void *context,
                                              struct sl_error *error);

#endif
