/* The machine's profile as text, and back; see calibration.h. */
#include "offload/calibration.h"

#include "offload/topology.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include <xxhash.h>

static const char *const spread_names[] = {"in-turn", "near"};
static const char *const lane_names[RATES_LANES] = {"device", "up", "down", "cpu", "disk"};

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
