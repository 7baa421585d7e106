/* sl_bench_host: opens what is to be measured, measures, keeps and describes the figures. */
#include "runtime/sl.h"

#include "runtime/compute.h"
#include "runtime/host_bench.h"
#include "runtime/json_report.h"
#include "runtime/pack.h"
#include "runtime/text_buffer.h"

#include <string.h>
#include <time.h>

#define SECONDS_DEFAULT 0.5
#define FLASH_HIDDEN    4096
#define FLASH_WIDTH     2048

/* What is open while it is measured. */
struct subject {
    struct model *model; /* NULL: no checkpoint was named */
    struct model_file *packed;
    struct expert_source source;
    struct io_file file; /* named by --file; fd -1: none */
    struct host_bench bench;
    struct compute compute;
    const char *path; /* of what the disk is measured on; NULL: nothing */
};

static enum sl_status open_files(struct subject *subject, const struct sl_host_options *options,
                                 struct sl_error *error)
{
    subject->bench.layout = expert_layout_make(FLASH_HIDDEN, FLASH_WIDTH);
    if (options->model_dir) {
        struct model_open_options open = {.directory = options->model_dir, .want_direct = true};
        struct sl_engine_options engine = {.model_dir = options->model_dir};
        SL_TRY(model_open(&open, &subject->model, error));
        SL_TRY(
            pack_open_source(subject->model, &engine, &subject->packed, &subject->source, error));
        subject->bench.layout = subject->model->expert_layout;
        subject->bench.files = subject->source.files;
        subject->bench.file_count = subject->source.file_count;
    }
    if (options->file) {
        SL_TRY(io_file_open(options->file, true, &subject->file, error));
        subject->bench.files = &subject->file;
        subject->bench.file_count = 1;
    }
    if (subject->bench.file_count > 0) subject->path = subject->bench.files[0].path;
    return SL_OK;
}

static enum sl_status open_stream(struct subject *subject, const struct sl_host_options *options,
                                  struct sl_error *error)
{
    SL_TRY(compute_choose(options->cpu_isa, options->threads, &subject->compute, error));
    subject->bench.ops = ops_cpu_isa(subject->compute.isa);
    return compute_open_stream(&subject->compute, subject->bench.ops, &subject->bench.stream,
                               error);
}

static void close_subject(struct subject *subject)
{
    if (subject->bench.stream) subject->bench.ops->stream_destroy(subject->bench.stream);
    if (subject->file.fd >= 0) io_file_close(&subject->file);
    model_file_close(subject->packed);
    model_close(subject->model);
}

/* ---- reports ------------------------------------------------------------------------------ */

static void say_disk(struct text_buffer *text, const struct calibration *c, const char *path)
{
    const struct rate *disk = &c->rates.lanes[RATES_DISK], *cpu = &c->rates.lanes[RATES_CPU];
    if (!path) {
        text_buffer_say(text,
                        "disk       not measured: name a model with -m or a file with --file\n");
        return;
    }
    text_buffer_say(text, "disk       %.200s on %s\n           in flight", path, c->machine.disk);
    for (int i = 0; i < RATES_DISK_DEPTHS; i++)
        text_buffer_say(text, "%8d", 1 << i);
    text_buffer_say(text, "\n           GB/s     ");
    for (int i = 0; i < RATES_DISK_DEPTHS; i++)
        text_buffer_say(text, "%8.2f", c->rates.disk_bytes_per_second[i] / 1e9);
    text_buffer_say(
        text, "\ntogether   CPU %.2f GB/s (%.0f%% of alone), disk %.2f GB/s with %d in flight\n",
        cpu->shared_bytes_per_second / 1e9,
        100 * cpu->shared_bytes_per_second / cpu->bytes_per_second,
        disk->shared_bytes_per_second / 1e9, HOST_BENCH_DEPTH);
}

static enum sl_status report_text(const struct calibration *c, const char *path,
                                  const char *profile, char **out, struct sl_error *error)
{
    struct text_buffer text = {0};
    const struct calibration_machine *m = &c->machine;
    double bytes = (double)c->rates.expert_bytes;
    size_t length;
    text_buffer_say(&text,
                    "processor  %s\n           %d cores on %d node%s, %d threads, %s kernels\n",
                    m->cpu, m->cores, m->nodes, m->nodes == 1 ? "" : "s", m->threads, m->kernels);
    text_buffer_say(&text, "memory     %.1f GiB, read at %.2f GB/s\n",
                    (double)m->memory_bytes / 1073741824.0, c->memory_bytes_per_second / 1e9);
    text_buffer_say(&text, "expert     %llu bytes; on the CPU, six in a call\n           tokens   ",
                    (unsigned long long)c->rates.expert_bytes);
    for (int i = 0; i < CALIBRATION_COUNTS; i++)
        text_buffer_say(&text, "%8d", calibration_counts[i]);
    text_buffer_say(&text, "\n           ms       ");
    for (int i = 0; i < CALIBRATION_COUNTS; i++)
        text_buffer_say(&text, "%8.3f", c->expert_ns[i] / 1e6);
    text_buffer_say(&text, "\n           GB/s     ");
    for (int i = 0; i < CALIBRATION_COUNTS; i++)
        text_buffer_say(&text, "%8.2f", bytes / c->expert_ns[i]);
    text_buffer_say(&text, "\n           %.0f%% of reading memory at one token\n",
                    100 * bytes * 1e9 / c->expert_ns[0] / c->memory_bytes_per_second);
    say_disk(&text, c, path);
    text_buffer_say(&text, "device     %s\n", m->device);
    if (*profile) text_buffer_say(&text, "kept in    %.400s\n", profile);
    enum sl_status status = text_buffer_take(&text, out, &length, error);
    text_buffer_deinit(&text);
    return status;
}

static json_t *lane_json(const struct rate *rate)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "bytes_per_s", rate->bytes_per_second,
                     "shared_bytes_per_s", rate->shared_bytes_per_second, "fixed_ns",
                     rate->fixed_ns, "token_ns", rate->token_ns, "layer_ns", rate->layer_ns);
}

static enum sl_status report_json(const struct calibration *c, const char *path,
                                  const char *profile, char **out, struct sl_error *error)
{
    const struct calibration_machine *m = &c->machine;
    json_t *report = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:f, s:I, s:o, s:o, s:o, s:o, s:s*, s:s}", "cpu",
        m->cpu, "kernels", m->kernels, "disk", m->disk, "device", m->device, "cores", (int)m->cores,
        "nodes", (int)m->nodes, "threads", (int)m->threads, "memory_bytes",
        (json_int_t)m->memory_bytes, "memory_bytes_per_s", c->memory_bytes_per_second,
        "expert_bytes", (json_int_t)c->rates.expert_bytes, "expert_ns",
        json_report_numbers(c->expert_ns, CALIBRATION_COUNTS), "cpu_lane",
        lane_json(&c->rates.lanes[RATES_CPU]), "disk_lane", lane_json(&c->rates.lanes[RATES_DISK]),
        "disk_bytes_per_s", json_report_numbers(c->rates.disk_bytes_per_second, RATES_DISK_DEPTHS),
        "file", path, "profile", profile);
    return json_report_write(report, "this machine", out, error);
}

/* ---- all of it ---------------------------------------------------------------------------- */

/* Measures what is open and keeps the figures in `profile`, unless that is "". */
static enum sl_status measure(struct subject *subject, const struct sl_host_options *options,
                              const char *profile, struct calibration *out, struct sl_error *error)
{
    subject->bench.seconds = options->seconds > 0 ? options->seconds : SECONDS_DEFAULT;
    subject->bench.seed = 1;
    memset(out, 0, sizeof *out);
    calibration_machine_here(subject->path, cpu_isa_name(subject->compute.isa),
                             subject->compute.threads, &out->machine);
    out->measured_s = (int64_t)time(NULL);
    SL_TRY(host_bench_run(&subject->bench, out, error));
    return *profile ? calibration_save(out, profile, error) : SL_OK;
}

enum sl_status sl_bench_host(const struct sl_host_options *options, bool json, char **report,
                             struct sl_error *error)
{
    struct subject subject = {.file.fd = -1};
    struct calibration found;
    char path[4096];
    const char *profile = options->profile;
    *report = NULL;
    if (!profile) {
        if (!calibration_default_path(path, sizeof path))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "no home folder to keep the figures in: name a file for them");
        profile = path;
    }
    enum sl_status status = open_files(&subject, options, error);
    if (status == SL_OK) status = open_stream(&subject, options, error);
    if (status == SL_OK) status = measure(&subject, options, profile, &found, error);
    if (status == SL_OK)
        status = json ? report_json(&found, subject.path, profile, report, error)
                      : report_text(&found, subject.path, profile, report, error);
    close_subject(&subject);
    return status;
}
