/* A tokenizer in the published format for a random checkpoint: all 256 bytes, a few merges of
 * common English pairs, then merges of letters that fill the vocabulary, and the markers that
 * prompts use. */
#ifndef SLUICE_RUNTIME_SYNTH_TOKENIZER_H
#define SLUICE_RUNTIME_SYNTH_TOKENIZER_H

#include "kernels/base.h"

/* The smallest vocabulary: bytes, hand-picked merges and markers fit. */
#define SYNTH_TOKENIZER_VOCAB_MIN 512

/* The text of tokenizer.json with ids 0 .. vocab - 1, zero-terminated; the caller's to free(). NULL
 * without memory. */
char *synth_tokenizer_text(int32_t vocab);

#endif
