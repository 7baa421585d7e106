/* The harness of tests/gpu. */
#include "tests/gpu/twin.h"
#include "kernels/lowp.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#define GUARD_BYTES          256
#define GUARD_BYTE           0xa5
#define FAILURES_PRINTED_MAX 20

void twin_fail(struct twin *twin, const char *file, int line, const char *format, ...)
{
    va_list arguments;
    if (++twin->failures > FAILURES_PRINTED_MAX) return;
    fprintf(stderr, "%s:%d: %s: ", file, line, twin->case_name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (seed %" PRIu64 ")\n", twin->seed);
}

void *twin_host(size_t bytes)
{
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    SL_ASSERT(memory != NULL);
    return memory;
}

/* A broken device leaves nothing to test. */
static void must(struct twin *twin, enum sl_status status, const char *what,
                 const struct sl_error *error)
{
    struct sl_error fault = {0};
    if (status == SL_OK) return;
    if (!error) {
        (void)cuda_stream_fault(twin->gpu_stream, &fault);
        error = &fault;
    }
    fprintf(stderr, "%s: %s: %s\n", twin->case_name, what, error->message);
    exit(1);
}

void *twin_put(struct twin *twin, const void *host, size_t bytes)
{
    void *device = NULL;
    struct sl_error error;
    uint8_t guard[GUARD_BYTES];
    memset(guard, GUARD_BYTE, sizeof guard);
    must(twin, cuda_memory_alloc(bytes + GUARD_BYTES, &device, &error), "allocating", &error);
    if (host) must(twin, cuda_copy_in(twin->gpu_stream, device, host, bytes), "copying in", NULL);
    must(twin, cuda_copy_in(twin->gpu_stream, (uint8_t *)device + bytes, guard, GUARD_BYTES),
         "copying in", NULL);
    return device;
}

void twin_get(struct twin *twin, void *host, const void *device, size_t bytes)
{
    must(twin, twin->gpu->stream_sync(twin->gpu_stream), "running", NULL);
    must(twin, cuda_copy_out(twin->gpu_stream, host, device, bytes), "copying out", NULL);
}

void twin_free(struct twin *twin, void *device, size_t bytes)
{
    uint8_t guard[GUARD_BYTES];
    twin_get(twin, guard, (uint8_t *)device + bytes, GUARD_BYTES);
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (guard[i] != GUARD_BYTE) {
            twin_fail(twin, __FILE__, __LINE__, "byte %zu behind an array of %zu was written", i,
                      bytes);
            break;
        }
    cuda_memory_free(device);
}

struct twin_array twin_array_make(struct twin *twin, size_t bytes)
{
    return (struct twin_array){twin_host(bytes), twin_put(twin, NULL, bytes), twin_host(bytes),
                               bytes};
}

void twin_upload(struct twin *twin, struct twin_array *array)
{
    must(twin, cuda_copy_in(twin->gpu_stream, array->device, array->host, array->bytes),
         "copying in", NULL);
}

const void *twin_download(struct twin *twin, struct twin_array *array)
{
    twin_get(twin, array->got, array->device, array->bytes);
    return array->got;
}

void twin_array_free(struct twin *twin, struct twin_array *array)
{
    twin_free(twin, array->device, array->bytes);
    free(array->host);
    free(array->got);
}

uint32_t twin_random(struct twin *twin)
{
    twin->seed = twin->seed * 6364136223846793005u + 1442695040888963407u;
    uint32_t mixed = (uint32_t)((twin->seed >> 22 ^ twin->seed) >> (22 + (twin->seed >> 61)));
    return mixed;
}

float twin_uniform(struct twin *twin, float low, float high)
{
    return low + (high - low) * (float)(twin_random(twin) >> 8) * 0x1p-24f;
}

void twin_fill(struct twin *twin, float *out, size_t count, float scale, bool round)
{
    for (size_t i = 0; i < count; i++) {
        float sum =
            twin_uniform(twin, -1, 1) + twin_uniform(twin, -1, 1) + twin_uniform(twin, -1, 1);
        out[i] = round ? bf16_round(sum * scale) : sum * scale;
    }
}

struct twin_array twin_floats(struct twin *twin, size_t count, float scale, bool round)
{
    struct twin_array array = twin_array_make(twin, count * sizeof(float));
    twin_fill(twin, array.host, count, scale, round);
    twin_upload(twin, &array);
    return array;
}

void twin_fill_bf16(struct twin *twin, uint16_t *out, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++)
        out[i] = bf16_encode(twin_uniform(twin, -scale, scale));
}

void twin_fill_e4m3(struct twin *twin, uint8_t *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = (uint8_t)twin_random(twin);
        if ((out[i] & 0x7f) == 0x7f) out[i] ^= 1;
    }
}

void twin_fill_e8m0(struct twin *twin, uint8_t *out, size_t count, int low, int high)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (uint8_t)(127 + low + (int)(twin_random(twin) % (uint32_t)(high - low + 1)));
}

void twin_check_bytes(struct twin *twin, const char *what, const void *got, const void *want,
                      size_t bytes)
{
    const uint8_t *a = got;
    const uint8_t *b = want;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i]) {
            twin_fail(twin, __FILE__, __LINE__, "%s: byte %zu of %zu is %02x, not %02x", what, i,
                      bytes, a[i], b[i]);
            return;
        }
}

void twin_check_close(struct twin *twin, const char *what, const float *got, const float *want,
                      size_t count, double rms_limit, double max_limit)
{
    double square = 0, square_error = 0, largest = 0, largest_error = 0;
    size_t worst = 0;
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(got[i]) || !isfinite(want[i])) {
            bool alike = isnan(want[i]) ? isnan(got[i]) : got[i] == want[i];
            if (alike) continue;
            twin_fail(twin, __FILE__, __LINE__, "%s: element %zu of %zu is %g, not %g", what, i,
                      count, (double)got[i], (double)want[i]);
            return;
        }
        double error = fabs((double)got[i] - (double)want[i]);
        square += (double)want[i] * (double)want[i];
        square_error += error * error;
        largest = fmax(largest, fabs((double)want[i]));
        if (error > largest_error) {
            largest_error = error;
            worst = i;
        }
    }
    if (sqrt(square_error) <= rms_limit * sqrt(square) && largest_error <= max_limit * largest)
        return;
    twin_fail(
        twin, __FILE__, __LINE__,
        "%s: error %.3g rms over rms (limit %.3g), largest %.3g of %.3g at element %zu of %zu: "
        "%.9g, not %.9g (limit %.3g)",
        what, sqrt(square_error) / sqrt(square), rms_limit, largest_error, largest, worst, count,
        (double)got[worst], (double)want[worst], max_limit);
}

int twin_main(int argc, char **argv, const struct twin_case *cases, size_t count)
{
    struct twin twin = {.cpu = ops_cpu(), .gpu = ops_cuda(), .case_name = "start"};
    struct stream_options options = {.threads = 1};
    struct sl_error error;
    if (cuda_device_open(0, &twin.device, &error) != SL_OK) {
        printf("skipped: %s\n", error.message);
        return TWIN_SKIPPED;
    }
    printf("on %s, %d processors\n", twin.device.name, (int)twin.device.processors);
    must(&twin, cuda_stream_create(&twin.gpu_stream, &error), "stream", &error);
    SL_ASSERT(twin.cpu->stream_create(&options, &twin.cpu_stream) == SL_OK);
    size_t run = 0;
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && !strstr(cases[i].name, argv[1])) continue;
        int before = twin.failures;
        twin.case_name = cases[i].name;
        twin.seed = 1 + i;
        cases[i].run(&twin);
        printf("%s: %s\n", twin.failures == before ? "ok" : "FAILED", cases[i].name);
        fflush(stdout);
        run++;
    }
    twin.gpu->stream_destroy(twin.gpu_stream);
    twin.cpu->stream_destroy(twin.cpu_stream);
    printf("%zu cases, %d failures\n", run, twin.failures);
    return run > 0 && twin.failures == 0 ? 0 : 1;
}
