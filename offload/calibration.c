/* The machine's profile as text, and whether it is this machine's; see the header. */
#include "offload/calibration.h"

#include "offload/topology.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <xxhash.h>

const int32_t calibration_counts[CALIBRATION_COUNTS] = {1, 2, 4, 8, 16, 64};

#define UP   (1u << RATES_UP)
#define DOWN (1u << RATES_DOWN)
#define CPU  (1u << RATES_CPU)
#define DISK (1u << RATES_DISK)

const struct calibration_set calibration_sets[CALIBRATION_SETS] = {
    {UP | DOWN, "up+down"},
    {UP | CPU, "up+cpu"},
    {UP | DISK, "up+disk"},
    {DOWN | CPU, "down+cpu"},
    {DOWN | DISK, "down+disk"},
    {CPU | DISK, "cpu+disk"},
    {UP | DOWN | CPU | DISK, "up+down+cpu+disk"},
};

static const char *const spread_names[] = {"in-turn", "near"};
static const char *const lane_names[RATES_LANES] = {"device", "up", "down", "cpu", "disk"};

/* ---- this machine ------------------------------------------------------------------------- */

/* Makes a text fit for a line: printable, no spaces at the ends, "none" when nothing is left. */
static void tidy(char *text)
{
    size_t length = 0, start = 0;
    while (text[start] && isspace((unsigned char)text[start]))
        start++;
    for (size_t i = start; text[i]; i++)
        text[length++] = isprint((unsigned char)text[i]) ? text[i] : ' ';
    while (length > 0 && text[length - 1] == ' ')
        length--;
    text[length] = 0;
    if (length == 0) memcpy(text, "none", 5);
}

/* The first line of a file that starts with `key`, what follows the key; "" when there is none. */
static void read_value(const char *path, const char *key, char *out)
{
    char line[256];
    FILE *file = fopen(path, "re");
    out[0] = 0;
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        const char *value = line + strlen(key);
        value += strspn(value, " \t:");
        snprintf(out, CALIBRATION_TEXT_BYTES, "%s", value);
        break;
    }
    fclose(file);
}

/* The drive below a path: model and size of the block device, else the file system's kind. */
static void name_disk(const char *path, char *out)
{
    struct stat status;
    struct statfs system;
    char place[160], model[CALIBRATION_TEXT_BYTES], size[CALIBRATION_TEXT_BYTES];
    if (!path || stat(path, &status) != 0) {
        memcpy(out, "none", 5);
        return;
    }
    unsigned major_number = major(status.st_dev), minor_number = minor(status.st_dev);
    /* A partition has its drive's folder above its own. */
    for (int up = 0; up < 2; up++) {
        const char *drive = up ? "/.." : "";
        snprintf(place, sizeof place, "/sys/dev/block/%u:%u%s/device/model", major_number,
                 minor_number, drive);
        read_value(place, "", model);
        snprintf(place, sizeof place, "/sys/dev/block/%u:%u%s/size", major_number, minor_number,
                 drive);
        read_value(place, "", size);
        if (model[0]) break;
    }
    tidy(model), tidy(size);
    if (strcmp(size, "none") != 0)
        snprintf(out, CALIBRATION_TEXT_BYTES, "%.56s of %.20s sectors", model, size);
    else if (statfs(path, &system) == 0)
        snprintf(out, CALIBRATION_TEXT_BYTES, "file system %lx, device %u:%u",
                 (unsigned long)system.f_type, major_number, minor_number);
    tidy(out);
}

void calibration_machine_here(const char *path, const char *device, const char *kernels,
                              int32_t threads, struct calibration_machine *out)
{
    struct topology topology;
    char text[CALIBRATION_TEXT_BYTES];
    memset(out, 0, sizeof *out);
    topology_detect(&topology);
    read_value("/proc/cpuinfo", "model name", out->cpu);
    read_value("/proc/meminfo", "MemTotal", text);
    out->memory_bytes = strtoull(text, NULL, 10) * 1024;
    out->cores = topology.core_count;
    out->nodes = topology.node_count;
    out->threads = threads;
    snprintf(out->kernels, sizeof out->kernels, "%s", kernels);
    if (device) snprintf(out->device, sizeof out->device, "%.95s", device);
    name_disk(path, out->disk);
    tidy(out->cpu), tidy(out->kernels), tidy(out->device);
}

/* ---- rates -------------------------------------------------------------------------------- */

/* What `lane` does while exactly the lanes of `set` run; 0: not measured. */
static double together(const struct calibration *c, uint32_t set, enum rates_lane lane)
{
    for (int i = 0; i < CALIBRATION_SETS; i++)
        if (calibration_sets[i].lanes == set) return c->together[i][lane];
    return 0;
}

static void share(struct rate *rate, double shared)
{
    rate->shared_bytes_per_second = shared > 0 ? shared : rate->bytes_per_second;
}

void calibration_rates(const struct calibration *c, bool with_device, struct rates_profile *out)
{
    *out = c->rates;
    struct rate *lanes = out->lanes;
    bool device = with_device && lanes[RATES_UP].bytes_per_second > 0;
    if (!device) lanes[RATES_UP] = lanes[RATES_DOWN] = lanes[RATES_DEVICE] = (struct rate){0};
    share(&lanes[RATES_UP], device ? together(c, UP | CPU, RATES_UP) : 0);
    share(&lanes[RATES_DOWN], device ? together(c, UP | DOWN, RATES_DOWN) : 0);
    share(&lanes[RATES_DISK], together(c, CPU | DISK, RATES_DISK));
    /* The lane's rate has the hand-over of a layer taken out of it; the shared one keeps the
     * relation to what was measured alone. */
    double alone = (double)out->expert_bytes * 1e9 / c->expert_ns[0];
    double shared = together(c, device ? UP | CPU : CPU | DISK, RATES_CPU);
    share(&lanes[RATES_CPU], alone > 0 ? lanes[RATES_CPU].bytes_per_second * shared / alone : 0);
}

/* ---- writing ------------------------------------------------------------------------------ */

struct output {
    char *text;
    size_t bytes;
};

static void add(struct output *out, const char *format, ...) SL_PRINTF(2, 3);

static void add(struct output *out, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = CALIBRATION_FILE_BYTES_MAX - out->bytes;
    int length = vsnprintf(out->text + out->bytes, room, format, arguments);
    va_end(arguments);
    SL_ASSERT(length >= 0 && (size_t)length < room);
    out->bytes += (size_t)length;
}

static void add_numbers(struct output *out, const char *name, const double *values, int count)
{
    add(out, "%s", name);
    for (int i = 0; i < count; i++)
        add(out, " %.17g", values[i]);
    add(out, "\n");
}

size_t calibration_format(const struct calibration *c, char *text)
{
    const struct calibration_machine *m = &c->machine;
    struct output out = {.text = text};
    add(&out, "sluice-machine %d\n", CALIBRATION_VERSION);
    add(&out, "cpu %s\nkernels %s\ndisk %s\ndevice %s\n", m->cpu, m->kernels, m->disk, m->device);
    add(&out, "cores %" PRId32 "\nnodes %" PRId32 "\nthreads %" PRId32 "\n", m->cores, m->nodes,
        m->threads);
    add(&out, "memory %" PRIu64 "\nmeasured %" PRId64 "\nexpert %" PRIu64 "\n", m->memory_bytes,
        c->measured_s, c->rates.expert_bytes);
    add_numbers(&out, "read", &c->memory_bytes_per_second, 1);
    add_numbers(&out, "expert_ns", c->expert_ns, CALIBRATION_COUNTS);
    for (int lane = 0; lane < RATES_LANES; lane++) {
        const struct rate *r = &c->rates.lanes[lane];
        double values[5] = {r->bytes_per_second, r->shared_bytes_per_second, r->fixed_ns,
                            r->token_ns, r->layer_ns};
        add_numbers(&out, lane_names[lane], values, 5);
    }
    add_numbers(&out, "up_depths", c->up_bytes_per_second, CALIBRATION_LINK_DEPTHS);
    add_numbers(&out, "down_depths", c->down_bytes_per_second, CALIBRATION_LINK_DEPTHS);
    for (int i = 0; i < CALIBRATION_SETS; i++)
        add_numbers(&out, calibration_sets[i].name, c->together[i], RATES_LANES);
    double placed[4] = {c->in_turn.cpu, c->in_turn.up, c->near.cpu, c->near.up};
    add(&out, "spread %s\n", spread_names[c->spread]);
    add_numbers(&out, "placed", placed, 4);
    add_numbers(&out, "disk_depths", c->rates.disk_bytes_per_second, RATES_DISK_DEPTHS);
    add(&out, "checksum %016" PRIx64 "\n", (uint64_t)XXH3_64bits(text, out.bytes));
    return out.bytes;
}

/* ---- reading ------------------------------------------------------------------------------ */

/* A cursor over lines; the first failure stays. */
struct input {
    const char *at, *end, *name;
    int line;
    enum sl_status status;
    struct sl_error *error;
};

static void wrong(struct input *in, const char *what)
{
    if (in->status != SL_OK) return;
    in->status = sl_error_set(in->error, SL_ERR_FORMAT, 0,
                              "%s is no machine profile: line %d: %s; measure again with "
                              "'sluice bench host'",
                              in->name, in->line, what);
}

/* The value of the next line, which must start with `key` and a space; "" after a failure. */
static void next_value(struct input *in, const char *key, char *out, size_t room)
{
    size_t length = strlen(key);
    out[0] = 0;
    in->line++;
    if (in->status != SL_OK) return;
    const char *stop = memchr(in->at, '\n', (size_t)(in->end - in->at));
    if (!stop) {
        wrong(in, "it ends early");
        return;
    }
    size_t bytes = (size_t)(stop - in->at);
    if (bytes <= length || memcmp(in->at, key, length) != 0 || in->at[length] != ' ') {
        wrong(in, "another name was expected");
        return;
    }
    bytes -= length + 1;
    if (bytes == 0 || bytes >= room) {
        wrong(in, "a value of impossible length");
        return;
    }
    memcpy(out, in->at + length + 1, bytes);
    out[bytes] = 0;
    in->at = stop + 1;
    for (size_t i = 0; i < bytes; i++)
        if (!isprint((unsigned char)out[i])) wrong(in, "characters that cannot be printed");
}

static void read_text(struct input *in, const char *key, char *out)
{
    next_value(in, key, out, CALIBRATION_TEXT_BYTES);
}

static uint64_t read_count(struct input *in, const char *key, uint64_t low, uint64_t high)
{
    char text[32], *end = text;
    next_value(in, key, text, sizeof text);
    errno = 0;
    unsigned long long value = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    if (end == text || *end || errno || value < low || value > high)
        wrong(in, "a number out of bounds");
    return value;
}

static void read_numbers(struct input *in, const char *key, double *values, int count)
{
    char text[320], *at = text;
    next_value(in, key, text, sizeof text);
    for (int i = 0; i < count; i++) {
        char *end = at;
        if (in->status != SL_OK) return;
        /* Only digits may start a number: no sign, no word, no hexadecimal. */
        if (isdigit((unsigned char)*at) && at[1] != 'x' && at[1] != 'X')
            values[i] = strtod(at, &end);
        bool last = i == count - 1;
        if (end == at || *end != (last ? 0 : ' ') || !isfinite(values[i]) || values[i] > 1e18) {
            wrong(in, "a number out of bounds");
            return;
        }
        at = end + 1;
    }
}

static void read_machine(struct input *in, struct calibration *out)
{
    struct calibration_machine *m = &out->machine;
    read_text(in, "cpu", m->cpu);
    read_text(in, "kernels", m->kernels);
    read_text(in, "disk", m->disk);
    read_text(in, "device", m->device);
    m->cores = (int32_t)read_count(in, "cores", 1, 1 << 20);
    m->nodes = (int32_t)read_count(in, "nodes", 1, 1 << 20);
    m->threads = (int32_t)read_count(in, "threads", 1, 1 << 20);
    m->memory_bytes = read_count(in, "memory", 0, UINT64_MAX / 2);
    out->measured_s = (int64_t)read_count(in, "measured", 0, 1ull << 40);
    out->rates.expert_bytes = read_count(in, "expert", 1, 1ull << 40);
}

static void read_placement(struct input *in, struct calibration *out)
{
    char spread[16];
    double placed[4] = {0};
    next_value(in, "spread", spread, sizeof spread);
    out->spread =
        strcmp(spread, spread_names[TOPOLOGY_NEAR]) == 0 ? TOPOLOGY_NEAR : TOPOLOGY_IN_TURN;
    if (strcmp(spread, spread_names[out->spread]) != 0) wrong(in, "no way to spread memory");
    read_numbers(in, "placed", placed, 4);
    out->in_turn = (struct calibration_placed){placed[0], placed[1]};
    out->near = (struct calibration_placed){placed[2], placed[3]};
}

static void read_rates(struct input *in, struct calibration *out)
{
    read_numbers(in, "read", &out->memory_bytes_per_second, 1);
    read_numbers(in, "expert_ns", out->expert_ns, CALIBRATION_COUNTS);
    for (int lane = 0; lane < RATES_LANES; lane++) {
        double v[5] = {0};
        read_numbers(in, lane_names[lane], v, 5);
        out->rates.lanes[lane] = (struct rate){.bytes_per_second = v[0],
                                               .shared_bytes_per_second = v[1],
                                               .fixed_ns = v[2],
                                               .token_ns = v[3],
                                               .layer_ns = v[4]};
    }
    read_numbers(in, "up_depths", out->up_bytes_per_second, CALIBRATION_LINK_DEPTHS);
    read_numbers(in, "down_depths", out->down_bytes_per_second, CALIBRATION_LINK_DEPTHS);
    for (int i = 0; i < CALIBRATION_SETS; i++)
        read_numbers(in, calibration_sets[i].name, out->together[i], RATES_LANES);
    read_placement(in, out);
    read_numbers(in, "disk_depths", out->rates.disk_bytes_per_second, RATES_DISK_DEPTHS);
}

static void read_checksum(struct input *in, const char *text)
{
    char found[32], expected[32];
    size_t covered = (size_t)(in->at - text);
    next_value(in, "checksum", found, sizeof found);
    if (in->status != SL_OK) return;
    snprintf(expected, sizeof expected, "%016" PRIx64, (uint64_t)XXH3_64bits(text, covered));
    if (strcmp(found, expected) != 0)
        in->status = sl_error_set(in->error, SL_ERR_CHECKSUM, 0,
                                  "%s was changed or damaged: its checksum differs; measure again "
                                  "with 'sluice bench host'",
                                  in->name);
    else if (in->at != in->end)
        wrong(in, "more follows after the checksum");
}

enum sl_status calibration_parse(const char *text, size_t bytes, const char *name,
                                 struct calibration *out, struct sl_error *error)
{
    struct input in = {.at = text, .end = text + bytes, .name = name, .error = error};
    char version[16];
    memset(out, 0, sizeof *out);
    next_value(&in, "sluice-machine", version, sizeof version);
    char known[16];
    snprintf(known, sizeof known, "%d", CALIBRATION_VERSION);
    if (in.status == SL_OK && strcmp(version, known) != 0)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s: a machine profile of version %s, this program writes %s; measure "
                            "again with 'sluice bench host'",
                            name, version, known);
    read_machine(&in, out);
    read_rates(&in, out);
    read_checksum(&in, text);
    return in.status;
}

/* ---- whose is it? ------------------------------------------------------------------------- */

static enum sl_status foreign(const char *name, const char *what, const char *then, const char *now,
                              struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                        "%s is of another %s (%.96s, here %.96s); measure this machine with "
                        "'sluice bench host'",
                        name, what, then, now);
}

enum sl_status calibration_check(const struct calibration *c,
                                 const struct calibration_machine *here, uint64_t expert_bytes,
                                 int64_t now_s, const char *name, struct sl_error *error)
{
    const struct calibration_machine *m = &c->machine;
    char then[48], now[48];
    if (strcmp(m->cpu, here->cpu) != 0) return foreign(name, "processor", m->cpu, here->cpu, error);
    if (strcmp(m->disk, here->disk) != 0) return foreign(name, "disk", m->disk, here->disk, error);
    bool both = strcmp(m->device, "none") != 0 && strcmp(here->device, "none") != 0;
    if (both && strcmp(m->device, here->device) != 0)
        return foreign(name, "device", m->device, here->device, error);
    if (strcmp(m->kernels, here->kernels) != 0)
        return foreign(name, "instruction set", m->kernels, here->kernels, error);
    snprintf(then, sizeof then, "%d on %d nodes", m->cores, m->nodes);
    snprintf(now, sizeof now, "%d on %d nodes", here->cores, here->nodes);
    if (strcmp(then, now) != 0) return foreign(name, "number of cores", then, now, error);
    snprintf(then, sizeof then, "%d", m->threads);
    snprintf(now, sizeof now, "%d", here->threads);
    if (m->threads != here->threads) return foreign(name, "number of threads", then, now, error);
    /* What the kernel keeps of the memory for itself changes from start to start. */
    uint64_t larger = m->memory_bytes > here->memory_bytes ? m->memory_bytes : here->memory_bytes;
    uint64_t apart = 2 * larger - m->memory_bytes - here->memory_bytes;
    snprintf(then, sizeof then, "%" PRIu64 " MiB", m->memory_bytes >> 20);
    snprintf(now, sizeof now, "%" PRIu64 " MiB", here->memory_bytes >> 20);
    if (apart > larger / 16) return foreign(name, "size of memory", then, now, error);
    snprintf(then, sizeof then, "%" PRIu64 " bytes", c->rates.expert_bytes);
    snprintf(now, sizeof now, "%" PRIu64 " bytes", expert_bytes);
    if (c->rates.expert_bytes != expert_bytes) return foreign(name, "expert", then, now, error);
    if (now_s - c->measured_s > CALIBRATION_AGE_MAX_S || c->measured_s > now_s + 24 * 3600)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s is stale: it was measured %lld days ago; measure again with "
                            "'sluice bench host'",
                            name, (long long)((now_s - c->measured_s) / (24 * 3600)));
    return SL_OK;
}

/* ---- the file ----------------------------------------------------------------------------- */

static enum sl_status cannot_write(const char *path, struct sl_error *error)
{
    int code = errno;
    return sl_error_set(error, SL_ERR_IO, code, "cannot write the machine profile %s: %s", path,
                        strerror(code));
}

/* Makes the folders above `path`; a failure shows when the file is opened. */
static void make_folders(const char *path)
{
    char folder[4096];
    int length = snprintf(folder, sizeof folder, "%s", path);
    if (length < 0 || (size_t)length >= sizeof folder) return;
    for (char *at = folder + 1; *at; at++) {
        if (*at != '/') continue;
        *at = 0;
        (void)mkdir(folder, 0777);
        *at = '/';
    }
}

enum sl_status calibration_save(const struct calibration *calibration, const char *path,
                                struct sl_error *error)
{
    char text[CALIBRATION_FILE_BYTES_MAX], beside[4096];
    size_t bytes = calibration_format(calibration, text);
    int length = snprintf(beside, sizeof beside, "%s.new", path);
    if (length < 0 || (size_t)length >= sizeof beside) {
        errno = ENAMETOOLONG;
        return cannot_write(path, error);
    }
    make_folders(path);
    FILE *file = fopen(beside, "we");
    if (!file) return cannot_write(path, error);
    bool good = fwrite(text, 1, bytes, file) == bytes;
    good = fflush(file) == 0 && good && fsync(fileno(file)) == 0;
    good = fclose(file) == 0 && good;
    if (good && rename(beside, path) == 0) return SL_OK;
    enum sl_status status = cannot_write(path, error);
    unlink(beside);
    return status;
}

enum sl_status calibration_load(const char *path, struct calibration *out, struct sl_error *error)
{
    char text[CALIBRATION_FILE_BYTES_MAX];
    FILE *file = fopen(path, "re");
    if (!file) {
        int code = errno;
        return sl_error_set(error, code == ENOENT ? SL_ERR_ARGUMENT : SL_ERR_IO, code,
                            "cannot open the machine profile %s: %s; 'sluice bench host' makes one",
                            path, strerror(code));
    }
    size_t bytes = fread(text, 1, sizeof text, file);
    bool failed = ferror(file);
    fclose(file);
    if (failed) return sl_error_set(error, SL_ERR_IO, EIO, "cannot read %s", path);
    return calibration_parse(text, bytes, path, out, error);
}

bool calibration_default_path(char *out, size_t bytes)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length;
    if (cache && *cache == '/')
        length = snprintf(out, bytes, "%s/sluice/machine", cache);
    else if (home && *home == '/')
        length = snprintf(out, bytes, "%s/.cache/sluice/machine", home);
    else
        return false;
    return length > 0 && (size_t)length < bytes;
}
