/*
 * Records between the daemon and its processes: what is put comes out as it was, with its
 * descriptors, and what is no record, or has more descriptors than its type may, is refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "wire/wire.h"

struct ends {
    int fds[2];
    struct wire_out out;
    struct chan_message in;
    struct wire_cursor cursor;
};

static int setup(void **state)
{
    struct ends *e = calloc(1, sizeof *e);
    struct error err = {0};
    *state = e;
    return e == NULL ? -1 : chan_pair(e->fds, &err);
}

static int teardown(void **state)
{
    struct ends *e = *state;
    chan_message_clear(&e->in);
    close(e->fds[0]);
    close(e->fds[1]);
    free(e);
    return 0;
}

static void pass(struct ends *e)
{
    chan_message_clear(&e->in);
    assert_int_equal(chan_send(e->fds[0], e->out.bytes, e->out.len, e->out.fds, e->out.fd_count, 0),
                     0);
    assert_int_equal(chan_receive(e->fds[1], &e->in, 0), 1);
    wire_begin(&e->cursor, &e->in);
}

static void put_attach(struct ends *e, uint32_t threads, const int *fds, uint32_t count)
{
    const struct wire_attach a = {.threads = threads};
    assert_true(wire_put_fds(&e->out, WIRE_ATTACH, &a, sizeof a, NULL, 0, fds, count));
}

static void next_attach(struct ends *e, uint32_t threads, uint32_t fds)
{
    struct wire_record r;
    assert_int_equal(wire_next(&e->cursor, &r), 1);
    assert_int_equal(r.type, WIRE_ATTACH);
    assert_int_equal(((const struct wire_attach *)r.fixed)->threads, threads);
    assert_int_equal(r.fd_count, fds);
    for (uint32_t i = 0; i < fds; i++) {
        int fd = wire_take_fd(&e->cursor, &r, i);
        assert_true(fd >= 0);
        close(fd);
    }
    assert_int_equal(wire_take_fd(&e->cursor, &r, fds), -1);
}

/* Records with none, one and two of them: each gets its own. */
static void test_descriptors(void **state)
{
    struct ends *e = *state;
    const int fds[] = {STDIN_FILENO, STDOUT_FILENO};
    for (uint32_t i = 0; i < 6; i++)
        put_attach(e, i, fds, i % 3);
    pass(e);
    for (uint32_t i = 0; i < 6; i++)
        next_attach(e, i, i % 3);
    struct wire_record r;
    assert_int_equal(wire_next(&e->cursor, &r), 0);
}

/* A record goes into a message with all of its descriptors, or not at all. */
static void test_a_full_message(void **state)
{
    struct ends *e = *state;
    const int fds[] = {STDIN_FILENO, STDOUT_FILENO};
    const struct wire_attach a = {.threads = 1};
    put_attach(e, 0, fds, 1);
    for (uint32_t i = 0; i < CHAN_FDS_MAX / 2 - 1; i++)
        put_attach(e, 0, fds, 2);
    size_t len = e->out.len;
    assert_false(wire_put_fds(&e->out, WIRE_ATTACH, &a, sizeof a, NULL, 0, fds, 2));
    assert_int_equal(e->out.len, len);
    assert_int_equal(e->out.fd_count, CHAN_FDS_MAX - 1);
    put_attach(e, 0, fds, 1);
}

static void *header_of(struct ends *e)
{
    return e->out.bytes;
}

/* Of a process that was taken over. */
static void test_too_many_descriptors(void **state)
{
    static const struct {
        enum wire_type type;
        uint32_t most;
    } cases[] = {{WIRE_LOADED, 2}, {WIRE_ATTACH, 2}, {WIRE_BIND, 1}, {WIRE_READY, 0},
                 {WIRE_DONE, 0},   {WIRE_FORKED, 1}, {WIRE_FILE, 1}};
    struct ends *e = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (uint32_t count = 0; count <= cases[i].most + 1; count++) {
            static const uint8_t fixed[512];
            struct wire_record r;
            e->out.len = e->out.fd_count = 0;
            assert_true(wire_put(&e->out, cases[i].type, fixed, wire_fixed_bytes(cases[i].type),
                                 NULL, 0, -1));
            ((struct wire_header *)header_of(e))->fd_count = (uint16_t)count;
            for (uint32_t k = 0; k < count; k++)
                e->out.fds[e->out.fd_count++] = STDIN_FILENO;
            pass(e);
            assert_int_equal(wire_next(&e->cursor, &r), count <= cases[i].most ? 1 : -EBADMSG);
        }
    }
}

/* More than came, a length beyond the message, a type that there is not. */
static void test_no_records(void **state)
{
    struct ends *e = *state;
    struct wire_record r;
    struct wire_header *h = header_of(e);
    put_attach(e, 1, NULL, 0);
    const struct wire_header good = *h;
    const struct wire_header bad[] = {{good.type, 1, good.bytes},
                                      {good.type, 0, good.bytes + 8},
                                      {good.type, 0, good.bytes - 8},
                                      {good.type, 0, UINT32_MAX},
                                      {0, 0, good.bytes},
                                      {WIRE_TYPE_COUNT, 0, good.bytes},
                                      {UINT16_MAX, UINT16_MAX, good.bytes}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        *h = bad[i];
        pass(e);
        assert_int_equal(wire_next(&e->cursor, &r), -EBADMSG);
    }
    *h = good;
    e->out.len = sizeof good - 1;
    pass(e);
    assert_int_equal(wire_next(&e->cursor, &r), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_message, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_records, setup, teardown),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
