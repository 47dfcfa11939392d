/*
 * The processes that bring images into memory, as the daemon runs them: in their sandbox, at the
 * other end of a channel. What is whole arrives under its number, what is not is said so and keeps
 * nobody else waiting, and what is no order ends the process with a sentence.
 */
#include "unit/image_order.h"

#include "base/cleanup.h"
#include "unit/role_process.h"

#define PAIRS_MAX (CHAN_FDS_MAX / 2)

/* --- in the child --- */

static int case_stager(uint32_t features)
{
    return run_role(role_stager, features);
}

static int case_keeper(uint32_t features)
{
    return run_role(role_keeper, features);
}

static const struct child_case CASES[] = {{"stager", case_stager}, {"keeper", case_keeper}};

/* --- orders --- */

static void put_target(struct process *p, int fd)
{
    const struct wire_target t = {0};
    put(p, WIRE_TARGET, &t, fd);
}

static void put_load(struct process *p, const struct order *o, uint64_t number, int fd)
{
    const struct wire_load l = {.digest = o->digest, .bytes = o->bytes, .number = number};
    put(p, WIRE_LOAD, &l, fd);
}

static void put_order(struct process *p, const struct order *o, uint64_t number)
{
    put_target(p, o->memory);
    put_load(p, o, number, o->file);
}

/* LOADED of this order. */
static void loaded(struct process *p, const struct order *o, uint64_t number)
{
    struct wire_record r;
    assert_true(receive(p, &r));
    if (r.type == WIRE_FAILED)
        fail_msg("%.*s", (int)r.tail_bytes, (const char *)r.tail);
    assert_int_equal(r.type, WIRE_LOADED);
    const struct wire_loaded *l = r.fixed;
    assert_int_equal(l->number, number);
    assert_int_equal(l->bytes, o->bytes);
    assert_true(l->page_bytes == 4096 || l->page_bytes == SHARE_HUGE_BYTES);
    assert_int_equal(r.fd_count, 0);
    assert_arrived(o);
}

/* --- the stager --- */

static void orders_new(struct order *orders, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        orders[i] = order_new(i % 3 == 2 ? 2 * MIB + i : 5000 * i + 1);
}

static void orders_free(struct order *orders, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        order_free(&orders[i]);
}

static void test_many_in_a_message(void **state)
{
    struct order orders[PAIRS_MAX];
    (void)state;
    orders_new(orders, PAIRS_MAX);
    struct process *p = process_start("stager");
    for (uint32_t i = 0; i < PAIRS_MAX; i++)
        put_order(p, &orders[i], 100 + i);
    send_out(p);
    for (uint32_t i = 0; i < PAIRS_MAX; i++)
        loaded(p, &orders[i], 100 + i);
    process_ends(p, 0);
    orders_free(orders, PAIRS_MAX);
}

/* An order ends wherever a message does: bit i of `cuts` is a message's end after record i. */
static void test_split_anywhere(void **state)
{
    (void)state;
    struct process *p = process_start("stager");
    for (uint32_t cuts = 0; cuts < 32; cuts++) {
        struct order orders[3];
        orders_new(orders, 3);
        for (uint32_t record = 0; record < 6; record++) {
            if (record % 2 == 0)
                put_target(p, orders[record / 2].memory);
            else
                put_load(p, &orders[record / 2], 10 * cuts + record, orders[record / 2].file);
            if (record == 5 || cuts >> record & 1)
                send_out(p);
        }
        for (uint32_t i = 0; i < 3; i++)
            loaded(p, &orders[i], 10 * cuts + 2 * i + 1);
        orders_free(orders, 3);
    }
    process_ends(p, 0);
}

/* Everything that can be wrong with one, between good ones. */
static void test_the_next_is_loaded(void **state)
{
    struct order orders[PAIRS_MAX];
    int pipefd[2];
    (void)state;
    orders_new(orders, PAIRS_MAX);
    assert_int_equal(pipe2(pipefd, O_CLOEXEC), 0);
    cleanup_fd int wrong_size = memfile_create("test", 0, orders[3].bytes + 1);
    char flipped = (char)(orders[1].image[4000] ^ 1);
    assert_int_equal(pwrite(orders[1].file, &flipped, 1, 4000), 1);
    assert_int_equal(ftruncate(orders[2].file, (off_t)orders[2].bytes - 7), 0);
    struct process *p = process_start("stager");
    put_order(p, &orders[0], 1);
    put_order(p, &orders[1], 2);
    put_order(p, &orders[2], 3);
    put_target(p, wrong_size);
    put_load(p, &orders[3], 4, orders[3].file);
    put_target(p, pipefd[1]);
    put_load(p, &orders[4], 5, orders[4].file);
    put_target(p, orders[5].reader); /* which nobody may write */
    put_load(p, &orders[5], 6, orders[5].file);
    put_target(p, orders[6].memory);
    put_load(p, &orders[6], 7, pipefd[0]);
    put_order(p, &orders[7], 8);
    send_out(p);
    loaded(p, &orders[0], 1);
    failed(p, WIRE_FAILED_SLOT, 2, EBADMSG, "damaged");
    failed(p, WIRE_FAILED_SLOT, 3, EIO, "7 too early");
    failed(p, WIRE_FAILED_SLOT, 4, EINVAL, "no memory for a share");
    failed(p, WIRE_FAILED_SLOT, 5, EINVAL, "no memory for a share");
    failed(p, WIRE_FAILED_SLOT, 6, 0, "");
    failed(p, WIRE_FAILED_SLOT, 7, EIO, "cannot read");
    loaded(p, &orders[7], 8);
    for (uint32_t i = 1; i < 7; i++)
        assert_not_sealed(&orders[i]);
    /* And mended ones are loaded later. */
    assert_int_equal(pwrite(orders[1].file, &orders[1].image[4000], 1, 4000), 1);
    put_order(p, &orders[1], 9);
    send_out(p);
    loaded(p, &orders[1], 9);
    process_ends(p, 0);
    close(pipefd[0]);
    close(pipefd[1]);
    orders_free(orders, PAIRS_MAX);
}

/* More of them than it may have descriptors: each is closed, whatever came of it. */
static void test_keeps_no_descriptor(void **state)
{
    struct order bad = order_new(4096);
    (void)state;
    assert_int_equal(ftruncate(bad.file, 0), 0);
    struct process *p = process_start("stager");
    for (uint64_t i = 0; i < 700; i++) {
        struct order o = order_new(100 + i);
        put_order(p, &bad, 2 * i);
        put_order(p, &o, 2 * i + 1);
        send_out(p);
        failed(p, WIRE_FAILED_SLOT, 2 * i, EIO, "too early");
        loaded(p, &o, 2 * i + 1);
        order_free(&o);
    }
    process_ends(p, 0);
    order_free(&bad);
}

enum nonsense {
    LOAD_ALONE,
    LOAD_TWICE,
    TARGET_TWICE,
    TARGET_WITHOUT_MEMORY,
    LOAD_WITHOUT_IMAGE,
    ANOTHER_RECORD,
    ANOTHER_AFTER_TARGET,
    NO_RECORD,
    NONSENSE_COUNT,
};

static void put_nonsense(struct process *p, enum nonsense what, const struct order *o)
{
    const struct wire_grant grant = {.turn = 1};
    if (what == LOAD_TWICE)
        put_order(p, o, 1);
    if (what == TARGET_TWICE || what == LOAD_WITHOUT_IMAGE || what == ANOTHER_AFTER_TARGET)
        put_target(p, o->memory);
    if (what == TARGET_WITHOUT_MEMORY || what == TARGET_TWICE)
        put_target(p, what == TARGET_TWICE ? o->memory : -1);
    if (what == ANOTHER_RECORD || what == ANOTHER_AFTER_TARGET)
        put(p, WIRE_GRANT, &grant, -1);
    put_load(p, o, 2, what == LOAD_WITHOUT_IMAGE ? -1 : o->file);
    if (what == NO_RECORD)
        memset(p->out.bytes, 0xff, sizeof(struct wire_header));
}

/* The order before is carried out, the process says what is wrong with this and ends. */
static void test_nonsense_ends_it(void **state)
{
    (void)state;
    for (uint32_t what = 0; what < NONSENSE_COUNT; what++) {
        struct order good = order_new(5000), o = order_new(6000);
        struct process *p = process_start("stager");
        if (what != NO_RECORD)
            put_order(p, &good, 77);
        put_nonsense(p, what, &o);
        send_out(p);
        if (what != NO_RECORD)
            loaded(p, &good, 77);
        if (what == LOAD_TWICE)
            loaded(p, &o, 1);
        failed(p, WIRE_FAILED_PROCESS, 0, EPROTO, "a stager takes TARGET and LOAD only");
        nothing_more(p);
        process_ends(p, 1);
        if (what != LOAD_TWICE)
            assert_not_sealed(&o);
        order_free(&good);
        order_free(&o);
    }
}

/* Whenever the daemon goes, it goes: before anything, between two orders, in the middle of one, and
 * while it would answer. */
static void test_closing_ends_the_stager(void **state)
{
    (void)state;
    for (uint32_t when = 0; when < 4; when++) {
        struct order orders[PAIRS_MAX];
        struct process *p = process_start("stager");
        orders_new(orders, PAIRS_MAX);
        if (when > 0) {
            put_order(p, &orders[0], 1);
            send_out(p);
            loaded(p, &orders[0], 1);
        }
        if (when == 2)
            put_target(p, orders[1].memory);
        for (uint32_t i = 1; when == 3 && i < PAIRS_MAX; i++)
            put_order(p, &orders[i], 1 + i);
        if (p->out.len > 0)
            send_out(p);
        process_ends(p, 0);
        orders_free(orders, PAIRS_MAX);
    }
}

/* --- the keeper --- */

/* Its LOADED brings the memory; PROGRESS may come before. Returns how many did. */
static uint32_t kept(struct process *p, const struct order *o, uint64_t number)
{
    struct wire_record r;
    uint32_t steps = 0;
    uint64_t done = 0;
    for (; receive(p, &r) && r.type == WIRE_PROGRESS; steps++) {
        const struct wire_progress *progress = r.fixed;
        assert_true(progress->done > done && progress->done <= o->bytes);
        assert_int_equal(progress->total, o->bytes);
        done = progress->done;
    }
    assert_int_equal(r.type, WIRE_LOADED);
    const struct wire_loaded *l = r.fixed;
    assert_int_equal(l->number, number);
    assert_int_equal(l->bytes, o->bytes);
    cleanup_fd int fd = wire_take_fd(&p->cursor, &r, 0);
    struct share_view v = {0};
    struct error err = {0};
    if (share_map(&v, fd, o->bytes + SHARE_HUGE_BYTES, true, &err) < 0)
        fail_msg("%s", err.text);
    assert_memory_equal(v.data, o->image, o->bytes);
    share_unmap(&v);
    return steps;
}

static void test_keeper_keeps(void **state)
{
    static const struct {
        uint64_t bytes;
        uint32_t steps; /* of PROGRESS */
    } sizes[] = {{1, 0}, {4097, 0}, {5 * MIB + 3, 0}, {130 * MIB + 17, 2}};
    (void)state;
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct order o = order_new(sizes[i].bytes);
        struct process *p = process_start("keeper");
        put_load(p, &o, 40 + i, o.file);
        send_out(p);
        assert_int_equal(kept(p, &o, 40 + i), sizes[i].steps);
        /* It stays, whatever is said to it, until the channel is closed. */
        put_load(p, &o, 50, o.file);
        send_out(p);
        struct pollfd end = {.fd = p->child.pidfd, .events = POLLIN};
        assert_int_equal(poll(&end, 1, 50), 0);
        process_ends(p, 0);
        order_free(&o);
    }
}

static void test_keeper_refuses(void **state)
{
    static const struct {
        const char *words;
        uint32_t status;
    } cases[] = {
        {"damaged", EBADMSG},
        {"too early", EIO},
        {"first record must be LOAD", EPROTO},
        {"without an image", EPROTO},
        {"cannot hold 0 bytes", EINVAL},
    };
    (void)state;
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct order o = order_new(9000);
        struct process *p = process_start("keeper");
        if (i == 0)
            assert_int_equal(pwrite(o.file, o.image + 1, 1, 8999), 1);
        if (i == 1)
            assert_int_equal(ftruncate(o.file, 8999), 0);
        if (i == 2)
            put_target(p, o.memory);
        if (i == 4)
            o.bytes = 0;
        put_load(p, &o, 1, i == 3 ? -1 : o.file);
        send_out(p);
        failed(p, WIRE_FAILED_PROCESS, 0, cases[i].status, cases[i].words);
        nothing_more(p);
        process_ends(p, 1);
        order_free(&o);
    }
}

static void test_closing_ends_the_keeper(void **state)
{
    (void)state;
    process_ends(process_start("keeper"), 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--child") == 0)
        return child_main(argc, argv, CASES, sizeof CASES / sizeof *CASES);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_in_a_message),
        cmocka_unit_test(test_split_anywhere),
        cmocka_unit_test(test_the_next_is_loaded),
        cmocka_unit_test(test_keeps_no_descriptor),
        cmocka_unit_test(test_nonsense_ends_it),
        cmocka_unit_test(test_closing_ends_the_stager),
        cmocka_unit_test(test_keeper_keeps),
        cmocka_unit_test(test_keeper_refuses),
        cmocka_unit_test(test_closing_ends_the_keeper),
    };
    int failures = cmocka_run_group_tests_name("stager", tests, NULL, NULL);
    if (become_ordinary_user(&failures))
        failures = cmocka_run_group_tests_name("stager as ordinary user", tests, NULL, NULL);
    return failures;
}
