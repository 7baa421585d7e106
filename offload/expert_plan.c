/* Byte ranges to read for one expert, and their placing into its slot; see the header. */
#include "offload/expert_plan.h"

#include <string.h>

static const struct expert_segment *segments_of(const struct expert_source *source,
                                                int32_t expert_idx)
{
    SL_ASSERT(expert_idx >= 0 && expert_idx < source->layers * source->experts);
    return source->segments + (size_t)expert_idx * (size_t)source->segments_per_expert;
}

static bool is_before(const struct expert_segment *a, const struct expert_segment *b, bool in_slot)
{
    if (in_slot) return a->slot_offset_bytes < b->slot_offset_bytes;
    return a->file != b->file ? a->file < b->file : a->offset_bytes < b->offset_bytes;
}

/* The expert's segments in the order of their place in the slot, or in the files. */
static void sort_segments(const struct expert_source *source, int32_t expert_idx, bool in_slot,
                          const struct expert_segment *sorted[EXPERT_SEGMENTS_MAX])
{
    const struct expert_segment *segments = segments_of(source, expert_idx);
    for (int32_t i = 0; i < source->segments_per_expert; i++) {
        int32_t at = i;
        for (; at > 0 && is_before(&segments[i], sorted[at - 1], in_slot); at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = &segments[i];
    }
}

static bool segment_fits(const struct expert_source *source, const struct expert_segment *segment)
{
    uint64_t end, slot_end;
    return segment->file >= 0 && segment->file < source->file_count && segment->bytes > 0 &&
           checked_add(segment->offset_bytes, segment->bytes, &end) &&
           end <= source->files[segment->file].bytes &&
           checked_add(segment->slot_offset_bytes, segment->bytes, &slot_end) &&
           slot_end <= source->slot_bytes;
}

static enum sl_status check_expert(const struct expert_source *source, int32_t expert_idx,
                                   struct sl_error *error)
{
    const struct expert_segment *sorted[EXPERT_SEGMENTS_MAX];
    int layer = (int)(expert_idx / source->experts), expert = (int)(expert_idx % source->experts);
    uint64_t end = 0;
    sort_segments(source, expert_idx, true, sorted);
    for (int32_t i = 0; i < source->segments_per_expert; i++) {
        const struct expert_segment *segment = sorted[i];
        if (!segment_fits(source, segment))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "layer %d expert %d: %llu bytes at byte %llu of file %d do not lie "
                                "within the file, or not within the slot of %zu bytes",
                                layer, expert, (unsigned long long)segment->bytes,
                                (unsigned long long)segment->offset_bytes, (int)segment->file,
                                source->slot_bytes);
        if (segment->slot_offset_bytes < end)
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "layer %d expert %d: two parts share byte %llu of the slot", layer,
                                expert, (unsigned long long)segment->slot_offset_bytes);
        end = segment->slot_offset_bytes + segment->bytes;
    }
    return SL_OK;
}

enum sl_status expert_plan_check_source(const struct expert_source *source, struct sl_error *error)
{
    SL_ASSERT(source && source->segments);
    if (source->layers <= 0 || source->experts <= 0 || source->layers > INT32_MAX / source->experts)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%d layers of %d experts cannot be stored",
                            (int)source->layers, (int)source->experts);
    if (source->slot_bytes == 0 || source->slot_bytes % SL_PAGE_BYTES != 0 ||
        source->slot_bytes > EXPERT_SLOT_BYTES_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "an expert of %zu bytes cannot be stored: it must be a multiple of %u "
                            "and at most %llu",
                            source->slot_bytes, SL_PAGE_BYTES,
                            (unsigned long long)EXPERT_SLOT_BYTES_MAX);
    if (source->segments_per_expert < 1 || source->segments_per_expert > EXPERT_SEGMENTS_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%d parts an expert: 1 to %d can be read",
                            (int)source->segments_per_expert, EXPERT_SEGMENTS_MAX);
    if (source->file_count < 1 || source->file_count > IO_FILES_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%d files: 1 to %d can be read",
                            (int)source->file_count, IO_FILES_MAX);
    for (int32_t i = 0; i < source->layers * source->experts; i++)
        SL_TRY(check_expert(source, i, error));
    return SL_OK;
}

bool expert_plan_is_straight(const struct expert_source *source)
{
    size_t count = (size_t)(source->layers * source->experts) * (size_t)source->segments_per_expert;
    if (source->place) return false;
    for (size_t i = 0; i < count; i++) {
        const struct expert_segment *segment = &source->segments[i];
        uint64_t alignment = source->files[segment->file].alignment_bytes;
        SL_DEBUG_ASSERT(alignment > 0 && (alignment & (alignment - 1)) == 0);
        if ((segment->offset_bytes | segment->bytes | segment->slot_offset_bytes) & (alignment - 1))
            return false;
    }
    return true;
}

/* The ranges of a straight source: segments as they are, joined where they adjoin in file and slot
 * alike. */
static void plan_straight(const struct expert_segment *const *sorted, int32_t count,
                          struct expert_plan *plan)
{
    for (int32_t i = 0; i < count; i++) {
        const struct expert_segment *segment = sorted[i];
        struct expert_extent *last =
            plan->extent_count > 0 ? &plan->extents[plan->extent_count - 1] : NULL;
        if (last && last->file == segment->file &&
            last->offset_bytes + last->bytes == segment->offset_bytes &&
            last->target_offset_bytes + last->bytes == segment->slot_offset_bytes) {
            last->bytes += segment->bytes;
            last->needed_bytes = last->bytes;
            continue;
        }
        plan->extents[plan->extent_count++] = (struct expert_extent){
            .offset_bytes = segment->offset_bytes,
            .bytes = segment->bytes,
            .needed_bytes = segment->bytes,
            .target_offset_bytes = segment->slot_offset_bytes,
            .file = segment->file,
        };
    }
}

static void plan_staged(const struct expert_source *source,
                        const struct expert_segment *const *sorted, struct expert_plan *plan)
{
    for (int32_t i = 0; i < source->segments_per_expert;) {
        uint64_t alignment = source->files[sorted[i]->file].alignment_bytes;
        uint64_t start = align_down(sorted[i]->offset_bytes, alignment);
        uint64_t end = sorted[i]->offset_bytes + sorted[i]->bytes;
        int32_t next = i + 1;
        for (; next < source->segments_per_expert; next++) {
            const struct expert_segment *segment = sorted[next];
            uint64_t segment_end = segment->offset_bytes + segment->bytes;
            if (segment->file != sorted[i]->file) break;
            if (segment->offset_bytes >= end + EXPERT_GAP_BYTES_MAX) break;
            end = segment_end > end ? segment_end : end;
        }
        struct expert_extent *extent = &plan->extents[plan->extent_count++];
        *extent = (struct expert_extent){
            .offset_bytes = start,
            .bytes = (size_t)align_up(end - start, alignment),
            .needed_bytes = (size_t)(end - start),
            .target_offset_bytes = plan->staging_bytes,
            .file = sorted[i]->file,
        };
        plan->staging_bytes += align_up(extent->bytes, SL_PAGE_BYTES);
        i = next;
    }
}

void expert_plan_make(const struct expert_source *source, int32_t expert_idx, bool straight,
                      struct expert_plan *out)
{
    const struct expert_segment *sorted[EXPERT_SEGMENTS_MAX];
    *out = (struct expert_plan){0};
    sort_segments(source, expert_idx, false, sorted);
    if (straight)
        plan_straight(sorted, source->segments_per_expert, out);
    else
        plan_staged(source, sorted, out);
    SL_ASSERT(out->extent_count > 0 && out->extent_count <= source->segments_per_expert);
    SL_ASSERT(straight == (out->staging_bytes == 0));
}

/* Where the segment's bytes arrived in staging. */
static const uint8_t *find_staged(const struct expert_plan *plan,
                                  const struct expert_segment *segment, const uint8_t *staging)
{
    for (int32_t i = 0; i < plan->extent_count; i++) {
        const struct expert_extent *extent = &plan->extents[i];
        uint64_t end = extent->offset_bytes + extent->needed_bytes;
        if (extent->file == segment->file && extent->offset_bytes <= segment->offset_bytes &&
            segment->offset_bytes + segment->bytes <= end)
            return staging + extent->target_offset_bytes +
                   (segment->offset_bytes - extent->offset_bytes);
    }
    return NULL;
}

/* Lets the source fill the slot. */
static void place_rearranged(const struct expert_source *source, int32_t expert_idx,
                             const struct expert_plan *plan, const uint8_t *staging, uint8_t *slot)
{
    const struct expert_segment *segments = segments_of(source, expert_idx);
    const uint8_t *staged[EXPERT_SEGMENTS_MAX];
    for (int32_t i = 0; i < source->segments_per_expert; i++) {
        staged[i] = find_staged(plan, &segments[i], staging);
        SL_ASSERT(staged[i]);
    }
    source->place(source->place_context, staged, slot);
}

void expert_plan_place(const struct expert_source *source, int32_t expert_idx,
                       const struct expert_plan *plan, const uint8_t *staging, uint8_t *slot)
{
    const struct expert_segment *sorted[EXPERT_SEGMENTS_MAX];
    size_t end = 0;
    SL_ASSERT((staging == NULL) == (plan->staging_bytes == 0));
    if (source->place) {
        place_rearranged(source, expert_idx, plan, staging, slot);
        return;
    }
    sort_segments(source, expert_idx, true, sorted);
    for (int32_t i = 0; i < source->segments_per_expert; i++) {
        size_t offset = sorted[i]->slot_offset_bytes, bytes = sorted[i]->bytes;
        memset(slot + end, 0, offset - end);
        if (staging) {
            const uint8_t *staged = find_staged(plan, sorted[i], staging);
            SL_ASSERT(staged);
            memcpy(slot + offset, staged, bytes);
        }
        end = offset + bytes;
    }
    SL_ASSERT(end <= source->slot_bytes);
    memset(slot + end, 0, source->slot_bytes - end);
}
