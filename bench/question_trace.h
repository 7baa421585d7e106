/* A trace of a model that answers questions, each in a chat of its own. */
#ifndef SLUICE_BENCH_QUESTION_TRACE_H
#define SLUICE_BENCH_QUESTION_TRACE_H

#include "runtime/sl.h"

/* Asks the questions of `file`, one a line, in sessions of `engine`, which records already. Answers
 * are greedy and end with the turn or after QUESTION_ANSWER_MAX tokens; every other question is
 * thought about. Prompts are appended token by token, as decoding does. */
#define QUESTION_ANSWER_MAX 128
SL_MUST_USE enum sl_status question_trace_ask(sl_engine *engine, const char *file,
                                              struct sl_error *error);

#endif
