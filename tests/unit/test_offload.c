/*
 * What goes when memory is needed: by hand; against its description and against the best of all
 * choices on small instances; and what must be so of every choice.
 */
#include "policy/offload.h"

#include "unit/seeded.h"

#include <stdio.h>
#include <string.h>

#define SMALL 9u
#define LARGE 400u

/* --- instances: backbones with what hangs on them, and things by themselves --- */

static double density(const struct offload_candidate *c)
{
    return c->value / (double)c->bytes;
}

/* A group has parts, and perhaps a whole, which frees itself and them. Values and bytes are small
 * numbers, so that many are equal. */
static uint32_t make(struct seeded *c, struct offload_candidate *out, uint32_t most)
{
    uint32_t count = 0;
    for (uint32_t group = 0; count < most; group++) {
        uint32_t parts = seeded_pick(c, 4), first = count;
        uint64_t bytes = 0;
        double value = 0;
        for (uint32_t i = 0; i < parts && count < most; i++, count++) {
            out[count] = (struct offload_candidate){.value = seeded_pick(c, 8),
                                                    .bytes = 1 + seeded_pick(c, 6),
                                                    .kind = seeded_pick(c, 3),
                                                    .index = count,
                                                    .group = group};
            bytes += out[count].bytes;
            value += out[count].value;
        }
        if (count == most || (count > first && seeded_one_in(c, 3)))
            continue;
        out[count] = (struct offload_candidate){.value = value + seeded_pick(c, 20),
                                                .bytes = bytes + 1 + seeded_pick(c, 20),
                                                .kind = 3,
                                                .index = count,
                                                .group = group,
                                                .is_whole = true};
        count++;
    }
    for (uint32_t i = count; i > 1; i--) { /* the caller's order is any */
        uint32_t k = seeded_pick(c, i);
        struct offload_candidate t = out[k];
        out[k] = out[i - 1];
        out[i - 1] = t;
    }
    return count;
}

static const struct offload_candidate *whole_of(const struct offload_candidate *c, uint32_t count,
                                                uint32_t group)
{
    for (uint32_t i = 0; i < count; i++)
        if (c[i].group == group && c[i].is_whole)
            return &c[i];
    return NULL;
}

/* Bytes that come free at most: every whole, and the parts of groups that have none. */
static uint64_t all_bytes(const struct offload_candidate *c, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += c[i].is_whole || !whole_of(c, count, c[i].group) ? c[i].bytes : 0;
    return bytes;
}

/* --- the description, by sets of candidates: bit i is the one with index i --- */

struct sorted {
    struct offload_candidate c[SMALL];
    uint32_t count;
};

/* By insertion, as the numbers are few: the density, then kind and index. */
static struct sorted sorted_of(const struct offload_candidate *c, uint32_t count)
{
    struct sorted s = {.count = count};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = i;
        for (; at > 0; at--) {
            const struct offload_candidate *before = &s.c[at - 1];
            double l = before->value * (double)c[i].bytes, r = c[i].value * (double)before->bytes;
            if (l < r || (l <= r && (before->kind < c[i].kind ||
                                     (before->kind == c[i].kind && before->index < c[i].index))))
                break;
            s.c[at] = *before;
        }
        s.c[at] = c[i];
    }
    return s;
}

/* The first `n` in order, without the parts of the wholes among them. */
static uint32_t first_of(const struct sorted *s, uint32_t n, uint64_t *ret_bytes)
{
    uint32_t set = 0;
    *ret_bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!s->c[i].is_whole && whole_of(s->c, n, s->c[i].group))
            continue;
        set |= 1u << s->c[i].index;
        *ret_bytes += s->c[i].bytes;
    }
    return set;
}

static uint32_t described(const struct offload_candidate *c, uint32_t count, uint64_t bytes)
{
    struct sorted s = sorted_of(c, count);
    uint64_t freed = 0;
    uint32_t n = 0, set = 0;
    while (freed < bytes && n < count)
        set = first_of(&s, ++n, &freed);
    if (freed < bytes)
        return 0;
    for (uint32_t i = n; i-- > 0;) {
        if (!(set >> s.c[i].index & 1) || freed - s.c[i].bytes < bytes)
            continue;
        freed -= s.c[i].bytes;
        set &= ~(1u << s.c[i].index);
    }
    return set;
}

/* The least value that any closed set which frees enough has; below 0: there is none. */
static double least_value(const struct offload_candidate *c, uint32_t count, uint64_t bytes)
{
    double least = -1;
    for (uint32_t set = 0; set < 1u << count; set++) {
        uint64_t freed = 0;
        double value = 0;
        for (uint32_t i = 0; i < count; i++) {
            const struct offload_candidate *whole = whole_of(c, count, c[i].group);
            bool is_covered = whole && !c[i].is_whole && set >> (whole - c) & 1;
            if (!(set >> i & 1) || is_covered)
                continue;
            freed += c[i].bytes;
            value += c[i].value;
        }
        if (freed >= bytes && (least < 0 || value < least))
            least = value;
    }
    return least;
}

/* --- tests --- */

/* Nothing is lost or made up by reordering. */
static void check_same(const struct seeded *c, const struct offload_candidate *before,
                       const struct offload_candidate *after, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t found = 0;
        for (uint32_t k = 0; k < count; k++)
            found += before[i].index == after[k].index && before[i].kind == after[k].kind &&
                     before[i].bytes == after[k].bytes && before[i].group == after[k].group &&
                     before[i].is_whole == after[k].is_whole &&
                     !(before[i].value < after[k].value || before[i].value > after[k].value);
        assert_seeded(c, found == 1);
    }
}

static void check_choice(const struct seeded *c, const struct offload_candidate *all,
                         uint32_t count, uint32_t chosen, uint64_t bytes)
{
    uint64_t freed = 0;
    for (uint32_t i = 0; i < chosen; i++) {
        freed += all[i].bytes;
        /* A backbone goes with what hangs on it, once. */
        assert_seeded(c, all[i].is_whole || !whole_of(all, chosen, all[i].group));
        assert_seeded(c, i == 0 || density(&all[i - 1]) <= density(&all[i]) + 1e-12);
    }
    if (chosen == 0) {
        assert_seeded(c, bytes == 0 || all_bytes(all, count) < bytes);
        return;
    }
    assert_seeded(c, freed >= bytes);
    for (uint32_t i = 0; i < chosen; i++) /* nothing goes in vain */
        assert_seeded(c, freed - all[i].bytes < bytes);
}

static void test_every_choice(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(4000); seeded_next(&c);) {
        struct offload_candidate all[LARGE], before[LARGE];
        uint32_t count = make(&c, all, 1 + seeded_pick(&c, seeded_one_in(&c, 20) ? LARGE : 30));
        uint64_t bytes = seeded_pick(&c, (uint32_t)all_bytes(all, count) + 4);
        memcpy(before, all, sizeof before);
        uint32_t chosen = offload_choose(all, count, bytes);
        assert_seeded(&c, chosen <= count);
        check_same(&c, before, all, count);
        check_choice(&c, all, count, chosen, bytes);
    }
}

static void test_as_described(void **state)
{
    (void)state;
    double sum = 0, best = 0;
    uint32_t same = 0, cases = 0;
    for (struct seeded c = seeded_cases(10000); seeded_next(&c);) {
        struct offload_candidate all[SMALL];
        uint32_t count = make(&c, all, 1 + seeded_pick(&c, SMALL)), set = 0;
        uint64_t bytes = 1 + seeded_pick(&c, (uint32_t)all_bytes(all, count) + 2);
        uint32_t expected = described(all, count, bytes);
        double least = least_value(all, count, bytes), value = 0;
        uint32_t chosen = offload_choose(all, count, bytes);
        for (uint32_t i = 0; i < chosen; i++) {
            set |= 1u << all[i].index;
            value += all[i].value;
        }
        assert_seeded(&c, set == expected);
        assert_seeded(&c, (chosen == 0) == (least < 0));
        assert_seeded(&c, chosen == 0 || value >= least);
        if (chosen == 0)
            continue;
        cases++;
        same += value <= least;
        sum += value;
        best += least;
    }
    if (getenv("SLLORA_SEED") != NULL)
        return;
    print_message("gives up %.2f times the value that it must, the least in %.1f %% of %u\n",
                  sum / best, 100.0 * same / cases, cases);
    assert_true(sum / best < 1.15);
}

/* Expects the indices that go, in order. */
static void expect(const char *what, const struct offload_candidate *from, uint32_t count,
                   uint64_t bytes, const char *indices)
{
    struct offload_candidate all[SMALL];
    char got[SMALL + 1] = "";
    memcpy(all, from, count * sizeof *from);
    uint32_t chosen = offload_choose(all, count, bytes);
    for (uint32_t i = 0; i < chosen; i++)
        got[i] = (char)('0' + all[i].index);
    if (strcmp(got, indices) != 0)
        fail_msg("%s, %llu bytes: \"%s\", not \"%s\"", what, (unsigned long long)bytes, got,
                 indices);
}

static void test_by_hand(void **state)
{
    (void)state;
    const struct offload_candidate things[] = {
        {.value = 8, .bytes = 4, .index = 0, .group = 10},
        {.value = 1, .bytes = 4, .index = 1, .group = 11},
        {.value = 0, .bytes = 1, .index = 2, .group = 12},
        {.value = 9, .bytes = 9, .index = 3, .group = 13},
    };
    expect("things", things, 4, 0, "");
    expect("things", things, 4, 1, "2");
    expect("things", things, 4, 2, "1"); /* 2 goes too by density, and is not needed then */
    expect("things", things, 4, 5, "21");
    expect("things", things, 4, 6, "3"); /* 2 and 1 have become needless beside it */
    expect("things", things, 4, 14, "213");
    expect("things", things, 4, 18, "2130");
    expect("things", things, 4, 19, "");
    expect("things", things, 4, UINT64_MAX, "");

    /* A backbone of 20 with a worker of 4 and an adapter of 1 on it. */
    const struct offload_candidate hanging[] = {
        {.value = 40, .bytes = 25, .index = 0, .group = 1, .is_whole = true},
        {.value = 4, .bytes = 4, .kind = 1, .index = 1, .group = 1},
        {.value = 0.5, .bytes = 1, .kind = 2, .index = 2, .group = 1},
        {.value = 12, .bytes = 6, .kind = 3, .index = 3, .group = 2},
    };
    expect("hanging", hanging, 4, 1, "2");
    expect("hanging", hanging, 4, 4, "1");
    expect("hanging", hanging, 4, 5, "21");
    expect("hanging", hanging, 4, 6, "0"); /* the whole in the place of its parts */
    expect("hanging", hanging, 4, 25, "0");
    expect("hanging", hanging, 4, 26, "03"); /* its parts are in the 25 already */
    expect("hanging", hanging, 4, 31, "03");
    expect("hanging", hanging, 4, 32, "");

    const struct offload_candidate equal[] = {
        {.value = 6, .bytes = 3, .kind = 1, .index = 0, .group = 1},
        {.value = 4, .bytes = 2, .kind = 0, .index = 2, .group = 2},
        {.value = 2, .bytes = 1, .kind = 0, .index = 1, .group = 3},
    };
    expect("of equals the smaller kind, then index", equal, 3, 1, "1");
    expect("of equals the smaller kind, then index", equal, 3, 3, "12");
    expect("of equals the smaller kind, then index", equal, 3, 6, "120");
    expect("nothing", equal, 0, 1, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_every_choice),
        cmocka_unit_test(test_as_described),
    };
    return cmocka_run_group_tests_name("offload", tests, NULL, NULL);
}
