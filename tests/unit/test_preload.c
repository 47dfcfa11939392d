/*
 * The preloading plan: what it promises of every plan, small ones by hand, and how far it is from
 * the best there is, which is found by trying every closed subset.
 */
#include "policy/preload.h"

#include "unit/seeded.h"

#include <stdio.h>
#include <string.h>

#define SMALL 12u
#define LARGE 5000u

struct instance {
    struct preload_item items[LARGE];
    struct preload_node nodes[LARGE];
    bool was_chosen[LARGE];
    uint32_t count;
    uint64_t capacity;
};

static double plan(struct instance *k)
{
    for (uint32_t i = 0; i < k->count; i++)
        k->was_chosen[i] = k->items[i].chosen;
    return preload_plan(k->items, k->count, k->capacity, k->nodes);
}

/* --- instances --- */

static uint64_t bytes_of(const struct instance *k)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < k->count; i++)
        bytes += k->items[i].bytes;
    return bytes;
}

/* Any forest: what an item needs is any earlier one, so that chains are deep. */
static void make_forest(struct seeded *c, struct instance *k, uint32_t count)
{
    k->count = count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = seeded_one_in(c, 3) ? 100 + seeded_pick(c, 1000) : 1 + seeded_pick(c, 100);
        bool is_root = i == 0 || seeded_one_in(c, 3);
        k->items[i] = (struct preload_item){.value = seeded_pick(c, 1000),
                                            .bytes = bytes,
                                            .needs = is_root ? PRELOAD_NONE : seeded_pick(c, i)};
    }
}

/* As the header names them: backbones, and on each a started process and adapters. */
static void make_backbones(struct seeded *c, struct instance *k, uint32_t count)
{
    uint32_t backbone = PRELOAD_NONE;
    k->count = count;
    for (uint32_t i = 0; i < count; i++) {
        bool is_backbone = backbone == PRELOAD_NONE || seeded_one_in(c, 4);
        uint32_t kind = seeded_pick(c, 3); /* 0: a process */
        k->items[i] = (struct preload_item){.needs = is_backbone ? PRELOAD_NONE : backbone};
        k->items[i].bytes = is_backbone ? 500 + seeded_pick(c, 2000)
                            : kind == 0 ? 60 + seeded_pick(c, 100)
                                        : 5 + seeded_pick(c, 80);
        k->items[i].value = seeded_pick(c, is_backbone ? 3000 : 300);
        backbone = is_backbone ? i : backbone;
    }
}

/* Some are there for good, with what they need, as in use; of others what they need may go, and
 * some weigh or are worth nothing. */
static void make_odd(struct seeded *c, struct instance *k)
{
    for (uint32_t i = 0; i < k->count; i++) {
        struct preload_item *item = &k->items[i];
        item->value = seeded_one_in(c, 8) ? 0 : item->value;
        item->bytes = seeded_one_in(c, 8) ? 0 : item->bytes;
        item->chosen = seeded_one_in(c, 6);
        for (uint32_t n = i; item->chosen && !seeded_one_in(c, 5) && n != PRELOAD_NONE;
             n = k->items[n].needs)
            k->items[n].chosen = true;
    }
}

static void make(struct seeded *c, struct instance *k, uint32_t count, bool odd)
{
    if (seeded_one_in(c, 2))
        make_forest(c, k, count);
    else
        make_backbones(c, k, count);
    if (odd)
        make_odd(c, k);
    k->capacity = bytes_of(k) * (5 + seeded_pick(c, 90)) / 100;
}

/* --- what every plan is --- */

static void check_plan(const struct seeded *c, const struct instance *k, double value)
{
    uint64_t bytes = 0;
    double sum = 0;
    for (uint32_t i = 0; i < k->count; i++) {
        const struct preload_item *item = &k->items[i];
        assert_seeded(c, item->chosen || !k->was_chosen[i]); /* what is in use is kept */
        if (!item->chosen || k->was_chosen[i])
            continue;
        assert_seeded(c, item->needs == PRELOAD_NONE || k->items[item->needs].chosen);
        bytes += item->bytes;
        sum += item->value;
    }
    assert_seeded(c, bytes <= k->capacity);
    assert_seeded(c, sum >= value - 1e-6 && sum <= value + 1e-6);
}

static void test_plans_keep_their_promises(void **state)
{
    (void)state;
    struct instance *k = calloc(1, sizeof *k);
    assert_non_null(k);
    for (struct seeded c = seeded_cases(5000); seeded_next(&c);) {
        make(&c, k, 1 + seeded_pick(&c, 60), true);
        check_plan(&c, k, plan(k));
    }
    /* Large ones: fewer are tried first, in the end none. */
    for (struct seeded c = seeded_cases(40); seeded_next(&c);) {
        make(&c, k, 300 + seeded_pick(&c, LARGE - 300), true);
        check_plan(&c, k, plan(k));
    }
    free(k);
}

/* One chain as long as the table, and one item that everything needs. */
static void test_shapes(void **state)
{
    (void)state;
    struct instance *k = calloc(1, sizeof *k);
    assert_non_null(k);
    struct seeded c = seeded_cases(1);
    for (uint32_t shape = 0; shape < 2; shape++) {
        k->count = LARGE;
        for (uint32_t i = 0; i < LARGE; i++)
            k->items[i] = (struct preload_item){.value = 1,
                                                .bytes = 1,
                                                .needs = i == 0       ? PRELOAD_NONE
                                                         : shape == 0 ? i - 1
                                                                      : 0};
        k->capacity = LARGE / 2;
        double value = plan(k);
        check_plan(&c, k, value);
        assert_float_equal(value, LARGE / 2, 0); /* as many as fit */
    }
    free(k);
}

/* So many that none is tried first: density alone must see what an adapter makes its backbone
 * worth, which by itself is worth nothing. */
static void test_a_set_is_as_dense_as_its_parts(void **state)
{
    (void)state;
    struct instance *k = calloc(1, sizeof *k);
    struct seeded c = seeded_cases(1);
    uint32_t sets = 1500;
    assert_non_null(k);
    k->count = 3 * sets;
    for (uint32_t i = 0; i < k->count; i += 3) {
        k->items[i] = (struct preload_item){.bytes = 100, .needs = PRELOAD_NONE};
        k->items[i + 1] = (struct preload_item){.value = 900, .bytes = 10, .needs = i};
        k->items[i + 2] =
            (struct preload_item){.value = i % 2 ? 90 : 700, .bytes = 100, .needs = PRELOAD_NONE};
    }
    k->capacity = UINT64_C(110) * sets; /* 900 of 110 before 700 of 100 */
    double value = plan(k);
    check_plan(&c, k, value);
    assert_float_equal(value, 900.0 * sets, 0);
    free(k);
}

/* --- by hand --- */

/* Expects what is chosen as one letter for each item: '#' or '.'. */
static void expect(const char *what, struct preload_item *items, uint64_t capacity,
                   const char *chosen)
{
    struct preload_node nodes[SMALL];
    char got[SMALL + 1] = "";
    uint32_t count = (uint32_t)strlen(chosen);
    (void)preload_plan(items, count, capacity, nodes);
    for (uint32_t i = 0; i < count; i++)
        got[i] = items[i].chosen ? '#' : '.';
    if (strcmp(got, chosen) != 0)
        fail_msg("%s: \"%s\", not \"%s\"", what, got, chosen);
}

static void test_by_hand(void **state)
{
    (void)state;
#define NONE PRELOAD_NONE
    expect("denser first", (struct preload_item[]){{10, 10, NONE, 0}, {30, 10, NONE, 0}}, 10, ".#");
    expect("of equals the smaller number",
           (struct preload_item[]){{5, 10, NONE, 0}, {5, 10, NONE, 0}, {5, 10, NONE, 0}}, 20,
           "##.");
    expect("a backbone for what hangs on it",
           (struct preload_item[]){{0, 100, NONE, 0}, {900, 10, 0, 0}, {300, 110, NONE, 0}}, 110,
           "##.");
    expect("an adapter does not come without its backbone",
           (struct preload_item[]){{0, 100, NONE, 0}, {900, 10, 0, 0}, {1, 50, NONE, 0}}, 50,
           "..#");
    expect("it does where that is there for good",
           (struct preload_item[]){{0, 0, NONE, 1}, {900, 10, 0, 0}, {1, 50, NONE, 0}}, 50, "##.");
    expect("what is in use stays, worth or not",
           (struct preload_item[]){{0, 0, NONE, 1}, {9, 10, NONE, 0}}, 0, "#.");
    expect("what is worth nothing does not come",
           (struct preload_item[]){{0, 10, NONE, 0}, {0, 0, NONE, 0}}, 100, "..");
    /* Density alone takes the small one, and the large one does not fit any more. */
    expect("a large thing before a dense one",
           (struct preload_item[]){{2, 1, NONE, 0}, {100, 100, NONE, 0}}, 100, ".#");
    expect("a large whole before a dense one",
           (struct preload_item[]){{2, 1, NONE, 0}, {0, 90, NONE, 0}, {100, 10, 1, 0}}, 100, ".##");
    expect("of a set that does not fit, what of it does",
           (struct preload_item[]){{10, 50, NONE, 0}, {90, 10, 0, 0}, {80, 10, 0, 0}}, 60, "##.");
    expect("nothing fits", (struct preload_item[]){{10, 50, NONE, 0}}, 49, ".");
    expect("nothing is there", (struct preload_item[]){{10, 50, NONE, 0}}, 0, ".");
    expect("no item", (struct preload_item[]){{0}}, 100, "");
    /* Spare on backbone, kernels on context: two levels, and the better of two trees. */
    expect("two levels",
           (struct preload_item[]){
               {1, 60, NONE, 0}, {1, 60, NONE, 0}, {5, 20, 0, 0}, {5, 20, 1, 0}, {500, 20, 3, 0}},
           100, ".#.##");
#undef NONE
}

/* --- against the best there is --- */

/* The most valuable closed subset, by trying all: bit i is item i. */
static double best_of(const struct instance *k)
{
    static double value[1u << SMALL];
    static uint64_t bytes[1u << SMALL];
    static bool is_closed[1u << SMALL];
    double best = 0;
    value[0] = 0;
    bytes[0] = 0;
    is_closed[0] = true;
    for (uint32_t set = 1; set < 1u << k->count; set++) {
        /* What an item needs is an earlier one: without its last item a closed set is closed. */
        uint32_t last = 31 - (uint32_t)__builtin_clz(set), rest = set & ~(1u << last);
        const struct preload_item *item = &k->items[last];
        bool has_needs =
            item->needs == PRELOAD_NONE || k->items[item->needs].chosen || rest >> item->needs & 1;
        value[set] = value[rest] + item->value;
        bytes[set] = bytes[rest] + item->bytes;
        is_closed[set] = is_closed[rest] && has_needs && !item->chosen;
        if (is_closed[set] && bytes[set] <= k->capacity && value[set] > best)
            best = value[set];
    }
    return best;
}

struct gaps {
    double sum, worst;
    uint64_t worst_seed;
    uint32_t count, none;
};

static void add_gap(struct gaps *g, const struct seeded *c, double best, double value)
{
    double gap = best > 0 ? 1 - value / best : 0;
    assert_seeded(c, gap >= -1e-12); /* or the best was not */
    g->sum += gap;
    g->count++;
    g->none += gap < 1e-12;
    if (gap <= g->worst)
        return;
    g->worst = gap;
    g->worst_seed = c->seed;
}

static void tell(const char *what, const struct gaps *g)
{
    print_message("%s: %u plans, mean gap %.3f %%, worst %.1f %% (seed %llu), %.1f %% are best\n",
                  what, g->count, 100 * g->sum / g->count, 100 * g->worst,
                  (unsigned long long)g->worst_seed, 100.0 * g->none / g->count);
}

static void test_gap_to_the_best(void **state)
{
    (void)state;
    struct instance *k = calloc(1, sizeof *k);
    struct gaps forests = {0}, backbones = {0};
    assert_non_null(k);
    for (struct seeded c = seeded_cases(10000); seeded_next(&c);) {
        bool is_forest = c.seed % 2 == 0;
        uint32_t count = 1 + seeded_pick(&c, SMALL);
        if (is_forest)
            make_forest(&c, k, count);
        else
            make_backbones(&c, k, count);
        if (seeded_one_in(&c, 4))
            make_odd(&c, k);
        k->capacity = bytes_of(k) * (10 + seeded_pick(&c, 80)) / 100;
        double best = best_of(k);
        add_gap(is_forest ? &forests : &backbones, &c, best, plan(k));
    }
    free(k);
    if (getenv("SLLORA_SEED") != NULL)
        return;
    tell("forests", &forests);
    tell("backbones", &backbones);
    assert_true(forests.count + backbones.count == 10000);
    assert_true((forests.sum + backbones.sum) / 10000 <= 0.02);
    /* Each kind by itself is better than what is promised of both. */
    assert_true(forests.sum / forests.count <= 0.003);
    assert_true(backbones.sum / backbones.count <= 0.003);
}

/* Where nothing needs anything, what is taken by density together with the best single item is
 * worth half of the best at least (the classical bound of the greedy knapsack). */
static void test_half_of_the_best_without_needs(void **state)
{
    (void)state;
    struct instance *k = calloc(1, sizeof *k);
    assert_non_null(k);
    for (struct seeded c = seeded_cases(3000); seeded_next(&c);) {
        make_forest(&c, k, 1 + seeded_pick(&c, SMALL));
        for (uint32_t i = 0; i < k->count; i++) {
            k->items[i].needs = PRELOAD_NONE;
            if (seeded_one_in(&c, 3)) /* small and dense beside large and nearly as dense */
                k->items[i].value = (double)k->items[i].bytes + seeded_pick(&c, 3);
        }
        k->capacity = bytes_of(k) * (5 + seeded_pick(&c, 90)) / 100;
        double best = best_of(k);
        assert_seeded(&c, plan(k) >= best / 2);
    }
    free(k);
}

/* The same question has the same answer, whatever was in the working memory. */
static void test_deterministic(void **state)
{
    (void)state;
    struct instance *k = calloc(2, sizeof *k);
    assert_non_null(k);
    for (struct seeded c = seeded_cases(500); seeded_next(&c);) {
        make(&c, k, 1 + seeded_pick(&c, 80), true);
        k[1] = k[0];
        memset(k[0].nodes, 0x5a, sizeof k[0].nodes);
        memset(k[1].nodes, 0xc3, sizeof k[1].nodes);
        double first = plan(&k[0]), second = plan(&k[1]);
        assert_seeded(&c, !(first < second) && !(first > second));
        for (uint32_t i = 0; i < k->count; i++)
            assert_seeded(&c, k[0].items[i].chosen == k[1].items[i].chosen);
    }
    free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_plans_keep_their_promises),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_a_set_is_as_dense_as_its_parts),
        cmocka_unit_test(test_gap_to_the_best),
        cmocka_unit_test(test_half_of_the_best_without_needs),
        cmocka_unit_test(test_deterministic),
    };
    return cmocka_run_group_tests_name("preload", tests, NULL, NULL);
}
