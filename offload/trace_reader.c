/* Blocks checked as a whole, then steps unpacked one by one; see the header. */
#include "offload/trace_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct trace_reader {
    struct trace_head head;
    char *name;
    int fd;              /* -1: bytes in memory */
    const uint8_t *data; /* these, borrowed */
    size_t data_bytes;

    uint64_t offset;     /* of the next block in the file */
    uint64_t steps_done; /* of whole blocks before the current one and of steps taken from it */
    bool ended;

    uint8_t *block; /* [block_capacity] payload */
    size_t block_capacity, block_bytes, block_at;
    uint64_t block_offset; /* of the payload in the file */
    uint32_t block_left;   /* steps */

    struct trace_step step; /* handed out; its arrays are those below */
    int32_t *ids;
    uint16_t *chosen;
    struct predictor_candidate *guesses;
    struct trace_timing *timings;
    size_t step_capacity; /* bytes of the largest step that the arrays hold, as in the file */
};

/* Up to `bytes` from the offset; -1 with errno set. */
static ssize_t read_at(const struct trace_reader *reader, uint64_t offset, void *to, size_t bytes)
{
    size_t done = 0;
    if (reader->fd < 0) {
        if (offset >= reader->data_bytes) return 0;
        done = reader->data_bytes - (size_t)offset;
        if (done > bytes) done = bytes;
        memcpy(to, reader->data + offset, done);
        return (ssize_t)done;
    }
    while (done < bytes) {
        ssize_t got = pread(reader->fd, (uint8_t *)to + done, bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

/* Exactly `bytes`; a file that ends before is refused with what is whole of it. */
static enum sl_status read_exact(const struct trace_reader *reader, uint64_t offset, void *to,
                                 size_t bytes, struct sl_error *error)
{
    ssize_t got = read_at(reader, offset, to, bytes);
    if (got < 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot read %s at offset %llu: %s",
                            reader->name, (unsigned long long)offset, strerror(errno));
    if ((size_t)got == bytes) return SL_OK;
    return sl_error_set(error, SL_ERR_FORMAT, 0,
                        "%s ends early, in the block at offset %llu, after %llu whole steps: the "
                        "recording was cut off",
                        reader->name, (unsigned long long)reader->offset,
                        (unsigned long long)reader->steps_done);
}

static enum sl_status start_reader(struct trace_reader *reader, const char *name,
                                   struct sl_error *error)
{
    uint8_t bytes[TRACE_HEAD_BYTES];
    if (!reader->name) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %s", name);
    ssize_t got = read_at(reader, 0, bytes, sizeof bytes);
    if (got < 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot read %s: %s", name, strerror(errno));
    if (got < (ssize_t)sizeof bytes)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s is no trace: it has %zd bytes, the head alone has %d", name, got,
                            TRACE_HEAD_BYTES);
    SL_TRY(trace_head_parse(bytes, name, &reader->head, error));
    trace_reader_rewind(reader);
    return SL_OK;
}

static enum sl_status finish_open(struct trace_reader *reader, const char *name,
                                  struct trace_reader **out, struct sl_error *error)
{
    reader->name = strdup(name);
    enum sl_status status = start_reader(reader, name, error);
    if (status == SL_OK)
        *out = reader;
    else
        trace_reader_close(reader);
    return status;
}

enum sl_status trace_reader_open(const char *path, struct trace_reader **out,
                                 struct sl_error *error)
{
    *out = NULL;
    struct trace_reader *reader = calloc(1, sizeof *reader);
    if (!reader) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %s", path);
    reader->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0) {
        int code = errno;
        free(reader);
        return sl_error_set(error, SL_ERR_IO, code, "cannot open the trace %s: %s", path,
                            strerror(code));
    }
    return finish_open(reader, path, out, error);
}

enum sl_status trace_reader_open_memory(const void *data, size_t bytes, const char *name,
                                        struct trace_reader **out, struct sl_error *error)
{
    *out = NULL;
    struct trace_reader *reader = calloc(1, sizeof *reader);
    if (!reader) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %s", name);
    reader->fd = -1;
    reader->data = data;
    reader->data_bytes = bytes;
    return finish_open(reader, name, out, error);
}

void trace_reader_close(struct trace_reader *reader)
{
    if (!reader) return;
    if (reader->fd >= 0) close(reader->fd);
    free(reader->name);
    free(reader->block);
    free(reader->ids);
    free(reader->chosen);
    free(reader->guesses);
    free(reader->timings);
    free(reader);
}

const struct trace_head *trace_reader_head(const struct trace_reader *reader)
{
    return &reader->head;
}

void trace_reader_rewind(struct trace_reader *reader)
{
    reader->offset = TRACE_HEAD_BYTES;
    reader->steps_done = 0;
    reader->block_left = 0;
    reader->block_at = reader->block_bytes = 0;
    reader->ended = false;
}

/* ---- blocks ------------------------------------------------------------------------------- */

static enum sl_status damaged(const struct trace_reader *reader, uint64_t offset, const char *what,
                              struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_FORMAT, 0, "%s: offset %llu: %s; record the trace again",
                        reader->name, (unsigned long long)offset, what);
}

static enum sl_status grow_block(struct trace_reader *reader, size_t bytes, struct sl_error *error)
{
    if (bytes <= reader->block_capacity) return SL_OK;
    free(reader->block);
    reader->block_capacity = 0;
    reader->block = malloc(bytes);
    if (!reader->block)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "%s: no memory for a block of %zu bytes",
                            reader->name, bytes);
    reader->block_capacity = bytes;
    return SL_OK;
}

/* After the end there must be nothing. */
static enum sl_status check_end(struct trace_reader *reader, const struct trace_block *block,
                                struct sl_error *error)
{
    uint8_t more;
    if (block->first_step != reader->steps_done)
        return damaged(reader, reader->offset, "the end counts other steps than the file has",
                       error);
    if (read_at(reader, reader->offset + TRACE_BLOCK_HEAD_BYTES, &more, 1) > 0)
        return damaged(reader, reader->offset + TRACE_BLOCK_HEAD_BYTES, "bytes after the end",
                       error);
    reader->ended = true;
    return SL_OK;
}

static enum sl_status read_block(struct trace_reader *reader, struct sl_error *error)
{
    uint8_t head[TRACE_BLOCK_HEAD_BYTES];
    struct trace_block block;
    uint64_t checksum, at = reader->offset;
    SL_TRY(read_exact(reader, at, head, sizeof head, error));
    if (!trace_block_parse(head, &block, &checksum))
        return damaged(reader, at, "no block starts here", error);
    /* A block's last step may take it past its usual size; more is no writer's work. */
    if (block.payload_bytes > TRACE_BLOCK_BYTES + TRACE_STEP_BYTES_MAX)
        return damaged(reader, at, "a block of impossible size", error);
    if (block.payload_bytes) {
        /* Before memory is taken for it: is the block there at all? */
        uint8_t last;
        SL_TRY(read_exact(reader, at + sizeof head + block.payload_bytes - 1, &last, 1, error));
        SL_TRY(grow_block(reader, block.payload_bytes, error));
        SL_TRY(read_exact(reader, at + sizeof head, reader->block, block.payload_bytes, error));
    }
    if (trace_block_checksum(head, reader->block, block.payload_bytes) != checksum)
        return sl_error_set(error, SL_ERR_CHECKSUM, 0,
                            "%s: offset %llu: a block differs from its checksum; record the trace "
                            "again",
                            reader->name, (unsigned long long)at);
    if (block.end) return check_end(reader, &block, error);
    if (block.first_step != reader->steps_done)
        return damaged(reader, at, "blocks are missing before this one", error);
    reader->block_offset = at + sizeof head;
    reader->block_bytes = block.payload_bytes;
    reader->block_at = 0;
    reader->block_left = block.steps;
    reader->offset = reader->block_offset + block.payload_bytes;
    return SL_OK;
}

/* ---- steps -------------------------------------------------------------------------------- */

/* Arrays for a step whose parts in the file are this long. */
static enum sl_status grow_step(struct trace_reader *reader, const struct trace_layout *layout,
                                struct sl_error *error)
{
    if (layout->bytes <= reader->step_capacity) return SL_OK;
    free(reader->ids);
    free(reader->chosen);
    free(reader->guesses);
    free(reader->timings);
    /* One capacity for all parts: each is no longer than the step, and grows when unpacked by the
     * factor named. */
    reader->ids = malloc(layout->bytes);
    reader->chosen = malloc(2 * layout->bytes);
    reader->guesses = malloc(2 * layout->bytes);
    reader->timings = malloc(layout->bytes);
    reader->step_capacity = 0;
    if (!reader->ids || !reader->chosen || !reader->guesses || !reader->timings)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "%s: no memory for a step of %zu bytes",
                            reader->name, layout->bytes);
    reader->step_capacity = layout->bytes;
    return SL_OK;
}

_Static_assert(sizeof(struct predictor_candidate) == 8, "twice its four bytes in the file");

/* The head of the step at `at`, and its layout; refuses what the block cannot hold. */
static enum sl_status parse_step_head(struct trace_reader *reader, const uint8_t *at, size_t left,
                                      struct trace_layout *layout, uint32_t *flags,
                                      struct sl_error *error)
{
    uint64_t offset = reader->block_offset + reader->block_at;
    struct trace_step *step = &reader->step;
    uint32_t bytes;
    uint16_t layers;
    if (left < TRACE_STEP_HEAD_BYTES) return damaged(reader, offset, "half a step", error);
    memcpy(&bytes, at, 4);
    *flags = at[5];
    memcpy(&layers, at + 6, 2);
    *step = (struct trace_step){.kind = (enum trace_step_kind)at[4], .layers = layers};
    memcpy(&step->position, at + 8, 4);
    memcpy(&step->tokens, at + 12, 4);
    memcpy(&step->start_ns, at + 16, 8);
    memcpy(&step->duration_ns, at + 24, 8);
    if (at[4] > TRACE_VERIFY) return damaged(reader, offset, "a step of unknown kind", error);
    if (*flags & ~(TRACE_FLAG_GUESSES | TRACE_FLAG_TIMINGS))
        return damaged(reader, offset, "a step with unknown parts", error);
    if (layers > reader->head.layers) return damaged(reader, offset, "too many layers", error);
    if (step->position < 0 || step->tokens < 1 || step->tokens > TRACE_STEP_TOKENS_MAX)
        return damaged(reader, offset, "tokens out of bounds", error);
    if (*flags & TRACE_FLAG_GUESSES && reader->head.list_count == 0)
        return damaged(reader, offset, "guesses that the head does not announce", error);
    if (!trace_layout_make(&reader->head, layers, step->tokens, *flags, layout) ||
        layout->bytes != bytes || bytes > left)
        return damaged(reader, offset, "a step of the wrong size", error);
    return SL_OK;
}

static enum sl_status unpack_chosen(struct trace_reader *reader, const uint8_t *at,
                                    const struct trace_layout *layout, struct sl_error *error)
{
    const uint8_t *from = at + layout->chosen;
    size_t count = (layout->guesses - layout->chosen) / layout->expert_bytes;
    bool fine = true;
    if (layout->expert_bytes == 1)
        for (size_t i = 0; i < count; i++)
            reader->chosen[i] = from[i];
    else
        memcpy(reader->chosen, from, 2 * count);
    for (size_t i = 0; i < count; i++)
        fine &= reader->chosen[i] < reader->head.experts;
    if (fine) return SL_OK;
    return damaged(reader, reader->block_offset + reader->block_at + layout->chosen,
                   "an expert that the model does not have", error);
}

static enum sl_status unpack_guesses(struct trace_reader *reader, const uint8_t *at,
                                     const struct trace_layout *layout, struct sl_error *error)
{
    const uint8_t *from = at + layout->guesses;
    size_t count = (layout->timings - layout->guesses) / 4;
    for (size_t i = 0; i < count; i++) {
        uint16_t expert;
        int16_t margin;
        memcpy(&expert, from + 4 * i, 2);
        memcpy(&margin, from + 4 * i + 2, 2);
        bool none = expert == TRACE_NO_EXPERT;
        if (!none && expert >= reader->head.experts)
            return damaged(reader, reader->block_offset + reader->block_at + layout->guesses,
                           "a guess at an expert that the model does not have", error);
        reader->guesses[i] = (struct predictor_candidate){
            .expert = none ? -1 : expert, .margin = none ? 0 : (float)margin / TRACE_MARGIN_SCALE};
    }
    return SL_OK;
}

enum sl_status trace_reader_next(struct trace_reader *reader, const struct trace_step **out,
                                 struct sl_error *error)
{
    struct trace_layout layout;
    uint32_t flags = 0;
    *out = NULL;
    if (reader->block_left == 0 && !reader->ended) SL_TRY(read_block(reader, error));
    if (reader->ended) return SL_OK;
    const uint8_t *at = reader->block + reader->block_at;
    size_t left = reader->block_bytes - reader->block_at;
    SL_TRY(parse_step_head(reader, at, left, &layout, &flags, error));
    if (reader->block_left == 1 && layout.bytes != left)
        return damaged(reader, reader->block_offset + reader->block_at + layout.bytes,
                       "bytes after the last step of a block", error);
    SL_TRY(grow_step(reader, &layout, error));
    struct trace_step *step = &reader->step;
    memcpy(reader->ids, at + layout.ids, layout.chosen - layout.ids);
    SL_TRY(unpack_chosen(reader, at, &layout, error));
    if (flags & TRACE_FLAG_GUESSES) SL_TRY(unpack_guesses(reader, at, &layout, error));
    memcpy(reader->timings, at + layout.timings, layout.bytes - layout.timings);
    step->ids = reader->ids;
    step->chosen = reader->chosen;
    step->guesses = flags & TRACE_FLAG_GUESSES ? reader->guesses : NULL;
    step->timings = flags & TRACE_FLAG_TIMINGS ? reader->timings : NULL;
    reader->block_at += layout.bytes;
    reader->block_left--;
    reader->steps_done++;
    *out = step;
    return SL_OK;
}
