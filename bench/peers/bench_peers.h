/* One routed expert of the real shape, computed by us and by other programs on the same weights and
 * activations. Built by bench/peers/run into a shared object that the script drives.
 *
 * All experts are copies of one random expert, each at its own place in memory. State is the
 * module's own: one thread calls, and nothing is freed before the process ends. */
#ifndef SLUICE_BENCH_PEERS_BENCH_PEERS_H
#define SLUICE_BENCH_PEERS_BENCH_PEERS_H

#include "kernels/expert_layout.h"

#define PEERS_HIDDEN      4096
#define PEERS_WIDTH       2048
#define PEERS_EXPERTS     96 /* 1.28 GB of packed weights */
#define PEERS_TASKS       6  /* experts of one call */
#define PEERS_TOKENS_MAX  64
#define PEERS_THREADS_MAX 256
#define PEERS_LIMIT       10.0f
#define PEERS_WEIGHT      0.5f /* of the router: a power of two, so it may be applied anywhere */

/* The six published tensors of the expert (row-major, low nibble first; e8m0 scales per 32). */
SL_API const uint8_t *peers_part(int32_t part);
/* Activations [PEERS_TOKENS_MAX, PEERS_HIDDEN], all bf16 values. */
SL_API const float *peers_activations(void);

/* Makes the weights and a stream of `threads`, pinned to the first CPUs; false without memory or
 * threads. */
SL_API bool peers_open(uint64_t seed, int32_t threads);
/* Seconds for the next PEERS_TASKS experts on the first `tokens` activations, by the kernels of the
 * named instruction set; negative when this machine lacks it. */
SL_API double peers_run_ours(const char *isa, int32_t tokens);
/* The last results of peers_run_ours, first expert: [tokens, PEERS_HIDDEN]. */
SL_API const float *peers_ours_output(void);
/* out = x [count, a multiple of 128] rounded to e4m3 with one scale per 128; out may be x. */
SL_API void peers_quantise(const double *x, int32_t count, double *out);
/* One expert in float64 with the model's own roundings: [tokens, PEERS_HIDDEN]. */
SL_API void peers_reference(int32_t tokens, double *out);

/* The same by ggml, its MXFP4 tensors either plain or in the buffer type that rearranges them. */
SL_API bool peers_open_ggml(int32_t threads);
SL_API double peers_run_ggml(bool repacked, int32_t tokens);
SL_API const float *peers_ggml_output(void);

#endif
