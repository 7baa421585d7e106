/* Whole layers or chosen experts; see the header. */
#include "offload/layer_stream.h"

#include <math.h>

int32_t layer_stream_slots(int32_t device_slots, int32_t layers, int32_t experts)
{
    SL_ASSERT(device_slots >= 0 && layers > 0 && experts > 0);
    if (device_slots >= layers * experts) return 0;
    int32_t slots = min_i32(2 * experts, device_slots / LAYER_STREAM_SLOTS_PART);
    return slots >= LAYER_STREAM_SLOTS_MIN ? slots : 0;
}

double layer_stream_whole_ns(const struct layer_stream_problem *problem)
{
    return fmax(problem->wait_ns, problem->cold * problem->copy_ns);
}

double layer_stream_chosen_ns(const struct layer_stream_problem *problem)
{
    return problem->wait_ns + problem->chosen * problem->copy_ns;
}

bool layer_stream_is_whole(const struct layer_stream_problem *problem)
{
    SL_ASSERT(problem->chosen >= 0 && problem->chosen <= problem->cold);
    SL_ASSERT(problem->copy_ns >= 0 && problem->wait_ns >= 0);
    return problem->chosen > 0 && layer_stream_whole_ns(problem) < layer_stream_chosen_ns(problem);
}
