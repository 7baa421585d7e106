/* The machine's profile: whose it is, what its rates come to, and its file; see the header. */
#include "offload/calibration.h"

#include "offload/topology.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

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
