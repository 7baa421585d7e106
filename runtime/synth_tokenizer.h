/* A small tokenizer in the published format for a random checkpoint: all 256 bytes, a few merges
 * of common English pairs, and the markers that prompts use. */
#ifndef SLUICE_RUNTIME_SYNTH_TOKENIZER_H
#define SLUICE_RUNTIME_SYNTH_TOKENIZER_H

#include "kernels/base.h"

/* Every id is below this; a vocabulary must be at least as large. */
#define SYNTH_TOKENIZER_IDS_MAX 512

/* The text of tokenizer.json, zero-terminated; the caller's to free(). NULL without memory. */
char *synth_tokenizer_text(void);

#endif
