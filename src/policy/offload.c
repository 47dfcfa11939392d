/* See offload.h. */
#include "policy/offload.h"

/* a before b: less value per byte, by cross multiplication; then by number. */
static bool is_before(const struct offload_candidate *a, const struct offload_candidate *b)
{
    double left = a->value * (double)b->bytes, right = b->value * (double)a->bytes;
    if (left < right || left > right)
        return left < right;
    return a->kind < b->kind || (a->kind == b->kind && a->index < b->index);
}

static void swap(struct offload_candidate *a, struct offload_candidate *b)
{
    struct offload_candidate t = *a;
    *a = *b;
    *b = t;
}

static void sift(struct offload_candidate *c, uint32_t count, uint32_t at)
{
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_before(&c[child], &c[child + 1]))
            child++;
        if (!is_before(&c[at], &c[child]))
            return;
        swap(&c[at], &c[child]);
    }
}

/* Ascending, in place, without a library. */
static void sort(struct offload_candidate *c, uint32_t count)
{
    for (uint32_t i = count / 2; i-- > 0;)
        sift(c, count, i);
    for (uint32_t n = count; n > 1; n--) {
        swap(&c[0], &c[n - 1]);
        sift(c, n - 1, 0);
    }
}

/* What the first `chosen` candidates free of a group, by parts or as a whole. */
static uint64_t freed_of(const struct offload_candidate *c, uint32_t chosen, uint32_t group,
                         bool *ret_whole)
{
    uint64_t bytes = 0;
    *ret_whole = false;
    for (uint32_t i = 0; i < chosen; i++) {
        if (c[i].group != group)
            continue;
        *ret_whole |= c[i].is_whole;
        bytes += c[i].bytes;
    }
    return bytes;
}

/* Moves candidate `at` behind the first `chosen`, keeping the order of the others. */
static void move_to(struct offload_candidate *c, uint32_t at, uint32_t chosen)
{
    struct offload_candidate moved = c[at];
    for (; at > chosen; at--)
        c[at] = c[at - 1];
    for (; at < chosen; at++)
        c[at] = c[at + 1];
    c[chosen] = moved;
}

/* A whole takes the place of its parts. Returns how many are chosen then. */
static uint32_t drop_parts(struct offload_candidate *c, uint32_t chosen)
{
    for (uint32_t i = 0; i + 1 < chosen;) {
        if (c[i].group != c[chosen - 1].group) {
            i++;
            continue;
        }
        move_to(c, i, chosen - 1);
        chosen--;
    }
    return chosen;
}

uint32_t offload_choose(struct offload_candidate *candidates, uint32_t count, uint64_t bytes)
{
    uint64_t freed = 0;
    uint32_t chosen = 0;
    sort(candidates, count);
    for (uint32_t i = 0; i < count && freed < bytes; i++) {
        bool has_whole;
        uint64_t already = freed_of(candidates, chosen, candidates[i].group, &has_whole);
        if (has_whole)
            continue;
        freed += candidates[i].bytes;
        move_to(candidates, i, chosen++);
        if (candidates[chosen - 1].is_whole) {
            freed -= already;
            chosen = drop_parts(candidates, chosen);
        }
    }
    if (freed < bytes)
        return 0;
    /* The last ones may make earlier ones needless: the densest of those is spared first. */
    for (uint32_t i = chosen; i-- > 0;) {
        if (freed - candidates[i].bytes < bytes)
            continue;
        freed -= candidates[i].bytes;
        move_to(candidates, i, --chosen);
    }
    return chosen;
}
