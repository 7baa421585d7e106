/* A simulated disk for tests; see the header. */
#include "tests/io_sim.h"

#include "tests/support.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct pending {
    struct io_read *read;
    uint64_t ready_turn;
};

struct sim_door {
    struct io base;
    struct io_options options;
    struct pending pending[IO_DEPTH_MAX];
    int32_t count;
    uint64_t turn;
};

static struct io_sim_plan current_plan;
static uint64_t random_state;
static struct io_sim_counts counts;

void io_sim_set_plan(const struct io_sim_plan *plan)
{
    SL_ASSERT(plan->fault_count >= 0 && plan->fault_count <= IO_SIM_FAULTS_MAX);
    current_plan = *plan;
    random_state = plan->seed;
}

struct io_sim_counts io_sim_counts_get(void)
{
    return counts;
}

static bool happens(uint32_t permille)
{
    return permille > 0 && test_random_below(&random_state, 1000) < permille;
}

static enum sl_status sim_open(const struct io_options *options, struct io **out,
                               struct sl_error *error)
{
    struct sim_door *door = calloc(1, sizeof *door);
    if (!door) return sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM, "no memory");
    door->base.ops = &io_sim_ops;
    door->options = *options;
    counts = (struct io_sim_counts){0};
    *out = &door->base;
    return SL_OK;
}

static const struct io_sim_fault *find_fault(const struct io_read *read)
{
    for (int32_t i = 0; i < current_plan.fault_count; i++) {
        const struct io_sim_fault *fault = &current_plan.faults[i];
        if (fault->file == read->file && read->offset_bytes < fault->offset_bytes + fault->bytes &&
            fault->offset_bytes < read->offset_bytes + read->bytes)
            return fault;
    }
    return NULL;
}

/* The caller's side of the contract. */
static void check_read(const struct sim_door *door, const struct io_read *read)
{
    const struct io_file *file = &door->options.files[read->file];
    const uint8_t *buffer = read->buffer;
    SL_ASSERT(read->file >= 0 && read->file < door->options.file_count);
    SL_ASSERT(read->bytes > 0);
    if (file->direct)
        SL_ASSERT((read->offset_bytes | read->bytes | (uintptr_t)buffer) % file->alignment_bytes ==
                  0);
    SL_ASSERT(read->region >= 0 && read->region < door->options.region_count);
    const struct iovec *region = &door->options.regions[read->region];
    SL_ASSERT(buffer >= (const uint8_t *)region->iov_base);
    SL_ASSERT(buffer + read->bytes <= (const uint8_t *)region->iov_base + region->iov_len);
    for (int32_t i = 0; i < door->count; i++) {
        const struct io_read *other = door->pending[i].read;
        const uint8_t *start = other->buffer;
        SL_ASSERT(buffer + read->bytes <= start || start + other->bytes <= buffer);
    }
}

static enum sl_status sim_submit(struct io *io, struct io_read *const *reads, int32_t count)
{
    struct sim_door *door = (struct sim_door *)io;
    SL_ASSERT(count > 0 && door->count + count <= door->options.depth);
    if (happens(current_plan.refuse_permille)) return SL_ERR_IO;
    for (int32_t i = 0; i < count; i++) {
        const struct io_sim_fault *fault = find_fault(reads[i]);
        uint64_t latency = test_random_below(&random_state, current_plan.latency_turns_max + 1);
        if (fault) latency += fault->stall_turns;
        check_read(door, reads[i]);
        /* What was in the buffer is lost from here on, as with a real disk. */
        memset(reads[i]->buffer, 0xa5, reads[i]->bytes);
        door->pending[door->count++] =
            (struct pending){.read = reads[i], .ready_turn = door->turn + latency};
    }
    counts.reads += (uint64_t)count;
    counts.in_flight = door->count;
    counts.in_flight_max = max_i32(counts.in_flight_max, door->count);
    return SL_OK;
}

static ssize_t perform(const struct sim_door *door, const struct io_read *read)
{
    const struct io_file *file = &door->options.files[read->file];
    const struct io_sim_fault *fault = find_fault(read);
    uint8_t *buffer = read->buffer;
    if (fault && fault->os_errno) return -fault->os_errno;
    if (happens(current_plan.transient_permille))
        return test_random_below(&random_state, 2) ? -EINTR : -EAGAIN;
    ssize_t result = pread(file->fd, buffer, read->bytes, (off_t)read->offset_bytes);
    if (result < 0) return -errno;
    if (result > 0 && happens(current_plan.short_permille)) {
        ssize_t kept = 1 + (ssize_t)test_random_below(&random_state, (uint32_t)result);
        memset(buffer + kept, 0xa5, (size_t)(result - kept));
        result = kept;
    }
    if (fault && fault->flip) {
        uint64_t at =
            fault->offset_bytes > read->offset_bytes ? fault->offset_bytes - read->offset_bytes : 0;
        if (at < (uint64_t)result) buffer[at] ^= 0x10;
    }
    return result;
}

/* One of the reads whose time has come, any of them; -1 when there is none. */
static int32_t choose_ready(const struct sim_door *door)
{
    if (door->count == 0) return -1;
    int32_t first = (int32_t)test_random_below(&random_state, (uint32_t)door->count);
    for (int32_t i = 0; i < door->count; i++) {
        int32_t at = (first + i) % door->count;
        if (door->pending[at].ready_turn <= door->turn) return at;
    }
    return -1;
}

static void next_turn(struct sim_door *door)
{
    door->turn++;
    if (current_plan.tick) current_plan.tick(current_plan.tick_context);
}

static int32_t sim_reap(struct io *io, struct io_read **out, int32_t max, int32_t wait_for)
{
    struct sim_door *door = (struct sim_door *)io;
    int32_t count = 0;
    SL_ASSERT(wait_for <= max && wait_for <= door->count);
    if (current_plan.reap_fails) return -EBADF;
    next_turn(door);
    while (count < max) {
        int32_t at = choose_ready(door);
        if (at < 0 && count >= wait_for) break;
        if (at < 0) {
            next_turn(door);
            continue;
        }
        struct io_read *read = door->pending[at].read;
        door->pending[at] = door->pending[--door->count];
        read->result = perform(door, read);
        out[count++] = read;
    }
    counts.in_flight = door->count;
    return count;
}

static const char *sim_describe(const struct io *io)
{
    (void)io;
    return "simulated";
}

static void sim_close(struct io *io)
{
    free(io);
    counts.in_flight = 0;
}

const struct io_ops io_sim_ops = {
    .name = "sim",
    .open = sim_open,
    .submit = sim_submit,
    .reap = sim_reap,
    .describe = sim_describe,
    .close = sim_close,
};
