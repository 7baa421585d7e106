/* Steps built in place at the end of a block's buffer; see the header. */
#include "offload/trace_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct trace_writer {
    struct trace_head head;
    int32_t tokens_max;
    int fd;
    char *path;
    uint8_t *buffer;      /* [capacity] a block's payload, and behind it the step under way */
    size_t capacity;      /* TRACE_BLOCK_BYTES and the largest step */
    size_t used;          /* bytes of whole steps */
    uint32_t block_steps; /* in these */
    uint64_t steps;       /* before them, in the file */
    uint64_t bytes;       /* of the file */
    bool started;
    uint64_t zero_ns; /* the clock at the first step */

    bool open; /* a step is under way */
    struct trace_layout layout;
    int32_t tokens, layers, layer; /* of the step; the layer that came last, -1 before the first */
    bool has_guesses;
    uint64_t start_ns;

    enum sl_status status; /* of the first failed write */
    struct sl_error error;
};

static void put(uint8_t *to, const void *value, size_t bytes)
{
    memcpy(to, value, bytes);
}

/* ---- file --------------------------------------------------------------------------------- */

static void write_all(struct trace_writer *writer, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    while (bytes > 0 && writer->status == SL_OK) {
        ssize_t done = write(writer->fd, at, bytes);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            int code = done < 0 ? errno : ENOSPC;
            writer->status = sl_error_set(
                &writer->error, SL_ERR_IO, code,
                "cannot write the trace %s at offset %llu: %s; what was recorded before is whole",
                writer->path, (unsigned long long)writer->bytes, strerror(code));
            return;
        }
        at += done;
        bytes -= (size_t)done;
        writer->bytes += (uint64_t)done;
    }
}

/* Writes the whole steps as one block; the step under way moves to the front. */
static void flush_block(struct trace_writer *writer)
{
    uint8_t head[TRACE_BLOCK_HEAD_BYTES];
    if (writer->block_steps == 0) return;
    struct trace_block block = {.payload_bytes = (uint32_t)writer->used,
                                .steps = writer->block_steps,
                                .first_step = writer->steps};
    trace_block_encode(&block, writer->buffer, head);
    write_all(writer, head, sizeof head);
    write_all(writer, writer->buffer, writer->used);
    writer->steps += writer->block_steps;
    writer->block_steps = 0;
    writer->used = 0;
}

static enum sl_status create_file(struct trace_writer *writer, const char *path,
                                  struct sl_error *error)
{
    uint8_t bytes[TRACE_HEAD_BYTES];
    writer->path = strdup(path);
    if (!writer->path) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a trace");
    writer->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->fd < 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, errno, "cannot create the trace %s: %s", path,
                            strerror(errno));
    trace_head_encode(&writer->head, bytes);
    write_all(writer, bytes, sizeof bytes);
    if (writer->status != SL_OK && error) *error = writer->error;
    return writer->status;
}

static void free_writer(struct trace_writer *writer)
{
    if (writer->fd >= 0) close(writer->fd);
    free(writer->path);
    free(writer->buffer);
    free(writer);
}

enum sl_status trace_writer_open(const char *path, const struct trace_head *head,
                                 int32_t tokens_max, struct trace_writer **out,
                                 struct sl_error *error)
{
    struct trace_layout whole, guessed;
    *out = NULL;
    SL_TRY(trace_head_check(head, error));
    SL_ASSERT(tokens_max >= 1 && tokens_max <= TRACE_STEP_TOKENS_MAX);
    if (!trace_layout_make(head, head->layers, tokens_max, TRACE_FLAG_TIMINGS, &whole) ||
        !trace_layout_make(head, head->layers, min_i32(tokens_max, TRACE_GUESS_TOKENS_MAX),
                           TRACE_FLAG_TIMINGS | TRACE_FLAG_GUESSES, &guessed))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "a trace cannot hold steps of %d tokens: use a smaller chunk",
                            (int)tokens_max);
    struct trace_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a trace");
    writer->fd = -1;
    writer->head = *head;
    writer->tokens_max = tokens_max;
    writer->capacity =
        TRACE_BLOCK_BYTES + (whole.bytes > guessed.bytes ? whole.bytes : guessed.bytes);
    writer->buffer = malloc(writer->capacity);
    enum sl_status status = SL_OK;
    if (!writer->buffer)
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %zu bytes of a trace",
                              writer->capacity);
    if (status == SL_OK) status = create_file(writer, path, error);
    if (status != SL_OK) {
        free_writer(writer);
        return status;
    }
    *out = writer;
    return SL_OK;
}

/* ---- a step in pieces --------------------------------------------------------------------- */

/* Lays the step out behind the whole ones and fills its head. */
static void start_step(struct trace_writer *writer, const struct trace_step *step, uint32_t flags)
{
    uint8_t *at = writer->buffer + writer->used;
    uint32_t bytes;
    SL_ASSERT(!writer->open);
    SL_ASSERT(step->tokens >= 1 && step->tokens <= writer->tokens_max);
    SL_ASSERT(trace_layout_make(&writer->head, step->layers, step->tokens, flags, &writer->layout));
    SL_ASSERT(writer->used + writer->layout.bytes <= writer->capacity);
    writer->open = true;
    writer->tokens = step->tokens;
    writer->layers = step->layers;
    writer->layer = -1;
    writer->has_guesses = flags & TRACE_FLAG_GUESSES;
    bytes = (uint32_t)writer->layout.bytes;
    uint16_t layers = (uint16_t)step->layers;
    memset(at, 0, TRACE_STEP_HEAD_BYTES);
    put(at, &bytes, 4);
    at[4] = (uint8_t)step->kind;
    at[5] = (uint8_t)flags;
    put(at + 6, &layers, 2);
    put(at + 8, &step->position, 4);
    put(at + 12, &step->tokens, 4);
    memcpy(at + writer->layout.ids, step->ids, 4 * (size_t)step->tokens);
    memset(at + writer->layout.guesses, 0xff, writer->layout.timings - writer->layout.guesses);
    memset(at + writer->layout.timings, 0, writer->layout.bytes - writer->layout.timings);
}

/* Closes the step under way; a block that is large enough goes to the file. */
static void finish_step(struct trace_writer *writer, uint64_t start_ns, uint64_t duration_ns)
{
    uint8_t *at = writer->buffer + writer->used;
    SL_ASSERT(writer->open && writer->layer == writer->layers - 1);
    put(at + 16, &start_ns, 8);
    put(at + 24, &duration_ns, 8);
    writer->used += writer->layout.bytes;
    writer->block_steps++;
    writer->open = false;
    if (writer->used >= TRACE_BLOCK_BYTES) flush_block(writer);
}

void trace_writer_begin(struct trace_writer *writer, const struct trace_step *step, uint64_t now_ns)
{
    uint32_t flags = TRACE_FLAG_TIMINGS;
    if (writer->head.list_count > 0 && step->tokens <= TRACE_GUESS_TOKENS_MAX)
        flags |= TRACE_FLAG_GUESSES;
    if (!writer->started) writer->zero_ns = now_ns;
    writer->started = true;
    start_step(writer, step, flags);
    writer->start_ns = now_ns;
}

void trace_writer_layer(struct trace_writer *writer, int32_t layer, const int32_t *chosen)
{
    SL_ASSERT(writer->open && layer == writer->layer + 1 && layer < writer->layers);
    size_t count = (size_t)writer->tokens * (size_t)writer->head.top;
    uint8_t *at = writer->buffer + writer->used + writer->layout.chosen +
                  (size_t)layer * count * writer->layout.expert_bytes;
    writer->layer = layer;
    for (size_t i = 0; i < count; i++) {
        SL_DEBUG_ASSERT(chosen[i] >= 0 && chosen[i] < writer->head.experts);
        uint16_t wide = (uint16_t)chosen[i];
        if (writer->layout.expert_bytes == 1)
            at[i] = (uint8_t)chosen[i];
        else
            put(at + 2 * i, &wide, 2);
    }
}

/* A margin in 1/4096, kept within 16 bits; what is no number counts as the worst. */
static int16_t pack_margin(float margin)
{
    float scaled = margin * TRACE_MARGIN_SCALE;
    if (!(scaled > -32767.0f)) return -32767;
    if (scaled > 32767.0f) return 32767;
    return (int16_t)(scaled < 0 ? scaled - 0.5f : scaled + 0.5f);
}

void trace_writer_list(struct trace_writer *writer, int32_t list, int32_t token,
                       const struct predictor_candidate *candidates, int32_t count)
{
    const struct trace_head *head = &writer->head;
    SL_ASSERT(writer->open && writer->layer >= 0 && list >= 0 && list < head->list_count);
    SL_ASSERT(token >= 0 && token < writer->tokens);
    if (!writer->has_guesses) return;
    size_t row =
        ((size_t)writer->layer * (size_t)head->list_count + (size_t)list) * (size_t)writer->tokens +
        (size_t)token;
    uint8_t *at =
        writer->buffer + writer->used + writer->layout.guesses + row * (size_t)head->guesses * 4;
    for (int32_t i = 0; i < min_i32(count, head->guesses) && candidates[i].expert >= 0; i++) {
        uint16_t expert = (uint16_t)candidates[i].expert;
        int16_t margin = pack_margin(candidates[i].margin);
        put(at + 4 * i, &expert, 2);
        put(at + 4 * i + 2, &margin, 2);
    }
}

void trace_writer_timing(struct trace_writer *writer, const struct trace_timing *timing)
{
    SL_ASSERT(writer->open && writer->layer >= 0);
    put(writer->buffer + writer->used + writer->layout.timings +
            (size_t)writer->layer * sizeof *timing,
        timing, sizeof *timing);
}

void trace_writer_end(struct trace_writer *writer, uint64_t now_ns)
{
    finish_step(writer, writer->start_ns - writer->zero_ns, now_ns - writer->start_ns);
}

void trace_writer_abandon(struct trace_writer *writer)
{
    writer->open = false;
}

/* ---- a whole step ------------------------------------------------------------------------- */

static void put_lists(struct trace_writer *writer, const struct trace_step *step)
{
    const struct trace_head *head = &writer->head;
    for (int32_t list = 0; list < head->list_count; list++) {
        for (int32_t token = 0; token < step->tokens; token++) {
            size_t row = ((size_t)writer->layer * (size_t)head->list_count + (size_t)list) *
                             (size_t)step->tokens +
                         (size_t)token;
            trace_writer_list(writer, list, token, step->guesses + row * (size_t)head->guesses,
                              head->guesses);
        }
    }
}

void trace_writer_step(struct trace_writer *writer, const struct trace_step *step)
{
    uint32_t flags = step->timings ? TRACE_FLAG_TIMINGS : 0;
    size_t count = (size_t)step->tokens * (size_t)writer->head.top;
    if (step->guesses && writer->head.list_count && step->tokens <= TRACE_GUESS_TOKENS_MAX)
        flags |= TRACE_FLAG_GUESSES;
    start_step(writer, step, flags);
    for (int32_t layer = 0; layer < step->layers; layer++) {
        uint8_t *at = writer->buffer + writer->used + writer->layout.chosen +
                      (size_t)layer * count * writer->layout.expert_bytes;
        const uint16_t *chosen = step->chosen + (size_t)layer * count;
        writer->layer = layer;
        for (size_t i = 0; i < count; i++) {
            SL_DEBUG_ASSERT(chosen[i] < writer->head.experts);
            if (writer->layout.expert_bytes == 1) at[i] = (uint8_t)chosen[i];
        }
        if (writer->layout.expert_bytes == 2) memcpy(at, chosen, 2 * count);
        if (writer->has_guesses) put_lists(writer, step);
        if (step->timings) trace_writer_timing(writer, &step->timings[layer]);
    }
    finish_step(writer, step->start_ns, step->duration_ns);
}

enum sl_status trace_writer_close(struct trace_writer *writer, struct sl_error *error)
{
    uint8_t head[TRACE_BLOCK_HEAD_BYTES];
    if (!writer) return SL_OK;
    flush_block(writer);
    struct trace_block end = {.end = true, .first_step = writer->steps};
    trace_block_encode(&end, NULL, head);
    write_all(writer, head, sizeof head);
    if (writer->status == SL_OK && close(writer->fd) != 0)
        writer->status =
            sl_error_set(&writer->error, SL_ERR_IO, errno, "cannot finish the trace %s: %s",
                         writer->path, strerror(errno));
    else if (writer->status != SL_OK)
        (void)close(writer->fd);
    writer->fd = -1;
    enum sl_status status = writer->status;
    if (status != SL_OK && error) *error = writer->error;
    free_writer(writer);
    return status;
}
