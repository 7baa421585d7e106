/* Writes a trace (trace.h): steps gather in a buffer, whole blocks go to the file.
 *
 * Owned by one thread. All memory is taken at open, so that recording allocates nothing. A failed
 * write is remembered, ends the recording and comes out of close: a full disk does not stop a run.
 */
#ifndef SLUICE_OFFLOAD_TRACE_WRITER_H
#define SLUICE_OFFLOAD_TRACE_WRITER_H

#include "offload/trace.h"

struct trace_writer;

/* Creates `path`, which must not be a directory, for steps of up to `tokens_max` tokens; an
 * existing file is replaced. SL_ERR_ARGUMENT: a head out of bounds, or a path that cannot be
 * created; SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status trace_writer_open(const char *path, const struct trace_head *head,
                                             int32_t tokens_max, struct trace_writer **out,
                                             struct sl_error *error);

/* A step in pieces, as a forward pass makes them: begin, then layers in ascending order, each with
 * its choice first and then, in any order, lists and timing; end or abandon. `now_ns` is any clock
 * that does not run backwards; the first begin is its zero. Of `step`, kind, position, tokens,
 * layers and ids are looked at; ids are copied. */
void trace_writer_begin(struct trace_writer *writer, const struct trace_step *step,
                        uint64_t now_ns);
/* chosen [tokens, top] of layer `layer`, which is one more than the last one's, from 0. */
void trace_writer_layer(struct trace_writer *writer, int32_t layer, const int32_t *chosen);
/* Candidates [count] for token `token` of the step, best first; more than the head's `guesses` are
 * cut, and steps of more than TRACE_GUESS_TOKENS_MAX tokens record none. */
void trace_writer_list(struct trace_writer *writer, int32_t list, int32_t token,
                       const struct predictor_candidate *candidates, int32_t count);
void trace_writer_timing(struct trace_writer *writer, const struct trace_timing *timing);
void trace_writer_end(struct trace_writer *writer, uint64_t now_ns);
void trace_writer_abandon(struct trace_writer *writer); /* forgets the step; fine without one */

/* A whole step at once; its start and duration are taken as given. */
void trace_writer_step(struct trace_writer *writer, const struct trace_step *step);

/* Writes what is left and the end, and frees the writer; the status of the whole recording. NULL is
 * fine. */
SL_MUST_USE enum sl_status trace_writer_close(struct trace_writer *writer, struct sl_error *error);

#endif
