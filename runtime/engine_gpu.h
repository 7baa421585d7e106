/* The engine's part that finds a GPU and fills its memory. */
#ifndef SLUICE_RUNTIME_ENGINE_GPU_H
#define SLUICE_RUNTIME_ENGINE_GPU_H

#include "runtime/engine.h"

/* Finds the GPU that the options ask for, into engine->gpu, or writes down why there is none. Fails
 * only when a GPU was asked for by name. */
SL_MUST_USE enum sl_status engine_gpu_find(sl_engine *engine,
                                           const struct sl_engine_options *options,
                                           struct gpu *override, struct sl_error *error);

/* How much of its memory may be taken, for the plan. */
uint64_t engine_gpu_bytes(const sl_engine *engine, const struct sl_engine_options *options);

/* Says where its memory will go, if there is a GPU. */
void engine_gpu_say_plan(const sl_engine *engine, const struct sl_engine_options *options);

/* Copies the dense weights to the GPU, which is there. */
SL_MUST_USE enum sl_status engine_gpu_fill(sl_engine *engine,
                                           const struct sl_engine_options *options,
                                           struct sl_error *error);

void engine_gpu_close(sl_engine *engine);

#endif
