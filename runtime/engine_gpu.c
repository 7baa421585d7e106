/* Finding, filling and leaving a GPU; see the header. */
#include "runtime/engine_gpu.h"

#include "runtime/model_upload.h"
#include "runtime/moe_handshake.h"

enum sl_status engine_gpu_find(sl_engine *engine, const struct sl_engine_options *options,
                               struct gpu *override, struct sl_error *error)
{
    struct sl_error reason = {0};
    engine->gpu = override;
    if (override || options->device == SL_DEVICE_CPU) return SL_OK;
    enum sl_status status = gpu_open(&engine->gpu, &reason);
    if (status == SL_OK) return SL_OK;
    engine->gpu = NULL;
    if (options->device == SL_DEVICE_GPU)
        return sl_error_set(error, status, 0, "no GPU can be used: %s; --device cpu does without",
                            reason.message);
    snprintf(engine->gpu_absent, sizeof engine->gpu_absent, "%.*s",
             (int)sizeof engine->gpu_absent - 1, reason.message);
    return SL_OK;
}

uint64_t engine_gpu_bytes(const sl_engine *engine, const struct sl_engine_options *options)
{
    if (!engine->gpu) return 0;
    uint64_t free_bytes = engine->gpu->gpu_ops->free_bytes(engine->gpu);
    if (options->gpu_bytes)
        return options->gpu_bytes < free_bytes ? options->gpu_bytes : free_bytes;
    return free_bytes > BUDGET_GPU_KEPT_BYTES ? free_bytes - BUDGET_GPU_KEPT_BYTES : 0;
}

void engine_gpu_say_plan(const sl_engine *engine, const struct sl_engine_options *options)
{
    char plan[BUDGET_GPU_TEXT_BYTES], text[BUDGET_GPU_TEXT_BYTES + 256];
    if (!engine->gpu || !options->say) return;
    budget_gpu_text(&engine->budget, plan);
    snprintf(text, sizeof text, "GPU         %s\n%s", engine->gpu->gpu_ops->describe(engine->gpu),
             plan);
    options->say(options->say_context, text);
}

enum sl_status engine_gpu_fill(sl_engine *engine, const struct sl_engine_options *options,
                               struct sl_error *error)
{
    SL_ASSERT(engine->gpu);
    if (moe_handshake_create(&engine->handshake) != SL_OK)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    engine->device = engine->budget.device_bytes ? engine->gpu->device : NULL;
    SL_TRY(model_upload(engine->model, engine->gpu, options->progress, options->progress_context,
                        &engine->gpu_model, error));
    return model_check_unchanged(engine->model, error);
}

void engine_gpu_close(sl_engine *engine)
{
    if (!engine->gpu) return;
    moe_handshake_destroy(engine->handshake);
    model_upload_free(engine->gpu_model, engine->gpu);
    engine->gpu->gpu_ops->destroy(engine->gpu);
}
