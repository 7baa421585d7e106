/* The measurements behind the machine's profile; see the header. */
#include "runtime/host_bench.h"

#include "kernels/cpu/stream.h"
#include "offload/arena.h"
#include "offload/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define MEMORY_BYTES                                                                               \
    ((size_t)1 << 30) /* of experts that are computed in turn: no cache holds it                   \
                       */
#define SLOTS_MIN  12
#define TASKS_MAX  6 /* experts of a call: as many as a token has */
#define TOKENS_MAX 64
#define SHARES     64 /* pieces that a read of an expert is cut into */

struct experts {
    int32_t count, next;
    uint8_t *slots; /* [count, slot_bytes] */
    float *x;       /* [TOKENS_MAX, hidden] */
    float *out;     /* [TASKS_MAX * TOKENS_MAX, hidden] */
    float *scratch; /* [TOKENS_MAX, 3 * width] */
    int32_t token_rows[TOKENS_MAX], output_rows[TASKS_MAX][TOKENS_MAX];
    float weights[TOKENS_MAX];
};

static const struct clock steady = {0};

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- experts ------------------------------------------------------------------------------ */

/* One random expert with scales near 1, copied into every slot. */
static void fill(const struct host_bench *bench, struct experts *experts)
{
    const struct expert_layout *layout = &bench->layout;
    uint64_t random = bench->seed;
    for (size_t at = 0; at < layout->slot_bytes; at += 8) {
        uint64_t word = next_random(&random);
        memcpy(experts->slots + at, &word, 8);
    }
    for (int part = EXPERT_S1; part < EXPERT_PARTS; part += 2)
        for (size_t i = 0; i < layout->part_bytes[part]; i++) {
            uint8_t *scale = experts->slots + layout->offset_bytes[part] + i;
            *scale = (uint8_t)(118 + *scale % 4);
        }
    for (int32_t i = 1; i < experts->count; i++)
        memcpy(experts->slots + (size_t)i * layout->slot_bytes, experts->slots, layout->slot_bytes);
    for (int32_t i = 0; i < TOKENS_MAX * layout->hidden; i++)
        experts->x[i] = (float)(i * 37 % 64 - 32) / 16.0f;
    for (int32_t t = 0; t < TOKENS_MAX; t++) {
        experts->token_rows[t] = t;
        experts->weights[t] = 0.5f;
        for (int32_t e = 0; e < TASKS_MAX; e++)
            experts->output_rows[e][t] = e * TOKENS_MAX + t;
    }
}

static void experts_deinit(const struct host_bench *bench, struct experts *experts)
{
    if (experts->slots)
        arena_unmap(experts->slots, (size_t)experts->count * bench->layout.slot_bytes);
    free(experts->x);
    free(experts->out);
    free(experts->scratch);
}

static enum sl_status experts_init(const struct host_bench *bench, struct experts *experts,
                                   struct sl_error *error)
{
    const struct expert_layout *layout = &bench->layout;
    size_t hidden = (size_t)layout->hidden, width = (size_t)layout->width;
    memset(experts, 0, sizeof *experts);
    experts->count = (int32_t)(MEMORY_BYTES / layout->slot_bytes);
    if (experts->count < SLOTS_MIN) experts->count = SLOTS_MIN;
    experts->slots = arena_map((size_t)experts->count * layout->slot_bytes);
    experts->x = malloc(sizeof(float) * TOKENS_MAX * hidden);
    experts->out = malloc(sizeof(float) * TASKS_MAX * TOKENS_MAX * hidden);
    experts->scratch = malloc(sizeof(float) * TOKENS_MAX * 3 * width);
    if (!experts->slots || !experts->x || !experts->out || !experts->scratch) {
        experts_deinit(bench, experts);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                            "no memory for %zu bytes of experts to measure with",
                            (size_t)experts->count * layout->slot_bytes);
    }
    fill(bench, experts);
    return SL_OK;
}

static const uint8_t *next_slot(const struct host_bench *bench, struct experts *experts)
{
    experts->next = (experts->next + 1) % experts->count;
    return experts->slots + (size_t)experts->next * bench->layout.slot_bytes;
}

/* ns of one call with `count` experts of `tokens` tokens each, the mean over the time allowed. */
static double call_ns(const struct host_bench *bench, struct experts *experts, int32_t count,
                      int32_t tokens)
{
    uint64_t start_ns = clock_now_ns(&steady), now_ns = start_ns;
    int64_t calls = 0;
    SL_ASSERT(count <= TASKS_MAX && tokens <= TOKENS_MAX);
    do {
        struct expert_task tasks[TASKS_MAX];
        for (int32_t e = 0; e < count; e++)
            tasks[e] = (struct expert_task){.slot = next_slot(bench, experts),
                                            .token_rows = experts->token_rows,
                                            .output_rows = experts->output_rows[e],
                                            .weights = experts->weights,
                                            .count = tokens};
        struct expert_ffn_args args = {.x = experts->x,
                                       .out = experts->out,
                                       .tasks = tasks,
                                       .layout = &bench->layout,
                                       .scratch = experts->scratch,
                                       .task_count = count,
                                       .scratch_rows = TOKENS_MAX,
                                       .limit = 10.0f,
                                       .round = true};
        bench->ops->expert_ffn(bench->stream, &args);
        calls++;
        now_ns = clock_now_ns(&steady);
    } while ((double)(now_ns - start_ns) < bench->seconds * 1e9);
    return (double)(now_ns - start_ns) / (double)calls;
}

struct read_job {
    const uint8_t *slot;
    size_t share_bytes;
    uint64_t *sums; /* [SHARES], so that the reads cannot be left out */
};

static void read_share(const void *context, int32_t idx)
{
    const struct read_job *job = context;
    const uint64_t *words =
        (const uint64_t *)(const void *)(job->slot + (size_t)idx * job->share_bytes);
    uint64_t sums[8] = {0};
    for (size_t i = 0; i + 8 <= job->share_bytes / 8; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            sums[lane] += words[i + lane];
    for (size_t lane = 0; lane < 8; lane++)
        job->sums[idx] += sums[lane];
}

/* Bytes a second at which all threads read experts. */
static double memory_rate(const struct host_bench *bench, struct experts *experts)
{
    uint64_t sums[SHARES] = {0}, start_ns = clock_now_ns(&steady), now_ns = start_ns, bytes = 0;
    size_t share_bytes = align_down(bench->layout.slot_bytes / SHARES, 64);
    do {
        struct read_job job = {next_slot(bench, experts), share_bytes, sums};
        stream_run(bench->stream, SHARES, read_share, &job);
        bytes += share_bytes * SHARES;
        now_ns = clock_now_ns(&steady);
    } while ((double)(now_ns - start_ns) < bench->seconds * 1e9);
    SL_ASSERT(sums[0] != 0);
    return (double)bytes * 1e9 / (double)(now_ns - start_ns);
}

/* ---- disk --------------------------------------------------------------------------------- */

#define DEPTH_MAX   (1 << (RATES_DISK_DEPTHS - 1))
#define SLOW_FACTOR 10

struct disk {
    const struct host_bench *bench;
    struct io *door;
    uint8_t *memory; /* [DEPTH_MAX, bytes] */
    size_t bytes;    /* of one read: an expert, whole pages */
    uint64_t random;
    struct io_read reads[DEPTH_MAX];
    struct iovec regions[DEPTH_MAX]; /* one a read: one for all could not be registered */

    /* Of a run beside the CPU. */
    atomic_bool stop;
    double rate;
    int failure; /* errno */
};

/* Any place of any file that an expert fits in. */
static void aim(struct disk *disk, struct io_read *read)
{
    const struct host_bench *bench = disk->bench;
    int32_t file;
    do {
        file = (int32_t)(next_random(&disk->random) % (uint64_t)bench->file_count);
    } while (bench->files[file].bytes < disk->bytes);
    uint64_t places = (bench->files[file].bytes - disk->bytes) / SL_PAGE_BYTES + 1;
    read->file = file;
    read->offset_bytes = next_random(&disk->random) % places * SL_PAGE_BYTES;
    read->bytes = disk->bytes;
}

static enum sl_status disk_init(const struct host_bench *bench, struct disk *disk,
                                struct sl_error *error)
{
    bool fits = false;
    memset(disk, 0, sizeof *disk);
    disk->bench = bench;
    disk->random = bench->seed;
    disk->bytes = bench->layout.slot_bytes;
    for (int32_t i = 0; i < bench->file_count; i++)
        fits |= bench->files[i].bytes >= disk->bytes;
    if (!fits)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "%s is smaller than one expert (%zu bytes): name a larger file",
                            bench->files[0].path, disk->bytes);
    disk->memory = arena_map(DEPTH_MAX * disk->bytes);
    if (!disk->memory)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %d reads at once",
                            DEPTH_MAX);
    for (int32_t i = 0; i < DEPTH_MAX; i++)
        disk->regions[i] = (struct iovec){.iov_base = disk->memory + (size_t)i * disk->bytes,
                                          .iov_len = disk->bytes};
    struct io_options options = {.files = bench->files,
                                 .file_count = bench->file_count,
                                 .regions = disk->regions,
                                 .region_count = DEPTH_MAX,
                                 .depth = DEPTH_MAX};
    return io_open(IO_AUTO, &options, &disk->door, error);
}

static void disk_deinit(struct disk *disk)
{
    if (disk->door) disk->door->ops->close(disk->door);
    if (disk->memory) arena_unmap(disk->memory, DEPTH_MAX * disk->bytes);
}

/* Starts one read in the buffer of `read`; false when the door fails. */
static bool start_read(struct disk *disk, struct io_read *read)
{
    aim(disk, read);
    return disk->door->ops->submit(disk->door, &read, 1) == SL_OK;
}

/* Keeps `depth` reads in flight until the time is over and each has come twice (but for no more
 * than SLOW_FACTOR times as long), or `stop` is set; then takes in what is in flight. Bytes a
 * second over all of it, or -1 with disk->failure set. */
static double disk_rate(struct disk *disk, int32_t depth, const atomic_bool *stop)
{
    const struct host_bench *bench = disk->bench;
    struct io_read *done[DEPTH_MAX];
    int32_t flying = 0;
    int64_t count_done = 0;
    uint64_t bytes = 0, now_ns;
    bool over = false;
    disk->failure = 0;
    for (int32_t i = 0; i < bench->file_count; i++)
        if (!bench->files[i].direct) posix_fadvise(bench->files[i].fd, 0, 0, POSIX_FADV_DONTNEED);
    uint64_t start_ns = clock_now_ns(&steady), end_ns = start_ns;
    for (int32_t i = 0; i < depth; i++) {
        disk->reads[i] =
            (struct io_read){.buffer = disk->memory + (size_t)i * disk->bytes, .region = i};
        if (start_read(disk, &disk->reads[i])) flying++;
    }
    if (flying == 0) disk->failure = EIO;
    while (flying > 0) {
        int32_t count = disk->door->ops->reap(disk->door, done, DEPTH_MAX, 1);
        if (count < 0) {
            disk->failure = -count;
            break;
        }
        now_ns = clock_now_ns(&steady);
        for (int32_t i = 0; i < count; i++) {
            flying--;
            if (done[i]->result < 0 && done[i]->result != -EINTR && done[i]->result != -EAGAIN)
                disk->failure = (int)-done[i]->result;
            if (done[i]->result > 0) bytes += (uint64_t)done[i]->result;
            end_ns = now_ns;
            count_done++;
            double elapsed = (double)(now_ns - start_ns) / (bench->seconds * 1e9);
            over |= stop ? atomic_load(stop)
                         : elapsed >= SLOW_FACTOR || (elapsed >= 1 && count_done >= 2 * depth);
            if (!over && !disk->failure && start_read(disk, done[i])) flying++;
        }
    }
    if (disk->failure) return -1;
    return (double)bytes * 1e9 / (double)(end_ns - start_ns);
}

static void *read_beside(void *argument)
{
    struct disk *disk = argument;
    disk->rate = disk_rate(disk, HOST_BENCH_DEPTH, &disk->stop);
    return NULL;
}

static enum sl_status disk_failed(const struct disk *disk, struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_IO, disk->failure, "cannot read %s: %s",
                        disk->bench->files[0].path, strerror(disk->failure));
}

/* ---- all of it ---------------------------------------------------------------------------- */

static void measure_cpu(const struct host_bench *bench, struct experts *experts,
                        struct calibration *out)
{
    struct rate *cpu = &out->rates.lanes[RATES_CPU];
    double bytes = (double)bench->layout.slot_bytes;
    out->memory_bytes_per_second = memory_rate(bench, experts);
    for (int32_t i = 0; i < CALIBRATION_COUNTS; i++)
        out->expert_ns[i] = call_ns(bench, experts, TASKS_MAX, calibration_counts[i]) / TASKS_MAX;
    /* A call of one expert against a call of six: what does not grow with the experts is paid once
     * a layer. */
    double one_ns = call_ns(bench, experts, 1, 1), six_ns = TASKS_MAX * out->expert_ns[0];
    double expert_ns = (six_ns - one_ns) / (TASKS_MAX - 1);
    if (expert_ns <= 0) expert_ns = out->expert_ns[0];
    cpu->layer_ns = one_ns > expert_ns ? one_ns - expert_ns : 0;
    cpu->bytes_per_second = bytes * 1e9 / expert_ns;
    cpu->shared_bytes_per_second = cpu->bytes_per_second;
    cpu->token_ns = out->expert_ns[CALIBRATION_COUNTS - 1] / TOKENS_MAX;
}

static enum sl_status measure_disk(struct disk *disk, struct calibration *out,
                                   struct sl_error *error)
{
    struct rate *rate = &out->rates.lanes[RATES_DISK];
    for (int32_t i = 0; i < RATES_DISK_DEPTHS; i++) {
        double found = disk_rate(disk, 1 << i, NULL);
        if (found < 0) return disk_failed(disk, error);
        out->rates.disk_bytes_per_second[i] = found;
        if (found > rate->bytes_per_second) rate->bytes_per_second = found;
    }
    /* What a read alone takes longer than its share of the full rate. */
    double alone_ns = (double)disk->bytes * 1e9 / out->rates.disk_bytes_per_second[0];
    double share_ns = (double)disk->bytes * 1e9 / rate->bytes_per_second;
    rate->fixed_ns = alone_ns > share_ns ? alone_ns - share_ns : 0;
    rate->shared_bytes_per_second = rate->bytes_per_second;
    return SL_OK;
}

/* The CPU computes while the disk reads into memory: both rates, and what is left of each. */
static enum sl_status measure_together(const struct host_bench *bench, struct experts *experts,
                                       struct disk *disk, struct calibration *out,
                                       struct sl_error *error)
{
    struct rate *cpu = &out->rates.lanes[RATES_CPU], *read = &out->rates.lanes[RATES_DISK];
    pthread_t thread;
    atomic_store(&disk->stop, false);
    if (pthread_create(&thread, NULL, read_beside, disk) != 0)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "cannot start a thread to read with");
    double shared_ns = call_ns(bench, experts, TASKS_MAX, 1) / TASKS_MAX;
    atomic_store(&disk->stop, true);
    pthread_join(thread, NULL);
    if (disk->rate < 0) return disk_failed(disk, error);
    cpu->shared_bytes_per_second = cpu->bytes_per_second * out->expert_ns[0] / shared_ns;
    read->shared_bytes_per_second = disk->rate;
    return SL_OK;
}

enum sl_status host_bench_run(const struct host_bench *bench, struct calibration *out,
                              struct sl_error *error)
{
    struct experts experts;
    struct disk *disk = NULL;
    SL_TRY(experts_init(bench, &experts, error));
    out->rates = (struct rates_profile){.expert_bytes = bench->layout.slot_bytes};
    enum sl_status status = SL_OK;
    measure_cpu(bench, &experts, out);
    if (bench->file_count > 0) {
        disk = malloc(sizeof *disk);
        if (!disk)
            status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to read with");
        else
            status = disk_init(bench, disk, error);
        if (status == SL_OK) status = measure_disk(disk, out, error);
        if (status == SL_OK) status = measure_together(bench, &experts, disk, out, error);
        if (disk) disk_deinit(disk);
        free(disk);
    }
    experts_deinit(bench, &experts);
    return status;
}
