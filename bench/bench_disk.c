/* Random whole-expert reads through the expert store over the real door, in alternating rounds so
 * that noise hits both sides: beside fio on the same file with the same block size and depth, or,
 * with the experts spread over several files, beside the same store on one. */
#include "bench/bench.h"
#include "offload/expert_fetch.h"
#include "offload/expert_store.h"
#include "runtime/file_list.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Parts of an unpacked expert end this far apart in the file. */
#define PART_GAP_BYTES 1001u

struct disk_bench {
    const struct bench_options *options;
    struct io_file files[MODEL_FILE_FILES_MAX];
    int32_t file_count; /* expert i lies in file i mod file_count */
    int32_t depth;      /* reads under way: --depth for each disk */
    struct expert_source source;
    struct expert_segment *segments;
    struct expert_store *store;
    struct expert_view views[EXPERT_DEPTH_MAX];
    uint64_t random;
};

/* xorshift64: cheap and good enough to choose experts. */
static int32_t random_below(uint64_t *state, int32_t bound)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (int32_t)(*state % (uint64_t)bound);
}

static bool fail(const char *reason)
{
    fprintf(stderr, "sluice-bench: %s\n", reason);
    return false;
}

/* Cuts the files into experts: whole pages, or six parts that start anywhere. */
static bool make_source(struct disk_bench *bench)
{
    const struct bench_options *options = bench->options;
    int32_t parts = options->unpacked ? EXPERT_SEGMENTS_MAX : 1;
    uint64_t part_bytes = options->bytes / (uint64_t)parts;
    uint64_t stride = options->bytes + (options->unpacked ? (uint64_t)parts * PART_GAP_BYTES : 0);
    uint64_t file_bytes = UINT64_MAX, files = (uint64_t)bench->file_count;
    for (int32_t i = 0; i < bench->file_count; i++)
        if (bench->files[i].bytes < file_bytes) file_bytes = bench->files[i].bytes;
    uint64_t experts = file_bytes / stride * files;
    if (options->bytes % SL_PAGE_BYTES != 0) return fail("--bytes is not a multiple of 4096");
    if (experts < 4 * (uint64_t)options->depth || experts > INT32_MAX / EXPERT_SEGMENTS_MAX)
        return fail("the files must hold at least four times --depth experts");
    bench->segments = calloc((size_t)(experts * (uint64_t)parts), sizeof *bench->segments);
    if (!bench->segments) return fail("out of memory");
    for (uint64_t i = 0; i < experts * (uint64_t)parts; i++) {
        uint64_t expert = i / (uint64_t)parts, part = i % (uint64_t)parts;
        bench->segments[i] = (struct expert_segment){
            .file = (int32_t)(expert % files),
            .offset_bytes = expert / files * stride + part * (part_bytes + PART_GAP_BYTES),
            .bytes = part_bytes,
            .slot_offset_bytes = part * part_bytes,
        };
    }
    bench->source = (struct expert_source){
        .layers = 1,
        .experts = (int32_t)experts,
        .slot_bytes = options->bytes,
        .files = bench->files,
        .file_count = bench->file_count,
        .segments = bench->segments,
        .segments_per_expert = parts,
    };
    return true;
}

static bool open_bench(struct disk_bench *bench, const struct bench_options *options,
                       const char *const *names, int32_t count)
{
    struct sl_error error;
    *bench = (struct disk_bench){.options = options, .random = options->seed * 2654435761u + 1};
    for (; bench->file_count < count; bench->file_count++)
        if (io_file_open(names[bench->file_count], true, &bench->files[bench->file_count],
                         &error) != SL_OK)
            return fail(error.message);
    if (!make_source(bench)) return false;
    bench->depth = min_i32(options->depth * expert_fetcher_disks(&bench->source), EXPERT_DEPTH_MAX);
    struct expert_store_options store = {
        .source = &bench->source,
        /* Two slots a read in flight, and as much again for staging. */
        .ram_bytes = 4 * (uint64_t)bench->depth * (options->bytes + (1 << 20)),
        .slots_min = bench->depth,
        .depth = options->depth,
    };
    if (expert_store_create(&store, &bench->store, &error) != SL_OK) return fail(error.message);
    fprintf(stderr, "%s\n", expert_store_describe_io(bench->store));
    /* With every expert in memory there would be none left to read. */
    struct expert_store_stats stats;
    expert_store_stats_get(bench->store, &stats);
    if (stats.slots >= bench->source.experts)
        return fail("the experts fit in the slots: name larger files, or lower --depth");
    return true;
}

static void close_bench(struct disk_bench *bench)
{
    expert_store_destroy(bench->store);
    free(bench->segments);
    for (int32_t i = 0; i < bench->file_count; i++)
        io_file_close(&bench->files[i]);
}

/* Starts the read of an expert that is neither here nor on its way. */
static bool start_one(struct disk_bench *bench, struct expert_view *view)
{
    struct expert_store_stats before, after;
    for (;;) {
        struct expert_ref ref = {.expert = random_below(&bench->random, bench->source.experts)};
        if (expert_store_is_resident(bench->store, ref)) continue;
        expert_store_stats_get(bench->store, &before);
        if (expert_store_acquire(bench->store, &ref, NULL, 1, view) != SL_OK) return false;
        expert_store_stats_get(bench->store, &after);
        if (after.slots_pinned > before.slots_pinned) return true;
        expert_store_release(bench->store, view, 1);
    }
}

/* Keeps `depth` reads in flight for the given time. Returns GB/s of expert bytes, or -1. */
static double measure(struct disk_bench *bench)
{
    int32_t depth = bench->depth;
    uint64_t done = 0, start_ns, end_ns;
    bool alive = true;
    for (int32_t i = 0; i < bench->file_count; i++)
        if (!bench->files[i].direct) posix_fadvise(bench->files[i].fd, 0, 0, POSIX_FADV_DONTNEED);
    memset(bench->views, 0, sizeof bench->views);
    start_ns = bench_now_ns();
    for (int32_t i = 0; i < depth; i++)
        if (!start_one(bench, &bench->views[i])) return -1;
    do {
        expert_store_wait(bench->store, bench->views, depth);
        end_ns = bench_now_ns();
        for (int32_t i = 0; i < depth && alive; i++) {
            struct expert_view *view = &bench->views[i];
            if (view->state == EXPERT_VIEW_PENDING) continue;
            done += view->state == EXPERT_VIEW_READY;
            alive = view->state == EXPERT_VIEW_READY;
            expert_store_release(bench->store, view, 1);
            if (alive) alive = start_one(bench, view);
        }
    } while (alive && (double)(end_ns - start_ns) < bench->options->seconds * 1e9);
    expert_store_release(bench->store, bench->views, depth);
    if (!alive) fail(expert_store_last_failure(bench->store));
    return alive ? (double)(done * bench->options->bytes) / (double)(end_ns - start_ns) : -1;
}

/* Rounds of one store beside fio, or beside `other` where that is given. */
static bool measure_rounds(struct disk_bench *bench, struct disk_bench *other)
{
    const struct bench_options *options = bench->options;
    double rates[BENCH_SAMPLES_MAX], others[BENCH_SAMPLES_MAX], ratios[BENCH_SAMPLES_MAX];
    char name[96], files[24] = "";
    for (int32_t round = 0; round < options->rounds; round++) {
        /* Whoever goes first changes from round to round. */
        for (int32_t turn = 0; turn < 2; turn++) {
            if (turn == round % 2)
                rates[round] = measure(bench);
            else
                others[round] = other ? measure(other) : bench_fio_rate(options);
        }
        if (rates[round] < 0 || others[round] < 0) return false;
        ratios[round] = others[round] > 0 ? rates[round] / others[round] : 0;
    }
    if (bench->file_count > 1) snprintf(files, sizeof files, "%d files, ", (int)bench->file_count);
    snprintf(name, sizeof name, "%s, %s%llu bytes, depth %d",
             options->unpacked ? "unpacked" : "packed", files, (unsigned long long)options->bytes,
             (int)options->depth);
    bench_print(options, &(struct bench_line){
                             .bench = "disk",
                             .name = name,
                             .unit = "GB/s",
                             .samples = rates,
                             .count = options->rounds,
                             .ceiling = bench_percentile(others, options->rounds, 50),
                             .ratio = bench_percentile(ratios, options->rounds, 50),
                         });
    return true;
}

int bench_disk(const struct bench_options *options)
{
    struct disk_bench one = {0}, several = {0};
    struct file_list list = {0};
    struct sl_error error;
    bool done = false;
    if (!options->file) {
        fail("--file names the file to read");
        return 1;
    }
    if (!open_bench(&one, options, &options->file, 1)) goto out;
    if (!options->parts) {
        done = measure_rounds(&one, NULL);
    } else if (file_list_init(&list, options->parts, &error) != SL_OK) {
        fail(error.message);
    } else if (open_bench(&several, options, list.names, list.count)) {
        done = measure_rounds(&several, &one);
    }
out:
    close_bench(&several);
    close_bench(&one);
    file_list_deinit(&list);
    return done ? 0 : 1;
}
