/* A thread, a queue of launches, and lists of launches to repeat; see the header. */
#include "tests/gpu_sim.h"

#include "offload/device_sim.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#define ALIGNMENT 256u

enum command_kind {
#define X(op) COMMAND_##op,
    SL_OPS(X)
#undef X
        COMMAND_copy,
    COMMAND_publish,
    COMMAND_take,
    COMMAND_replay,
};

struct command {
    enum command_kind kind;
    union {
#define X(op) struct op##_args op;
        SL_OPS(X)
#undef X
        struct {
            void *target;
            const void *source;
            size_t bytes;
        } copy;
        struct {
            struct gpu_piece pieces[GPU_PIECES_MAX];
            int32_t count;
            uint32_t *flag;
            uint32_t value;
        } meeting;
        const struct gpu_graph *graph;
    } as;
};

struct command_list {
    struct command *items;
    size_t count, room;
};

struct gpu_graph {
    struct command_list list;
};

/* The copy lanes of a simulated device, with fences: its own know nothing of what is launched. */
struct fenced_device {
    struct device base;
    struct device *inner;
    struct gpu_sim *gpu;
};

struct gpu_sim {
    struct gpu base;
    struct fenced_device device;
    struct ops ops;
    struct gpu_sim_options options;
    struct stream *cpu;
    struct command_list queue; /* from `first` on */
    size_t first;
    struct command_list *recording; /* NULL: not recording */
    struct gpu_graph *graph;        /* being recorded */
    bool running, closing;
    bool fault;
    int64_t fail_after;
    uint64_t submitted, finished; /* of the queue, since the beginning */
    bool fenceless;
    uint64_t launches, replays, used_bytes;
    uint64_t taken_bytes;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
};

static struct gpu_sim *sim_of(void *gpu)
{
    return gpu;
}

static void append(struct command_list *list, const struct command *command)
{
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 64;
        list->items = realloc(list->items, list->room * sizeof *list->items);
        SL_ASSERT(list->items != NULL);
    }
    list->items[list->count++] = *command;
}

static void submit(struct gpu_sim *sim, const struct command *command)
{
    if (sim->recording) {
        SL_ASSERT(command->kind != COMMAND_replay);
        append(sim->recording, command);
        return;
    }
    pthread_mutex_lock(&sim->mutex);
    if (sim->first == sim->queue.count) sim->first = sim->queue.count = 0;
    append(&sim->queue, command);
    sim->submitted++;
    pthread_cond_broadcast(&sim->changed);
    pthread_mutex_unlock(&sim->mutex);
}

/* ---- the thread ---- */

static bool has_fault(struct gpu_sim *sim)
{
    pthread_mutex_lock(&sim->mutex);
    bool fault = sim->fault || sim->closing;
    pthread_mutex_unlock(&sim->mutex);
    return fault;
}

/* False when this launch fails, or one before has. */
static bool may_run(struct gpu_sim *sim)
{
    pthread_mutex_lock(&sim->mutex);
    if (sim->fail_after >= 0 && sim->fail_after-- == 0) sim->fault = true;
    bool fine = !sim->fault;
    sim->launches += fine;
    pthread_mutex_unlock(&sim->mutex);
    return fine;
}

static void copy_pieces(const struct command *command)
{
    for (int32_t i = 0; i < command->as.meeting.count; i++)
        memcpy(command->as.meeting.pieces[i].target, command->as.meeting.pieces[i].source,
               command->as.meeting.pieces[i].bytes);
}

static void run(struct gpu_sim *sim, const struct command *command)
{
    const struct ops *cpu = ops_cpu();
    if (command->kind == COMMAND_replay) {
        const struct command_list *list = &command->as.graph->list;
        for (size_t i = 0; i < list->count; i++)
            run(sim, &list->items[i]);
        return;
    }
    if (!may_run(sim)) return;
    switch (command->kind) {
#define X(op)                                                                                      \
    case COMMAND_##op: cpu->op(sim->cpu, &command->as.op); break;
        SL_OPS(X)
#undef X
    case COMMAND_copy:
        memcpy(command->as.copy.target, command->as.copy.source, command->as.copy.bytes);
        break;
    case COMMAND_publish:
        copy_pieces(command);
        __atomic_store_n(command->as.meeting.flag, command->as.meeting.value, __ATOMIC_RELEASE);
        break;
    case COMMAND_take:
        while (__atomic_load_n(command->as.meeting.flag, __ATOMIC_ACQUIRE) <
                   command->as.meeting.value &&
               !has_fault(sim))
            sched_yield();
        copy_pieces(command);
        for (int32_t i = 0; i < command->as.meeting.count; i++)
            sim->taken_bytes += command->as.meeting.pieces[i].bytes;
        break;
    case COMMAND_replay: break;
    }
}

static void *work(void *argument)
{
    struct gpu_sim *sim = argument;
    pthread_mutex_lock(&sim->mutex);
    for (;;) {
        while (sim->first == sim->queue.count && !sim->closing)
            pthread_cond_wait(&sim->changed, &sim->mutex);
        if (sim->first == sim->queue.count) break;
        struct command next = sim->queue.items[sim->first++];
        sim->running = true;
        pthread_mutex_unlock(&sim->mutex);
        run(sim, &next);
        pthread_mutex_lock(&sim->mutex);
        sim->running = false;
        sim->finished++;
        pthread_cond_broadcast(&sim->changed);
    }
    pthread_mutex_unlock(&sim->mutex);
    return NULL;
}

/* ---- ops ---- */

#define X(op)                                                                                      \
    static void sim_##op(struct stream *stream, const struct op##_args *args)                      \
    {                                                                                              \
        struct command command = {.kind = COMMAND_##op};                                           \
        command.as.op = *args;                                                                     \
        submit(sim_of(stream), &command);                                                          \
    }
SL_OPS(X)
#undef X

static enum sl_status sim_stream_sync(struct stream *stream)
{
    struct gpu_sim *sim = sim_of(stream);
    SL_ASSERT(!sim->recording);
    pthread_mutex_lock(&sim->mutex);
    while (sim->running || sim->first < sim->queue.count)
        pthread_cond_wait(&sim->changed, &sim->mutex);
    enum sl_status status = sim->fault ? SL_ERR_IO : SL_OK;
    pthread_mutex_unlock(&sim->mutex);
    return status;
}

static enum sl_status sim_sync(struct gpu *gpu, struct sl_error *error)
{
    if (sim_stream_sync(gpu->stream) == SL_OK) return SL_OK;
    return sl_error_set(error, SL_ERR_IO, 0, "the simulated GPU failed, as planned");
}

static bool sim_is_idle(struct gpu *gpu)
{
    struct gpu_sim *sim = sim_of(gpu);
    pthread_mutex_lock(&sim->mutex);
    bool idle = sim->fault || (!sim->running && sim->first == sim->queue.count);
    pthread_mutex_unlock(&sim->mutex);
    return idle;
}

static void sim_copy(struct gpu *gpu, void *target, const void *source, size_t bytes)
{
    struct command command = {.kind = COMMAND_copy};
    command.as.copy.target = target;
    command.as.copy.source = source;
    command.as.copy.bytes = bytes;
    submit(sim_of(gpu), &command);
}

static void meet(struct gpu *gpu, enum command_kind kind, const struct gpu_piece *pieces,
                 int32_t count, uint32_t *flag, uint32_t value)
{
    struct command command = {.kind = kind};
    SL_ASSERT(count >= 0 && count <= GPU_PIECES_MAX);
    memcpy(command.as.meeting.pieces, pieces, sizeof *pieces * (size_t)count);
    command.as.meeting.count = count;
    command.as.meeting.flag = flag;
    command.as.meeting.value = value;
    submit(sim_of(gpu), &command);
}

static void sim_publish(struct gpu *gpu, const struct gpu_piece *pieces, int32_t count,
                        uint32_t *flag, uint32_t value)
{
    meet(gpu, COMMAND_publish, pieces, count, flag, value);
}

static void sim_take(struct gpu *gpu, const uint32_t *flag, uint32_t value,
                     const struct gpu_piece *pieces, int32_t count)
{
    meet(gpu, COMMAND_take, pieces, count, (uint32_t *)(uintptr_t)flag, value);
}

/* ---- recordings ---- */

static enum sl_status sim_record(struct gpu *gpu, struct sl_error *error)
{
    struct gpu_sim *sim = sim_of(gpu);
    SL_ASSERT(!sim->recording);
    if (sim->options.no_recording)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "this simulated GPU records nothing");
    sim->graph = calloc(1, sizeof *sim->graph);
    SL_ASSERT(sim->graph != NULL);
    sim->recording = &sim->graph->list;
    return SL_OK;
}

static enum sl_status sim_record_end(struct gpu *gpu, struct gpu_graph **out,
                                     struct sl_error *error)
{
    struct gpu_sim *sim = sim_of(gpu);
    SL_ASSERT(sim->recording);
    sim->recording = NULL;
    if (sim->options.recordings_failing-- > 0) {
        *out = NULL;
        free(sim->graph->list.items);
        free(sim->graph);
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "this recording fails, as planned");
    }
    *out = sim->graph;
    sim->graph = NULL;
    return SL_OK;
}

static void sim_graph_launch(struct gpu *gpu, struct gpu_graph *graph)
{
    struct command command = {.kind = COMMAND_replay};
    command.as.graph = graph;
    sim_of(gpu)->replays++;
    submit(sim_of(gpu), &command);
}

static void sim_graph_destroy(struct gpu *gpu, struct gpu_graph *graph)
{
    (void)gpu;
    if (!graph) return;
    free(graph->list.items);
    free(graph);
}

static void sim_set_fenceless(struct gpu *gpu, bool fenceless)
{
    sim_of(gpu)->fenceless = fenceless;
}

/* ---- copy lanes ---- */

static struct device *inner(const struct device *device)
{
    return ((const struct fenced_device *)device)->inner;
}

static enum sl_status fenced_alloc(struct device *device, size_t bytes, void **out,
                                   struct sl_error *error)
{
    return inner(device)->ops->memory_alloc(inner(device), bytes, out, error);
}

static void fenced_free(struct device *device, void *memory)
{
    inner(device)->ops->memory_free(inner(device), memory);
}

static enum sl_status fenced_pin(struct device *device, void *memory, size_t bytes,
                                 struct sl_error *error)
{
    if (((struct fenced_device *)device)->gpu->fenceless) return SL_ERR_BUSY;
    return inner(device)->ops->host_pin(inner(device), memory, bytes, error);
}

static void fenced_unpin(struct device *device, void *memory, size_t bytes)
{
    inner(device)->ops->host_unpin(inner(device), memory, bytes);
}

static uint64_t fenced_fence(struct device *device)
{
    struct gpu_sim *sim = ((struct fenced_device *)device)->gpu;
    pthread_mutex_lock(&sim->mutex);
    uint64_t fence = sim->fenceless || sim->finished == sim->submitted ? 0 : sim->submitted;
    pthread_mutex_unlock(&sim->mutex);
    return fence;
}

/* Waits here for the fence, where a real lane would wait by itself. */
static enum sl_status fenced_submit(struct device *device, enum device_lane lane,
                                    const struct device_copy *copy, uint64_t *ticket)
{
    struct gpu_sim *sim = ((struct fenced_device *)device)->gpu;
    pthread_mutex_lock(&sim->mutex);
    while (sim->finished < copy->after_fence)
        pthread_cond_wait(&sim->changed, &sim->mutex);
    pthread_mutex_unlock(&sim->mutex);
    return inner(device)->ops->copy_submit(inner(device), lane, copy, ticket);
}

static uint64_t fenced_progress(struct device *device, enum device_lane lane)
{
    return inner(device)->ops->copy_progress(inner(device), lane);
}

static void fenced_wait(struct device *device, uint64_t timeout_ns)
{
    inner(device)->ops->wait(inner(device), timeout_ns);
}

static const char *fenced_fault(const struct device *device, enum device_lane lane)
{
    return inner(device)->ops->lane_fault(inner(device), lane);
}

static const char *fenced_describe(const struct device *device)
{
    return inner(device)->ops->describe(inner(device));
}

static const struct device_ops fenced_ops = {
    .name = "simulated",
    .memory_alloc = fenced_alloc,
    .memory_free = fenced_free,
    .host_pin = fenced_pin,
    .host_unpin = fenced_unpin,
    .copy_submit = fenced_submit,
    .copy_progress = fenced_progress,
    .wait = fenced_wait,
    .fence = fenced_fence,
    .lane_fault = fenced_fault,
    .describe = fenced_describe,
};

/* ---- memory and life ---- */

static enum sl_status sim_alloc(struct gpu *gpu, enum gpu_memory kind, size_t bytes, void **out,
                                struct sl_error *error)
{
    struct gpu_sim *sim = sim_of(gpu);
    size_t all = align_up(bytes, ALIGNMENT) + ALIGNMENT;
    *out = NULL;
    if (kind == GPU_DEVICE && bytes > sim->options.memory_bytes - sim->used_bytes)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "the simulated GPU has no %zu bytes",
                            bytes);
    uint8_t *memory = aligned_alloc(ALIGNMENT, all);
    if (!memory) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory");
    memset(memory, kind == GPU_DEVICE ? 0xff : 0, all);
    memcpy(memory, &bytes, sizeof bytes);
    if (kind == GPU_DEVICE) sim->used_bytes += bytes;
    *out = memory + ALIGNMENT;
    return SL_OK;
}

static void sim_free(struct gpu *gpu, enum gpu_memory kind, void *memory)
{
    size_t bytes;
    if (!memory) return;
    uint8_t *block = (uint8_t *)memory - ALIGNMENT;
    memcpy(&bytes, block, sizeof bytes);
    if (kind == GPU_DEVICE) sim_of(gpu)->used_bytes -= bytes;
    free(block);
}

static uint64_t sim_free_bytes(struct gpu *gpu)
{
    return sim_of(gpu)->options.memory_bytes - sim_of(gpu)->used_bytes;
}

static const char *sim_describe(const struct gpu *gpu)
{
    (void)gpu;
    return "simulated GPU (not hardware)";
}

static void sim_destroy(struct gpu *gpu)
{
    struct gpu_sim *sim = sim_of(gpu);
    pthread_mutex_lock(&sim->mutex);
    sim->closing = true;
    pthread_cond_broadcast(&sim->changed);
    pthread_mutex_unlock(&sim->mutex);
    SL_ASSERT(pthread_join(sim->thread, NULL) == 0);
    SL_ASSERT(sim->used_bytes == 0);
    sim->device.inner->ops->destroy(sim->device.inner);
    ops_cpu()->stream_destroy(sim->cpu);
    pthread_cond_destroy(&sim->changed);
    pthread_mutex_destroy(&sim->mutex);
    free(sim->queue.items);
    free(sim);
}

static const struct gpu_ops sim_gpu_ops = {
    .alloc = sim_alloc,
    .free = sim_free,
    .copy = sim_copy,
    .publish = sim_publish,
    .take = sim_take,
    .sync = sim_sync,
    .is_idle = sim_is_idle,
    .free_bytes = sim_free_bytes,
    .record = sim_record,
    .record_end = sim_record_end,
    .graph_launch = sim_graph_launch,
    .graph_destroy = sim_graph_destroy,
    .set_fenceless = sim_set_fenceless,
    .describe = sim_describe,
    .destroy = sim_destroy,
};

struct gpu *gpu_sim_create(const struct gpu_sim_options *options)
{
    struct gpu_sim *sim = calloc(1, sizeof *sim);
    struct stream_options cpu = {.threads = 1};
    struct device_sim_options device = {
        .memory_bytes = options->memory_bytes,
        .bytes_per_second = {options->link_bytes_per_second, options->link_bytes_per_second},
        .threads = true,
        .seed = options->seed};
    SL_ASSERT(sim != NULL);
    sim->base.gpu_ops = &sim_gpu_ops;
    snprintf(sim->base.name, sizeof sim->base.name, "simulated GPU");
    if (options->pci) snprintf(sim->base.pci, sizeof sim->base.pci, "%s", options->pci);
    sim->base.ops = &sim->ops;
    sim->base.stream = (struct stream *)sim;
    sim->ops = (struct ops)
    {
        .name = "simulated", .stream_sync = sim_stream_sync,
#define X(op) .op = sim_##op,
        SL_OPS(X)
#undef X
    };
    sim->options = *options;
    sim->fail_after = -1;
    SL_ASSERT(ops_cpu()->stream_create(&cpu, &sim->cpu) == SL_OK);
    SL_ASSERT(device_sim_create(&device, &sim->device.inner, NULL) == SL_OK);
    sim->device.base.ops = &fenced_ops;
    sim->device.gpu = sim;
    sim->base.device = &sim->device.base;
    pthread_mutex_init(&sim->mutex, NULL);
    pthread_cond_init(&sim->changed, NULL);
    SL_ASSERT(pthread_create(&sim->thread, NULL, work, sim) == 0);
    return &sim->base;
}

void gpu_sim_fail_after(struct gpu *gpu, int64_t launches)
{
    struct gpu_sim *sim = sim_of(gpu);
    pthread_mutex_lock(&sim->mutex);
    sim->fail_after = launches;
    pthread_mutex_unlock(&sim->mutex);
}

uint64_t gpu_sim_replays(struct gpu *gpu)
{
    return sim_of(gpu)->replays;
}

uint64_t gpu_sim_taken_bytes(struct gpu *gpu)
{
    return sim_of(gpu)->taken_bytes;
}
