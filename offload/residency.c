/* Least recently used: a list of candidates through the slots; see the header. */
#include "offload/residency.h"

static struct residency_link *link_at(const struct residency *residency, int32_t slot)
{
    SL_ASSERT(slot >= 0 && slot < residency->slot_count);
    return &residency->links[slot];
}

enum sl_status residency_init(struct residency *residency, int32_t slot_count,
                              struct sl_error *error)
{
    SL_ASSERT(slot_count > 0);
    *residency = (struct residency){.slot_count = slot_count, .newest = -1, .oldest = -1};
    residency->links = calloc((size_t)slot_count, sizeof *residency->links);
    if (!residency->links)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to keep track of %d experts",
                            (int)slot_count);
    return SL_OK;
}

void residency_deinit(struct residency *residency)
{
    free(residency->links);
    *residency = (struct residency){0};
}

void residency_touch(struct residency *residency, int32_t slot)
{
    residency_forget(residency, slot);
    struct residency_link *link = link_at(residency, slot);
    *link = (struct residency_link){.newer = -1, .older = residency->newest, .candidate = true};
    if (residency->newest >= 0)
        link_at(residency, residency->newest)->newer = slot;
    else
        residency->oldest = slot;
    residency->newest = slot;
    residency->candidate_count++;
}

void residency_forget(struct residency *residency, int32_t slot)
{
    struct residency_link *link = link_at(residency, slot);
    if (!link->candidate) return;
    if (link->newer >= 0)
        link_at(residency, link->newer)->older = link->older;
    else
        residency->newest = link->older;
    if (link->older >= 0)
        link_at(residency, link->older)->newer = link->newer;
    else
        residency->oldest = link->newer;
    link->candidate = false;
    residency->candidate_count--;
    SL_ASSERT(residency->candidate_count >= 0);
}

int32_t residency_victim(const struct residency *residency)
{
    SL_ASSERT((residency->oldest >= 0) == (residency->candidate_count > 0));
    return residency->oldest;
}

bool residency_is_candidate(const struct residency *residency, int32_t slot)
{
    return link_at(residency, slot)->candidate;
}

void residency_check(const struct residency *residency)
{
    int32_t listed = 0, newer = -1;
    for (int32_t i = residency->newest; i >= 0; i = residency->links[i].older) {
        SL_ASSERT(i < residency->slot_count && residency->links[i].candidate);
        SL_ASSERT(residency->links[i].newer == newer);
        SL_ASSERT(++listed <= residency->slot_count); /* no cycle */
        newer = i;
    }
    SL_ASSERT(newer == residency->oldest && listed == residency->candidate_count);
}
