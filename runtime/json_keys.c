/* Merging the repeated keys of a JSON object; see the header. */
#include "runtime/json_keys.h"

#include "kernels/base.h"

#include <string.h>

/* Sorting compares by key, so that no choice of keys makes it quadratic, as hashing could. */
struct member_place {
    struct json_value *member;
    size_t idx;
};

static int compare_members(const void *left, const void *right)
{
    const struct member_place *a = left, *b = right;
    size_t bytes =
        a->member->key_bytes < b->member->key_bytes ? a->member->key_bytes : b->member->key_bytes;
    int order = bytes ? memcmp(a->member->key, b->member->key, bytes) : 0;
    if (order != 0) return order;
    if (a->member->key_bytes != b->member->key_bytes)
        return a->member->key_bytes < b->member->key_bytes ? -1 : 1;
    return a->idx < b->idx ? -1 : a->idx > b->idx;
}

static bool same_key(const struct json_value *a, const struct json_value *b)
{
    return a->key_bytes == b->key_bytes &&
           (a->key_bytes == 0 || memcmp(a->key, b->key, a->key_bytes) == 0);
}

/* The first of a run of equal keys takes the value of the last; the others lose their place. */
static void merge_run(const struct member_place *run, size_t count, bool *dropped)
{
    SL_DEBUG_ASSERT(count > 1);
    struct json_value *first = run[0].member, *next = first->next;
    *first = *run[count - 1].member;
    first->next = next;
    for (size_t i = 1; i < count; i++)
        dropped[run[i].idx] = true;
}

static void unlink_dropped(struct json_value *object, const bool *dropped)
{
    struct json_value *last = object->first, *member = last->next;
    SL_ASSERT(!dropped[0]);
    size_t kept = 1;
    for (size_t i = 1; i < object->count; i++, member = member->next) {
        if (dropped[i]) continue;
        last->next = member;
        last = member;
        kept++;
    }
    last->next = NULL;
    object->count = kept;
}

bool json_keys_merge(struct json_value *object)
{
    SL_ASSERT(object->type == JSON_OBJECT);
    size_t count = object->count;
    if (count < 2) return true;
    struct member_place *places = malloc(count * sizeof *places);
    bool *dropped = calloc(count, sizeof *dropped);
    if (!places || !dropped) {
        free(places);
        free(dropped);
        return false;
    }
    struct json_value *member = object->first;
    for (size_t i = 0; i < count; i++, member = member->next)
        places[i] = (struct member_place){member, i};
    qsort(places, count, sizeof *places, compare_members);

    bool any = false;
    for (size_t start = 0, end; start < count; start = end) {
        for (end = start + 1; end < count; end++)
            if (!same_key(places[start].member, places[end].member)) break;
        if (end - start == 1) continue;
        merge_run(places + start, end - start, dropped);
        any = true;
    }
    if (any) unlink_dropped(object, dropped);
    free(places);
    free(dropped);
    return true;
}
