/* See preload.h. */
#include "policy/preload.h"

#include <assert.h>

/* Items that are tried as the first: so many that all runs together look at about this many. */
#define TRIED_ITEMS 4096u
#define TRIES_MAX 16u

struct knapsack {
    const struct preload_item *items;
    struct preload_node *nodes;
    uint32_t count;
    uint64_t left;
    double value;
};

/* --- sets by density, in leftist heaps (Crane 1972) --- */

/* a is denser than b. Without bytes it is infinitely so. */
static bool is_denser(const struct knapsack *k, uint32_t a, uint32_t b)
{
    const struct preload_node *x = &k->nodes[a], *y = &k->nodes[b];
    double left = x->value * (double)y->bytes, right = y->value * (double)x->bytes;
    if (x->bytes == 0 || y->bytes == 0)
        return x->bytes == 0 && (y->bytes > 0 || a < b);
    if (left < right || left > right)
        return left > right;
    return a < b;
}

static uint32_t rank_of(const struct knapsack *k, uint32_t n)
{
    return n == PRELOAD_NONE ? 0 : k->nodes[n].rank;
}

/* The recursion is as deep as the ranks: log2 of the items. */
static uint32_t merge(struct knapsack *k, uint32_t a, uint32_t b)
{
    if (a == PRELOAD_NONE || b == PRELOAD_NONE)
        return a == PRELOAD_NONE ? b : a;
    if (is_denser(k, b, a)) {
        uint32_t t = a;
        a = b;
        b = t;
    }
    struct preload_node *n = &k->nodes[a];
    n->right = merge(k, n->right, b);
    if (rank_of(k, n->left) < rank_of(k, n->right)) {
        uint32_t t = n->left;
        n->left = n->right;
        n->right = t;
    }
    n->rank = rank_of(k, n->right) + 1;
    return a;
}

static uint32_t pop(struct knapsack *k, uint32_t *heap)
{
    uint32_t top = *heap;
    struct preload_node *n = &k->nodes[top];
    *heap = merge(k, n->left, n->right);
    n->left = n->right = PRELOAD_NONE;
    n->rank = 1;
    return top;
}

/* --- the decomposition --- */

/* The densest set that begins at item i, of the sets that begin at what needs it. */
static void absorb(struct knapsack *k, uint32_t i)
{
    struct preload_node *n = &k->nodes[i];
    while (n->next != PRELOAD_NONE && is_denser(k, n->next, i)) {
        uint32_t top = pop(k, &n->next);
        const struct preload_node *t = &k->nodes[top];
        n->value += t->value;
        n->bytes += t->bytes;
        k->nodes[n->last].member = top;
        n->last = t->last;
        n->next = merge(k, n->next, t->next);
    }
}

/* Returns the heap of the sets that may be taken first. */
static uint32_t decompose(struct knapsack *k)
{
    uint32_t heap = PRELOAD_NONE;
    for (uint32_t i = 0; i < k->count; i++) {
        const struct preload_item *item = &k->items[i];
        struct preload_node *n = &k->nodes[i];
        assert(item->needs == PRELOAD_NONE || item->needs < i);
        n->value = item->value;
        n->bytes = item->bytes;
        n->left = n->right = n->next = n->member = PRELOAD_NONE;
        n->rank = 1;
        n->last = i;
    }
    for (uint32_t i = k->count; i-- > 0;) {
        uint32_t needs = k->items[i].needs;
        if (k->nodes[i].chosen)
            continue;
        absorb(k, i);
        uint32_t *to =
            needs == PRELOAD_NONE || k->nodes[needs].chosen ? &heap : &k->nodes[needs].next;
        *to = merge(k, *to, i);
    }
    return heap;
}

/* --- filling --- */

static bool take(struct knapsack *k, uint32_t i)
{
    const struct preload_item *item = &k->items[i];
    bool is_open = item->needs == PRELOAD_NONE || k->nodes[item->needs].chosen;
    if (!is_open || item->bytes > k->left)
        return false;
    k->nodes[i].chosen = true;
    k->left -= item->bytes;
    k->value += item->value;
    return true;
}

/* A set that does not fit gives what of it does, in its order. */
static void fill(struct knapsack *k)
{
    uint32_t heap = decompose(k);
    while (heap != PRELOAD_NONE) {
        uint32_t set = pop(k, &heap);
        for (uint32_t i = set; i != PRELOAD_NONE; i = k->nodes[i].member)
            (void)take(k, i);
        heap = merge(k, heap, k->nodes[set].next);
    }
}

/* Item i and all that it needs, first of all. False when that does not fit. */
static bool take_with_needs(struct knapsack *k, uint32_t i)
{
    uint64_t bytes = 0;
    for (uint32_t n = i; n != PRELOAD_NONE && !k->nodes[n].chosen; n = k->items[n].needs)
        bytes += k->items[n].bytes;
    if (bytes > k->left)
        return false;
    k->left -= bytes;
    for (uint32_t n = i; n != PRELOAD_NONE && !k->nodes[n].chosen; n = k->items[n].needs) {
        k->nodes[n].chosen = true;
        k->value += k->items[n].value;
    }
    return true;
}

/* One run, with item `first` taken first unless it is PRELOAD_NONE; kept when it is the best. */
static void run(struct knapsack *k, uint64_t capacity, uint32_t first, double *best)
{
    k->left = capacity;
    k->value = 0;
    for (uint32_t i = 0; i < k->count; i++)
        k->nodes[i].chosen = k->items[i].chosen;
    if (first != PRELOAD_NONE && !take_with_needs(k, first))
        return;
    fill(k);
    if (k->value <= *best)
        return;
    *best = k->value;
    for (uint32_t i = 0; i < k->count; i++)
        k->nodes[i].best = k->nodes[i].chosen;
}

/* The most valuable item that comes after `last` in that order; PRELOAD_NONE when there is none. */
static uint32_t next_valuable(const struct knapsack *k, uint32_t last)
{
    uint32_t next = PRELOAD_NONE;
    for (uint32_t i = 0; i < k->count; i++) {
        double v = k->items[i].value;
        if (k->items[i].chosen || v <= 0)
            continue;
        if (last != PRELOAD_NONE &&
            (v > k->items[last].value || (v >= k->items[last].value && i <= last)))
            continue;
        if (next == PRELOAD_NONE || v > k->items[next].value)
            next = i;
    }
    return next;
}

/* Where there is room for everything, nothing has to be weighed: what has a value comes, with what
 * it needs. */
static bool take_all(struct preload_item *items, uint32_t count, uint64_t capacity, double *ret)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t more = items[i].chosen ? 0 : items[i].bytes;
        if (more > capacity - bytes)
            return false;
        bytes += more;
    }
    *ret = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (items[i].value <= 0)
            continue;
        for (uint32_t n = i; n != PRELOAD_NONE && !items[n].chosen; n = items[n].needs) {
            items[n].chosen = true;
            *ret += items[n].value;
        }
    }
    return true;
}

double preload_plan(struct preload_item *items, uint32_t count, uint64_t capacity,
                    struct preload_node *nodes)
{
    struct knapsack k = {.items = items, .nodes = nodes, .count = count};
    double best = 0;
    if (take_all(items, count, capacity, &best))
        return best;
    for (uint32_t i = 0; i < count; i++)
        nodes[i].best = items[i].chosen;
    run(&k, capacity, PRELOAD_NONE, &best);
    uint32_t tries = count == 0 ? 0 : TRIED_ITEMS / count;
    tries = tries < TRIES_MAX ? tries : TRIES_MAX;
    uint32_t first = PRELOAD_NONE;
    for (uint32_t i = 0; i < tries; i++) {
        first = next_valuable(&k, first);
        if (first == PRELOAD_NONE)
            break;
        run(&k, capacity, first, &best);
    }
    for (uint32_t i = 0; i < count; i++)
        items[i].chosen = nodes[i].best;
    return best;
}
