/* One expert for op tests; see the header. */
#include "tests/support_expert.h"

#include "tests/support_ops.h"

#include <math.h>

void test_expert_place(struct test_expert *expert)
{
    const uint8_t *parts[EXPERT_PARTS];
    for (int part = 0; part < EXPERT_PARTS; part++)
        parts[part] = expert->parts[part];
    expert_layout_place(&expert->layout, parts, expert->slot);
}

struct test_expert *test_expert_make(uint64_t *seed, int32_t hidden, int32_t width,
                                     uint32_t scale_first, uint32_t scale_bound)
{
    struct test_expert *expert = ops_test_alloc(sizeof *expert);
    expert->layout = expert_layout_make(hidden, width);
    for (int part = 0; part < EXPERT_PARTS; part++) {
        size_t bytes = expert->layout.part_bytes[part];
        expert->parts[part] = part % 2
                                  ? ops_test_random_bytes(seed, bytes, scale_first, scale_bound)
                                  : ops_test_random_bytes(seed, bytes, 0, 256);
    }
    uint8_t *memory = ops_test_alloc(expert->layout.slot_bytes + 64);
    expert->slot = memory + (64 - (uintptr_t)memory % 64);
    test_expert_place(expert);
    return expert;
}

double test_expert_weight(const struct test_expert *expert, enum expert_part part, int32_t row,
                          int32_t column)
{
    int32_t columns = part == EXPERT_W2 ? expert->layout.width : expert->layout.hidden;
    size_t idx = (size_t)row * (size_t)columns + (size_t)column;
    uint8_t pair = expert->parts[part][idx / 2];
    return ops_test_e2m1_value(idx % 2 ? pair >> 4 : pair & 15) *
           ops_test_e8m0_value(expert->parts[part + 1][idx / 32]);
}

void test_expert_in_double(const struct test_expert *expert, const float *x, double weight,
                           bool round, double *y)
{
    int32_t hidden = expert->layout.hidden;
    int32_t width = expert->layout.width;
    double *input = ops_test_alloc((size_t)hidden * sizeof *input);
    double *middle = ops_test_alloc((size_t)width * sizeof *middle);
    float *rounded = ops_test_floats((size_t)width);
    for (int32_t c = 0; c < hidden; c++)
        input[c] = (double)x[c];
    if (round) ops_test_round_trip_fp8(x, input, hidden, 128);
    for (int32_t r = 0; r < width; r++) {
        double gate = 0;
        double up = 0;
        for (int32_t c = 0; c < hidden; c++) {
            gate += input[c] * test_expert_weight(expert, EXPERT_W1, r, c);
            up += input[c] * test_expert_weight(expert, EXPERT_W3, r, c);
        }
        if (round) gate = ops_test_bf16(gate);
        if (round) up = ops_test_bf16(up);
        gate = fmin(gate, 10);
        up = fmin(fmax(up, -10), 10);
        middle[r] = weight * gate / (1 + exp(-gate)) * up;
        rounded[r] = (float)ops_test_bf16(middle[r]);
    }
    if (round) ops_test_round_trip_fp8(rounded, middle, width, 128);
    for (int32_t r = 0; r < hidden; r++) {
        y[r] = 0;
        for (int32_t c = 0; c < width; c++)
            y[r] += middle[c] * test_expert_weight(expert, EXPERT_W2, r, c);
    }
}

double test_expert_relative_rms(const float *got, const double *want, size_t count)
{
    double error = 0;
    double size = 0;
    for (size_t i = 0; i < count; i++) {
        error += pow((double)got[i] - want[i], 2);
        size += want[i] * want[i];
    }
    return sqrt(error / size);
}
