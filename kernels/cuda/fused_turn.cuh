/* What turns of few tokens (fused_turn.cu) and of a prompt's chunk (fused_turn_wide.cu) share. */
#ifndef SLUICE_KERNELS_CUDA_FUSED_TURN_CUH
#define SLUICE_KERNELS_CUDA_FUSED_TURN_CUH

#include "kernels/fused.h"

#define TURN_STREAMS    4
#define TURN_ROWS       ((2 + TURN_STREAMS) * TURN_STREAMS) /* of fn */
#define TURN_SUMS       (TURN_ROWS + 1)                     /* and the sum of squares */
#define TURN_CHANNELS   64                                  /* of a block that mixes */
#define TURN_HIDDEN_MAX 8192

/* A turn of any number of tokens whose shapes cuda_fused_turn takes. False, and nothing is
 * launched: some array does not lie on a boundary of 16 bytes. */
bool turn_wide(struct stream *stream, const struct fused_turn_args *args);

#endif
