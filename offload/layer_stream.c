/* Ahead, or asked for; see the header. */
#include "offload/layer_stream.h"

#include <math.h>

int32_t layer_stream_slots(int32_t device_slots, int32_t layers, int32_t experts)
{
    SL_ASSERT(device_slots >= 0 && layers > 0 && experts > 0);
    if (device_slots >= layers * experts) return 0;
    int32_t slots = min_i32(2 * experts, device_slots / LAYER_STREAM_SLOTS_PART);
    return slots >= LAYER_STREAM_SLOTS_MIN ? slots : 0;
}

int32_t layer_stream_flight(double copy_ns)
{
    if (!(copy_ns > 0)) return LAYER_STREAM_AHEAD_MAX;
    return (int32_t)fmax(2, fmin(ceil(LAYER_STREAM_AHEAD_NS / copy_ns), LAYER_STREAM_AHEAD_MAX));
}

double layer_stream_asked_ns(const struct layer_stream_problem *problem)
{
    return problem->wait_ns + problem->chosen * problem->copy_ns;
}

double layer_stream_ahead_ns(const struct layer_stream_problem *problem)
{
    if (problem->cold * problem->copy_ns <= problem->wait_ns) return problem->wait_ns;
    double share = problem->cold > 0 ? problem->chosen / problem->cold : 0;
    double came = problem->wait_ns / problem->copy_ns;
    double flight = fmin(layer_stream_flight(problem->copy_ns), problem->cold - came);
    double left = fmax(problem->chosen - share * came, 0);
    return problem->wait_ns + (left + (1 - share) * flight) * problem->copy_ns;
}

bool layer_stream_is_ahead(const struct layer_stream_problem *problem)
{
    SL_ASSERT(problem->chosen >= 0 && problem->chosen <= problem->cold);
    SL_ASSERT(problem->copy_ns >= 0 && problem->wait_ns >= 0);
    return problem->chosen > 0 && layer_stream_ahead_ns(problem) < layer_stream_asked_ns(problem);
}
