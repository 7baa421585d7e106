/* sl_bench_host: opens what is to be measured, measures, keeps and describes the figures. */
#include "runtime/sl.h"

#include "kernels/gpu.h"
#include "runtime/compute.h"
#include "runtime/host_bench.h"
#include "runtime/host_link.h"
#include "runtime/json_report.h"
#include "runtime/pack.h"
#include "runtime/text_buffer.h"

#include <string.h>
#include <time.h>

#define SECONDS_DEFAULT 0.5
#define MEMORY_BYTES    ((size_t)1 << 30)
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
    struct gpu *gpu;                          /* NULL: none */
    struct device *device;                    /* simulated; NULL: none */
    char device_name[CALIBRATION_TEXT_BYTES]; /* "": none */
    char device_absent[192];                  /* why there is no GPU; or "" */
    const char *path;                         /* of what the disk is measured on; NULL: nothing */
    char note[HOST_BENCH_TEXT_BYTES];
};

static enum sl_status open_files(struct subject *subject, const struct sl_host_options *options,
                                 struct sl_error *error)
{
    subject->bench.layout = expert_layout_make(FLASH_HIDDEN, FLASH_WIDTH);
    if (options->model_dir) {
        struct model_open_options open = {.directory = options->model_dir,
                                          .want_direct = !options->buffered_io};
        struct sl_engine_options engine = {.model_dir = options->model_dir,
                                           .experts_file = options->experts_file,
                                           .buffered_io = options->buffered_io};
        SL_TRY(model_open(&open, &subject->model, error));
        SL_TRY(
            pack_open_source(subject->model, &engine, &subject->packed, &subject->source, error));
        subject->bench.layout = subject->model->expert_layout;
        subject->bench.files = subject->source.files;
        subject->bench.file_count = subject->source.file_count;
    }
    if (options->file) {
        SL_TRY(io_file_open(options->file, !options->buffered_io, &subject->file, error));
        subject->bench.files = &subject->file;
        subject->bench.file_count = 1;
    }
    if (subject->bench.file_count > 0) subject->path = subject->bench.files[0].path;
    return SL_OK;
}

/* The GPU that the options ask for, or the simulated device. */
static enum sl_status open_device(struct subject *subject, const struct sl_host_options *options,
                                  struct sl_error *error)
{
    struct host_bench *bench = &subject->bench;
    struct sl_error reason;
    if (options->sim_device_bytes) {
        compute_simulated_link(options->sim_link_bytes_per_second, subject->device_name);
        SL_TRY(compute_simulate_device(options->sim_device_bytes,
                                       options->sim_link_bytes_per_second, &subject->device,
                                       error));
        bench->device = subject->device;
        return SL_OK;
    }
    if (options->device == SL_DEVICE_CPU) return SL_OK;
    enum sl_status status = gpu_open(&subject->gpu, &reason);
    if (status == SL_OK) {
        snprintf(subject->device_name, sizeof subject->device_name, "%s", subject->gpu->name);
        bench->device = subject->gpu->device;
        bench->pci = subject->gpu->pci;
        return SL_OK;
    }
    subject->gpu = NULL;
    snprintf(subject->device_absent, sizeof subject->device_absent, "%.191s", reason.message);
    if (options->device != SL_DEVICE_GPU) return SL_OK;
    return sl_error_set(error, status, 0, "no GPU can be measured: %s", reason.message);
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
    if (subject->device) subject->device->ops->destroy(subject->device);
    if (subject->gpu) subject->gpu->gpu_ops->destroy(subject->gpu);
    if (subject->file.fd >= 0) io_file_close(&subject->file);
    model_file_close(subject->packed);
    model_close(subject->model);
}

/* ---- reports ------------------------------------------------------------------------------ */

/* A line of numbers under a line of how many were in flight. */
static void say_depths(struct text_buffer *text, const char *label, const double *rates, int count)
{
    text_buffer_say(text, "           %-9s", label);
    for (int i = 0; i < count; i++)
        text_buffer_say(text, "%8.2f", rates[i] / 1e9);
    text_buffer_say(text, "\n");
}

static void say_in_flight(struct text_buffer *text, int count)
{
    text_buffer_say(text, "           in flight");
    for (int i = 0; i < count; i++)
        text_buffer_say(text, "%8d", 1 << i);
    text_buffer_say(text, "\n");
}

static void say_disk(struct text_buffer *text, const struct calibration *c, const char *path)
{
    if (!path) {
        text_buffer_say(text,
                        "disk       not measured: name a model with -m or a file with --file\n");
        return;
    }
    text_buffer_say(text, "disk       %.200s on %s\n", path, c->machine.disk);
    say_in_flight(text, RATES_DISK_DEPTHS);
    say_depths(text, "GB/s", c->rates.disk_bytes_per_second, RATES_DISK_DEPTHS);
}

static void say_device(struct text_buffer *text, const struct calibration *c,
                       const struct subject *subject)
{
    if (!*subject->device_name) {
        text_buffer_say(text, "device     none%s%s\n", *subject->device_absent ? ": " : "",
                        subject->device_absent);
        text_buffer_say(text,
                        "           if one is used, its lanes are assumed: %.0f GB/s each way, "
                        "%.0f GB/s computing\n",
                        RATES_LINK_BYTES_PER_SECOND / 1e9, RATES_DEVICE_BYTES_PER_SECOND / 1e9);
        return;
    }
    text_buffer_say(text, "device     %s; experts computed on it: assumed, %.0f GB/s\n",
                    subject->device_name, RATES_DEVICE_BYTES_PER_SECOND / 1e9);
    say_in_flight(text, CALIBRATION_LINK_DEPTHS);
    say_depths(text, "up   GB/s", c->up_bytes_per_second, CALIBRATION_LINK_DEPTHS);
    say_depths(text, "down GB/s", c->down_bytes_per_second, CALIBRATION_LINK_DEPTHS);
    if (*subject->note) text_buffer_say(text, "           %s\n", subject->note);
    if (c->near.up > 0)
        text_buffer_say(text,
                        "nodes      CPU and link at once, GB/s: %.2f + %.2f in turn, %.2f + %.2f "
                        "near the device; experts will lie %s\n",
                        c->in_turn.cpu / 1e9, c->in_turn.up / 1e9, c->near.cpu / 1e9,
                        c->near.up / 1e9, c->spread == TOPOLOGY_NEAR ? "near it" : "in turn");
}

/* What each lane keeps while others run. */
static void say_together(struct text_buffer *text, const struct calibration *c)
{
    static const struct {
        enum rates_lane lane;
        const char *name;
    } columns[] = {
        {RATES_UP, "up"}, {RATES_DOWN, "down"}, {RATES_CPU, "CPU"}, {RATES_DISK, "disk"}};
    bool any = false;
    for (int set = 0; set < CALIBRATION_SETS; set++) {
        const double *rates = c->together[set];
        bool first = true;
        for (size_t i = 0; i < SL_COUNT_OF(columns); i++) {
            if (rates[columns[i].lane] <= 0) continue;
            if (first) text_buffer_say(text, "%-11s", any ? "" : "together");
            text_buffer_say(text, "%s%s %.2f", first ? "" : ", ", columns[i].name,
                            rates[columns[i].lane] / 1e9);
            first = false;
        }
        if (!first) text_buffer_say(text, " GB/s\n");
        any = any || !first;
    }
}

static enum sl_status report_text(const struct calibration *c, const struct subject *subject,
                                  const char *profile, char **out, struct sl_error *error)
{
    struct text_buffer text = {0};
    const struct calibration_machine *m = &c->machine;
    double bytes = (double)c->rates.expert_bytes, rates[CALIBRATION_COUNTS];
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
    text_buffer_say(&text, "\n");
    for (int i = 0; i < CALIBRATION_COUNTS; i++)
        rates[i] = bytes * 1e9 / c->expert_ns[i];
    say_depths(&text, "GB/s", rates, CALIBRATION_COUNTS);
    text_buffer_say(&text, "           %.0f%% of reading memory at one token\n",
                    100 * rates[0] / c->memory_bytes_per_second);
    say_disk(&text, c, subject->path);
    say_device(&text, c, subject);
    say_together(&text, c);
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

static json_t *together_json(const struct calibration *c)
{
    json_t *sets = json_object();
    for (int i = 0; i < CALIBRATION_SETS; i++) {
        const double *rates = c->together[i];
        if (rates[RATES_UP] + rates[RATES_DOWN] + rates[RATES_CPU] + rates[RATES_DISK] <= 0)
            continue;
        json_object_set_new(sets, calibration_sets[i].name,
                            json_pack("{s:f, s:f, s:f, s:f}", "up", rates[RATES_UP], "down",
                                      rates[RATES_DOWN], "cpu", rates[RATES_CPU], "disk",
                                      rates[RATES_DISK]));
    }
    return sets;
}

static json_t *nodes_json(const struct calibration *c)
{
    return json_pack("{s:s, s:f, s:f, s:f, s:f}", "chosen",
                     c->spread == TOPOLOGY_NEAR ? "near" : "in turn", "in_turn_cpu", c->in_turn.cpu,
                     "in_turn_up", c->in_turn.up, "near_cpu", c->near.cpu, "near_up", c->near.up);
}

static enum sl_status report_json(const struct calibration *c, const struct subject *subject,
                                  const char *profile, char **out, struct sl_error *error)
{
    const struct calibration_machine *m = &c->machine;
    const struct rate *lanes = c->rates.lanes;
    json_t *report =
        json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:f, s:I, s:o, s:s*, s:s}", "cpu",
                  m->cpu, "kernels", m->kernels, "disk", m->disk, "device", m->device, "cores",
                  (int)m->cores, "nodes", (int)m->nodes, "threads", (int)m->threads, "memory_bytes",
                  (json_int_t)m->memory_bytes, "memory_bytes_per_s", c->memory_bytes_per_second,
                  "expert_bytes", (json_int_t)c->rates.expert_bytes, "expert_ns",
                  json_report_numbers(c->expert_ns, CALIBRATION_COUNTS), "file", subject->path,
                  "profile", profile);
    json_t *rest = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:s}", "cpu_lane",
        lane_json(&lanes[RATES_CPU]), "disk_lane", lane_json(&lanes[RATES_DISK]), "up_lane",
        lane_json(&lanes[RATES_UP]), "down_lane", lane_json(&lanes[RATES_DOWN]), "disk_bytes_per_s",
        json_report_numbers(c->rates.disk_bytes_per_second, RATES_DISK_DEPTHS), "up_bytes_per_s",
        json_report_numbers(c->up_bytes_per_second, CALIBRATION_LINK_DEPTHS), "down_bytes_per_s",
        json_report_numbers(c->down_bytes_per_second, CALIBRATION_LINK_DEPTHS), "together",
        together_json(c), "memory_nodes", nodes_json(c), "link_assumed",
        (int)(*subject->device_name == 0), "note",
        *subject->device_name ? subject->note : subject->device_absent);
    if (json_object_update(report, rest) != 0) {
        json_decref(report);
        report = NULL;
    }
    json_decref(rest);
    return json_report_write(report, "this machine", out, error);
}

/* ---- all of it ---------------------------------------------------------------------------- */

/* Measures what is open and keeps the figures in `profile`, unless that is "". */
static enum sl_status measure(struct subject *subject, const struct sl_host_options *options,
                              const char *profile, struct calibration *out, struct sl_error *error)
{
    subject->bench.seconds = options->seconds > 0 ? options->seconds : SECONDS_DEFAULT;
    subject->bench.memory_bytes = MEMORY_BYTES;
    subject->bench.seed = 1;
    subject->bench.io = compute_io(options->io);
    memset(out, 0, sizeof *out);
    calibration_machine_here(subject->path, *subject->device_name ? subject->device_name : NULL,
                             cpu_isa_name(subject->compute.isa), subject->compute.threads,
                             &out->machine);
    out->measured_s = (int64_t)time(NULL);
    SL_TRY(host_bench_run(&subject->bench, out, subject->note, error));
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
    if (status == SL_OK) status = open_device(&subject, options, error);
    if (status == SL_OK) status = open_stream(&subject, options, error);
    if (status == SL_OK) status = measure(&subject, options, profile, &found, error);
    if (status == SL_OK)
        status = json ? report_json(&found, &subject, profile, report, error)
                      : report_text(&found, &subject, profile, report, error);
    close_subject(&subject);
    return status;
}
