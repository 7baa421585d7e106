/* Byte-pair encoding; see the header. Short pieces, nearly all there are, are scanned for their
 * lowest rank again after every merge; long ones use a linked list and a heap of candidates. */
#include "runtime/bpe.h"

#include <string.h>

/* Up to here scanning beats the heap. */
#define SCAN_BYTES_MAX 64

#define RANK_NONE     INT32_MAX
#define POSITION_NONE UINT32_MAX

struct merge {
    int32_t left, right; /* left < 0: a free place */
    int32_t rank, result;
};

struct bpe {
    int32_t byte_ids[256];
    size_t merges, merges_max;
    size_t mask;           /* places - 1; places are a power of two, at least half of them free */
    struct merge places[]; /* open addressing, next free place upwards */
};

/* ---- ids ---------------------------------------------------------------------------------- */

enum sl_status bpe_ids_reserve(struct bpe_ids *list, size_t more)
{
    SL_ASSERT(list->count <= list->capacity);
    if (more <= list->capacity - list->count) return SL_OK;
    size_t capacity = list->capacity + list->capacity / 2 + more + 16;
    if (capacity > SIZE_MAX / sizeof *list->ids) return SL_ERR_NO_MEMORY;
    int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
    if (!ids) return SL_ERR_NO_MEMORY;
    list->ids = ids;
    list->capacity = capacity;
    return SL_OK;
}

/* ---- merges ------------------------------------------------------------------------------- */

enum sl_status bpe_create(size_t merges, const int32_t *byte_ids, struct bpe **out)
{
    size_t places = 16;
    while (places / 2 < merges)
        places *= 2;
    struct bpe *bpe = malloc(sizeof *bpe + places * sizeof bpe->places[0]);
    if (!bpe) return SL_ERR_NO_MEMORY;
    memcpy(bpe->byte_ids, byte_ids, sizeof bpe->byte_ids);
    bpe->merges = 0;
    bpe->merges_max = merges;
    bpe->mask = places - 1;
    for (size_t i = 0; i < places; i++)
        bpe->places[i].left = -1;
    *out = bpe;
    return SL_OK;
}

void bpe_destroy(struct bpe *bpe)
{
    free(bpe);
}

/* The place of a pair, or the free one where it would be. */
static size_t find_place(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    size_t idx = (size_t)(hash ^ hash >> 32) & bpe->mask;
    while (bpe->places[idx].left >= 0 &&
           (bpe->places[idx].left != left || bpe->places[idx].right != right))
        idx = (idx + 1) & bpe->mask;
    return idx;
}

static int32_t find_rank(const struct bpe *bpe, int32_t left, int32_t right)
{
    const struct merge *merge = &bpe->places[find_place(bpe, left, right)];
    return merge->left < 0 ? RANK_NONE : merge->rank;
}

static int32_t merge_result(const struct bpe *bpe, int32_t left, int32_t right)
{
    const struct merge *merge = &bpe->places[find_place(bpe, left, right)];
    SL_DEBUG_ASSERT(merge->left >= 0);
    return merge->result;
}

bool bpe_add(struct bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t result)
{
    SL_ASSERT(bpe->merges < bpe->merges_max);
    SL_ASSERT(left >= 0 && right >= 0 && result >= 0 && rank >= 0 && rank < RANK_NONE);
    struct merge *merge = &bpe->places[find_place(bpe, left, right)];
    if (merge->left >= 0) return false;
    *merge = (struct merge){left, right, rank, result};
    bpe->merges++;
    return true;
}

/* ---- short pieces ------------------------------------------------------------------------- */

/* Joins within ids [count]; returns how many are left. */
static size_t join_by_scan(const struct bpe *bpe, int32_t *ids, size_t count)
{
    int32_t ranks[SCAN_BYTES_MAX]; /* of ids i and i + 1 */
    for (size_t i = 0; i + 1 < count; i++)
        ranks[i] = find_rank(bpe, ids[i], ids[i + 1]);
    for (;;) {
        size_t best = 0;
        int32_t best_rank = RANK_NONE;
        for (size_t i = 0; i + 1 < count; i++) {
            if (ranks[i] >= best_rank) continue;
            best_rank = ranks[i];
            best = i;
        }
        if (best_rank == RANK_NONE) return count;

        ids[best] = merge_result(bpe, ids[best], ids[best + 1]);
        size_t behind = count - best - 2;
        memmove(ids + best + 1, ids + best + 2, behind * sizeof *ids);
        memmove(ranks + best, ranks + best + 1, behind * sizeof *ranks);
        count--;
        if (best > 0) ranks[best - 1] = find_rank(bpe, ids[best - 1], ids[best]);
        if (best + 1 < count) ranks[best] = find_rank(bpe, ids[best], ids[best + 1]);
    }
}

/* ---- long pieces -------------------------------------------------------------------------- */

struct node {
    int32_t id;
    int32_t rank; /* of this and the next node; RANK_NONE also when this one was joined away */
    uint32_t previous, next;
};

/* Candidates in a binary heap: rank in the high half, position in the low one, so that the least
 * number is the next merge. An entry whose node has another rank by now is out of date. */
struct heap {
    uint64_t *entries;
    size_t count;
};

static void heap_sink(struct heap *heap, size_t at)
{
    uint64_t entry = heap->entries[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->count) break;
        if (child + 1 < heap->count && heap->entries[child + 1] < heap->entries[child]) child++;
        if (heap->entries[child] >= entry) break;
        heap->entries[at] = heap->entries[child];
        at = child;
    }
    heap->entries[at] = entry;
}

static void heap_push(struct heap *heap, uint64_t entry)
{
    size_t at = heap->count++;
    while (at > 0 && heap->entries[(at - 1) / 2] > entry) {
        heap->entries[at] = heap->entries[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap->entries[at] = entry;
}

static uint64_t heap_pop(struct heap *heap)
{
    uint64_t least = heap->entries[0];
    heap->entries[0] = heap->entries[--heap->count];
    if (heap->count > 1) heap_sink(heap, 0);
    return least;
}

static uint64_t candidate(int32_t rank, uint32_t position)
{
    return (uint64_t)rank << 32 | position;
}

/* Looks up the rank of a node and its successor, and queues the pair when it has one. */
static void rank_node(const struct bpe *bpe, struct node *nodes, uint32_t at, struct heap *heap)
{
    struct node *node = &nodes[at];
    node->rank =
        node->next == POSITION_NONE ? RANK_NONE : find_rank(bpe, node->id, nodes[node->next].id);
    if (node->rank != RANK_NONE) heap_push(heap, candidate(node->rank, at));
}

static void join_by_heap(const struct bpe *bpe, struct node *nodes, struct heap *heap)
{
    while (heap->count > 0) {
        uint64_t entry = heap_pop(heap);
        uint32_t at = (uint32_t)entry;
        struct node *node = &nodes[at];
        if (node->rank != (int32_t)(entry >> 32)) continue;

        struct node *joined = &nodes[node->next];
        node->id = merge_result(bpe, node->id, joined->id);
        node->next = joined->next;
        joined->rank = RANK_NONE;
        if (node->next != POSITION_NONE) nodes[node->next].previous = at;
        rank_node(bpe, nodes, at, heap);
        if (node->previous != POSITION_NONE) rank_node(bpe, nodes, node->previous, heap);
    }
}

static enum sl_status encode_long(const struct bpe *bpe, const char *piece, uint32_t bytes,
                                  struct bpe_ids *out)
{
    /* One candidate for each pair at first; each of fewer than `bytes` merges adds up to two. */
    struct heap heap = {malloc(3 * (size_t)bytes * sizeof *heap.entries), 0};
    struct node *nodes = malloc(bytes * sizeof *nodes);
    enum sl_status status = SL_ERR_NO_MEMORY;
    if (!heap.entries || !nodes) goto done;

    for (uint32_t i = 0; i < bytes; i++) {
        nodes[i].id = bpe->byte_ids[(uint8_t)piece[i]];
        nodes[i].previous = i > 0 ? i - 1 : POSITION_NONE;
        nodes[i].next = i + 1 < bytes ? i + 1 : POSITION_NONE;
    }
    for (uint32_t i = 0; i < bytes; i++)
        rank_node(bpe, nodes, i, &heap);
    join_by_heap(bpe, nodes, &heap);

    for (uint32_t i = 0; i != POSITION_NONE; i = nodes[i].next) {
        status = bpe_ids_reserve(out, 1);
        if (status != SL_OK) goto done;
        out->ids[out->count++] = nodes[i].id;
    }
    status = SL_OK;
done:
    free(nodes);
    free(heap.entries);
    return status;
}

enum sl_status bpe_encode(const struct bpe *bpe, const char *piece, size_t bytes,
                          struct bpe_ids *out)
{
    if (bytes > BPE_PIECE_BYTES_MAX) return SL_ERR_LIMIT;
    if (bytes > SCAN_BYTES_MAX) return encode_long(bpe, piece, (uint32_t)bytes, out);

    SL_TRY(bpe_ids_reserve(out, bytes));
    int32_t *ids = out->ids + out->count;
    for (size_t i = 0; i < bytes; i++)
        ids[i] = bpe->byte_ids[(uint8_t)piece[i]];
    out->count += join_by_scan(bpe, ids, bytes);
    return SL_OK;
}
