/* What was used stays in the ledger: once, for whom, at what price, and all of it. */
#include "unit/ledger_fixture.h"

#include <math.h>

static void add_receipt(struct ledger_world *w, const struct ledger_receipt *r)
{
    assert_int_equal(ledger_add_receipt(w->ledger, r), 0);
}

static void add_idle(struct ledger_world *w, const struct ledger_idle *i)
{
    assert_int_equal(ledger_add_idle(w->ledger, i), 0);
}

/* --- reading bills --- */

#define LINES_MAX 8

struct bill {
    struct ledger_line lines[LINES_MAX];
    size_t count;
};

static int on_line(void *context, const struct ledger_line *l)
{
    struct bill *b = context;
    assert_true(b->count < LINES_MAX);
    b->lines[b->count++] = *l;
    return 0;
}

static struct bill bill_of(struct ledger_world *w, const struct ledger_query *q)
{
    struct bill b = {0};
    struct ledger_reader *reader;
    struct error err = {0};
    if (ledger_reader_open(&reader, w->path, &err) < 0 ||
        ledger_bill(reader, q, on_line, &b, &err) < 0)
        fail_msg("%s", err.text);
    ledger_reader_close(reader);
    return b;
}

static struct ledger_sum sum_of(struct ledger_world *w, uint64_t since_us, uint64_t until_us)
{
    struct ledger_sum s;
    struct ledger_reader *reader;
    struct error err = {0};
    if (ledger_reader_open(&reader, w->path, &err) < 0 ||
        ledger_sum(reader, since_us, until_us, &s, &err) < 0)
        fail_msg("%s", err.text);
    ledger_reader_close(reader);
    return s;
}

/* Three functions of two owners on two days; one request lost, one function only idle. */
static void fill(struct ledger_world *w)
{
    ledger_reopen(w);
    struct ledger_receipt lost = receipt_of("beta", "acme", 3);
    lost.used.completed = 0;
    lost.price = (struct price_items){0};
    struct ledger_receipt later = receipt_of("gamma", "globex", 4);
    later.wall_us = WALL_US + DAY_US;
    struct ledger_receipt first = receipt_of("alpha", "acme", 1);
    struct ledger_receipt second = receipt_of("alpha", "acme", 2);
    struct ledger_idle idle = idle_of("alpha", "acme", WALL_US + DAY_US - 1);
    struct ledger_idle only_idle = idle_of("bare", "globex", WALL_US + DAY_US);
    add_receipt(w, &first);
    add_receipt(w, &second);
    add_receipt(w, &lost);
    ledger_must_commit(w->ledger);
    add_receipt(w, &later);
    add_idle(w, &idle);
    add_idle(w, &only_idle);
    ledger_must_commit(w->ledger);
    assert_int_equal(ledger_waiting(w->ledger), 0);
}

static void test_by_function(void **state)
{
    struct ledger_world *w = *state;
    fill(w);
    struct bill b = bill_of(w, &(struct ledger_query){.until_us = LEDGER_NOW});
    assert_int_equal(b.count, 4);
    static const char *const names[] = {"alpha", "bare", "beta", "gamma"};
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(b.lines[i].function, names[i]);
    const struct ledger_line *a = &b.lines[0];
    assert_string_equal(a->owner, "acme");
    assert_string_equal(a->day, "");
    assert_int_equal(a->requests, 2);
    assert_int_equal(a->lost, 0);
    assert_int_equal(a->prompt_tokens, 80);
    assert_int_equal(a->cached_tokens, 32);
    assert_int_equal(a->new_tokens, 16);
    assert_int_equal(a->device_us, 4000);
    assert_true(a->own_byte_s == GB && a->backbone_byte_s == 0.5 * GB);
    assert_true(a->idle_byte_s == 0.125 * GB);
    const struct price_items expected = {.own = 2,
                                         .backbone = 40,
                                         .device = 600,
                                         .request = 8000,
                                         .prompt = 100000,
                                         .cached = 1200000,
                                         .generated = 14000000,
                                         .idle = 80000000};
    assert_memory_equal(&a->price, &expected, sizeof expected);
    /* One that was only kept has a line of its own; what was lost is shown and costs nothing. */
    assert_int_equal(b.lines[1].requests, 0);
    assert_int_equal(price_total(&b.lines[1].price), 80000000);
    assert_int_equal(b.lines[2].lost, 1);
    assert_int_equal(price_total(&b.lines[2].price), 0);
    assert_int_equal(b.lines[2].device_us, 2000);
}

static void test_by_owner_and_day(void **state)
{
    struct ledger_world *w = *state;
    fill(w);
    struct ledger_query q = {.until_us = LEDGER_NOW, .group = LEDGER_BY_OWNER};
    struct bill b = bill_of(w, &q);
    assert_int_equal(b.count, 2);
    assert_string_equal(b.lines[0].owner, "acme");
    assert_string_equal(b.lines[0].function, "");
    assert_int_equal(b.lines[0].requests, 3);
    assert_int_equal(b.lines[0].price.idle, 80000000);
    assert_string_equal(b.lines[1].owner, "globex");
    assert_int_equal(b.lines[1].requests, 1);
    q.group = LEDGER_BY_DAY;
    b = bill_of(w, &q);
    assert_int_equal(b.count, 2);
    assert_string_equal(b.lines[0].day, "2025-11-25");
    assert_string_equal(b.lines[1].day, "2025-11-26");
    assert_int_equal(b.lines[0].requests, 3);
    assert_int_equal(b.lines[1].requests, 1);
    /* Idle memory is of the day that it was billed on. */
    assert_int_equal(b.lines[0].price.idle, 80000000);
    assert_int_equal(b.lines[1].price.idle, 80000000);
}

static void test_filters(void **state)
{
    struct ledger_world *w = *state;
    fill(w);
    struct bill b = bill_of(w, &(struct ledger_query){.until_us = LEDGER_NOW, .owner = "globex"});
    assert_int_equal(b.count, 2);
    assert_string_equal(b.lines[0].function, "bare");
    assert_string_equal(b.lines[1].function, "gamma");
    b = bill_of(w, &(struct ledger_query){.until_us = LEDGER_NOW, .function = "beta"});
    assert_int_equal(b.count, 1);
    assert_int_equal(b.lines[0].requests, 1);
    b = bill_of(
        w, &(struct ledger_query){.until_us = LEDGER_NOW, .function = "beta", .owner = "globex"});
    assert_int_equal(b.count, 0);
    /* The beginning belongs to the period, its end does not. */
    b = bill_of(w, &(struct ledger_query){.since_us = WALL_US + 2, .until_us = WALL_US + 3});
    assert_int_equal(b.count, 1);
    assert_int_equal(b.lines[0].requests, 1);
    b = bill_of(w, &(struct ledger_query){.since_us = WALL_US + DAY_US, .until_us = LEDGER_NOW});
    assert_int_equal(b.count, 2);
    b = bill_of(w, &(struct ledger_query){.until_us = WALL_US});
    assert_int_equal(b.count, 0);
    /* Names are values, never SQL. */
    b = bill_of(w, &(struct ledger_query){.until_us = LEDGER_NOW, .owner = "' OR 1=1 --"});
    assert_int_equal(b.count, 0);
}

static int stop(void *context, const struct ledger_line *l)
{
    (void)l;
    (*(int *)context)++;
    return -ECANCELED;
}

static void test_stops(void **state)
{
    struct ledger_world *w = *state;
    struct ledger_reader *reader;
    int calls = 0;
    fill(w);
    assert_int_equal(ledger_reader_open(&reader, w->path, NULL), 0);
    assert_int_equal(
        ledger_bill(reader, &(struct ledger_query){.until_us = LEDGER_NOW}, stop, &calls, NULL),
        -ECANCELED);
    assert_int_equal(calls, 1);
    ledger_reader_close(reader);
}

/* --- once, and all of it --- */

static void test_once(void **state)
{
    struct ledger_world *w = *state;
    ledger_reopen(w);
    struct ledger_receipt r = receipt_of("alpha", "acme", 7);
    struct ledger_receipt other = r;
    other.price.own = 999;
    other.function = function_of("beta", "acme");
    add_receipt(w, &r);
    add_receipt(w, &other); /* the same request again, in the same batch, */
    ledger_must_commit(w->ledger);
    add_receipt(w, &r); /* and in another */
    add_receipt(w, &other);
    ledger_must_commit(w->ledger);
    struct bill b = bill_of(w, &(struct ledger_query){.until_us = LEDGER_NOW});
    assert_int_equal(b.count, 1);
    assert_string_equal(b.lines[0].function, "alpha");
    assert_int_equal(b.lines[0].requests, 1);
    assert_int_equal(b.lines[0].price.own, 1);
    /* The next run's requests begin anew: this is another. */
    ledger_reopen(w);
    add_receipt(w, &r);
    ledger_must_commit(w->ledger);
    b = bill_of(w, &(struct ledger_query){.until_us = LEDGER_NOW});
    assert_int_equal(b.lines[0].requests, 2);
    assert_int_equal(ledger_number(w->path, "SELECT count(DISTINCT run) FROM runs"), 2);
    assert_int_equal(ledger_number(w->path, "SELECT min(length(run)) FROM runs"), 32);
}

static void test_parts(void **state)
{
    struct ledger_world *w = *state;
    ledger_reopen(w);
    struct ledger_receipt r = receipt_of("alpha", "acme", 7);
    struct ledger_receipt bare = receipt_of("bare", "acme", 8);
    r.used.load_us = 1;
    r.used.start_us = 2;
    r.used.bind_us = 3;
    r.used.queue_us = 4;
    r.used.first_us = 5;
    r.used.total_us = 6;
    add_receipt(w, &r);
    add_receipt(w, &bare);
    ledger_must_commit(w->ledger);
    assert_int_equal(
        ledger_number(w->path, "SELECT count(*) FROM receipts WHERE request=7 AND load_us=1 AND "
                               "start_us=2 AND bind_us=3 AND queue_us=4 AND first_us=5 AND "
                               "total_us=6 AND device_us=2000 AND prompt_tokens=40 AND "
                               "cached_tokens=16 AND new_tokens=8 AND completed=1"),
        1);
    assert_int_equal(ledger_number(w->path,
                                   "SELECT count(*) FROM functions WHERE name='alpha' AND "
                                   "owner='acme' AND generation=3 AND "
                                   "backbone='b0b0b0b0b0b0b0b0' AND adapter='6161616161616161'"),
                     1);
    assert_int_equal(
        ledger_number(w->path, "SELECT count(*) FROM functions WHERE name='bare' AND adapter=''"),
        1);
}

static void test_limit(void **state)
{
    struct ledger_world *w = *state;
    ledger_reopen(w);
    struct ledger_receipt r = receipt_of("alpha", "acme", 0);
    struct ledger_idle i = idle_of("alpha", "acme", WALL_US);
    for (uint32_t n = 0; n < LEDGER_ROWS_MAX; n++) {
        r.request = n;
        add_receipt(w, &r);
        add_idle(w, &i);
    }
    assert_int_equal(ledger_add_receipt(w->ledger, &r), -ENOBUFS);
    assert_int_equal(ledger_add_idle(w->ledger, &i), -ENOBUFS);
    assert_int_equal(ledger_waiting(w->ledger), 2 * LEDGER_ROWS_MAX);
    ledger_must_commit(w->ledger);
    r.request++;
    add_receipt(w, &r);
    add_idle(w, &i);
    ledger_must_commit(w->ledger);
    assert_int_equal(ledger_number(w->path, "SELECT count(*) FROM receipts"), LEDGER_ROWS_MAX + 1);
    assert_int_equal(ledger_number(w->path, "SELECT count(*) FROM idle"), LEDGER_ROWS_MAX + 1);
}

static void test_locked(void **state)
{
    struct ledger_world *w = *state;
    struct error err = {0};
    sqlite3 *other;
    ledger_reopen(w);
    struct ledger_receipt r = receipt_of("alpha", "acme", 1);
    add_receipt(w, &r);
    assert_int_equal(sqlite3_open(w->path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(ledger_commit(w->ledger, &err), -EBUSY);
    assert_non_null(strstr(err.text, "another program is writing"));
    r.request = 2;
    add_receipt(w, &r);
    assert_int_equal(ledger_waiting(w->ledger), 2);
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    ledger_must_commit(w->ledger);
    assert_int_equal(ledger_waiting(w->ledger), 0);
    assert_int_equal(ledger_number(w->path, "SELECT count(*) FROM receipts"), 2);
}

/* --- it adds up --- */

static void test_adds_up(void **state)
{
    struct ledger_world *w = *state;
    fill(w); /* 4 receipts of 0.75 GB s and 2 ms, 2 idle rows of 0.125 GB s */
    struct ledger_totals t = {
        .wall_us = WALL_US + 5, .device_us = 10000, .byte_s = 10 * GB, .platform_byte_s = 6 * GB};
    ledger_set_totals(w->ledger, &t);
    t.wall_us++;
    ledger_set_totals(w->ledger, &t);
    ledger_must_commit(w->ledger);
    struct ledger_sum s = sum_of(w, 0, LEDGER_NOW);
    assert_int_equal(s.runs, 1);
    assert_int_equal(s.started_us, WALL_US);
    assert_int_equal(s.updated_us, WALL_US + 6);
    assert_int_equal(s.device_us, 10000);
    assert_int_equal(s.billed_device_us, 8000);
    assert_int_equal(s.open_device_us, 2000);
    assert_true(s.byte_s == 10 * GB && s.receipts_byte_s == 3 * GB);
    assert_true(s.idle_byte_s == 0.25 * GB && s.platform_byte_s == 6 * GB);
    assert_true(s.open_byte_s == 0.75 * GB);
    assert_true(s.adds_up);
    /* More billed than used is said; a rounding is not. */
    t.byte_s = 9.25 * GB - 1;
    ledger_set_totals(w->ledger, &t);
    ledger_must_commit(w->ledger);
    assert_true(sum_of(w, 0, LEDGER_NOW).adds_up);
    t.byte_s = 9 * GB;
    ledger_set_totals(w->ledger, &t);
    ledger_must_commit(w->ledger);
    assert_false(sum_of(w, 0, LEDGER_NOW).adds_up);
}

/* Runs are taken whole: those that the period touches. */
static void test_sum_of_runs(void **state)
{
    struct ledger_world *w = *state;
    fill(w);
    ledger_set_totals(w->ledger,
                      &(struct ledger_totals){.wall_us = WALL_US + 10, .byte_s = 10 * GB});
    ledger_must_commit(w->ledger);
    ledger_close(w->ledger);
    w->ledger = NULL;
    assert_int_equal(ledger_open(&w->ledger, w->path, WALL_US + DAY_US, NULL), 0);
    struct ledger_receipt r = receipt_of("alpha", "acme", 1);
    add_receipt(w, &r);
    ledger_set_totals(w->ledger,
                      &(struct ledger_totals){.wall_us = WALL_US + 2 * DAY_US, .byte_s = GB});
    ledger_must_commit(w->ledger);
    struct ledger_sum s = sum_of(w, 0, LEDGER_NOW);
    assert_int_equal(s.runs, 2);
    assert_true(s.byte_s == 11 * GB && s.receipts_byte_s == 3.75 * GB);
    s = sum_of(w, WALL_US + DAY_US, LEDGER_NOW);
    assert_int_equal(s.runs, 1);
    assert_true(s.byte_s == GB && s.receipts_byte_s == 0.75 * GB && s.idle_byte_s == 0);
    s = sum_of(w, 0, WALL_US + 1);
    assert_int_equal(s.runs, 1);
    assert_true(s.byte_s == 10 * GB);
    assert_int_equal(sum_of(w, 0, WALL_US).runs, 0);
}

/* What a worker tells must not make everybody's bill impossible. */
static void test_absurd_times(void **state)
{
    struct ledger_world *w = *state;
    ledger_reopen(w);
    struct ledger_receipt r = receipt_of("alpha", "acme", 0);
    r.used.device_us = r.used.total_us = UINT64_MAX;
    for (uint32_t n = 0; n < LEDGER_ROWS_MAX; n++) {
        r.request = n;
        add_receipt(w, &r);
    }
    ledger_must_commit(w->ledger);
    struct bill b = bill_of(w, &(struct ledger_query){.until_us = LEDGER_NOW});
    assert_int_equal(b.count, 1);
    assert_int_equal(b.lines[0].requests, LEDGER_ROWS_MAX);
    assert_int_equal(b.lines[0].device_us, INT64_MAX); /* at its end, and not around it */
    assert_false(sum_of(w, 0, LEDGER_NOW).adds_up);
}

/* --- readers --- */

static void test_reader_sees_one_moment(void **state)
{
    struct ledger_world *w = *state;
    struct ledger_reader *reader;
    struct bill before = {0};
    struct ledger_query q = {.until_us = LEDGER_NOW, .function = "alpha"};
    fill(w);
    assert_int_equal(ledger_reader_open(&reader, w->path, NULL), 0);
    struct ledger_receipt r = receipt_of("alpha", "acme", 9);
    add_receipt(w, &r);
    ledger_must_commit(w->ledger); /* a reader is in nobody's way */
    assert_int_equal(ledger_bill(reader, &q, on_line, &before, NULL), 0);
    assert_int_equal(before.lines[0].requests, 2);
    ledger_reader_close(reader);
    assert_int_equal(bill_of(w, &q).lines[0].requests, 3);
    /* And without a server it is the same. */
    ledger_close(w->ledger);
    w->ledger = NULL;
    assert_int_equal(bill_of(w, &q).lines[0].requests, 3);
}

/* --- files that are no ledger of ours --- */

static int open_both(struct ledger_world *w, struct error *err)
{
    struct ledger_reader *reader = NULL;
    int r = ledger_open(&w->ledger, w->path, WALL_US, err);
    assert_null(w->ledger);
    assert_int_equal(ledger_reader_open(&reader, w->path, NULL), r);
    assert_null(reader);
    return r;
}

static void run_sql(struct ledger_world *w, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(w->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void test_other_files(void **state)
{
    struct ledger_world *w = *state;
    struct error err = {0};
    struct ledger_reader *reader = NULL;
    assert_int_equal(ledger_reader_open(&reader, w->path, &err), -ENOENT);
    assert_non_null(strstr(err.text, "there is no ledger"));
    /* A foreign one is refused and left as it was: not even its journal is changed. */
    run_sql(w, "CREATE TABLE t (x)");
    assert_int_equal(open_both(w, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "some other program's"));
    assert_int_equal(ledger_number(w->path, "SELECT count(*) FROM pragma_journal_mode WHERE "
                                            "journal_mode='delete'"),
                     1);
    run_sql(w, "PRAGMA application_id=5; DROP TABLE t");
    assert_int_equal(open_both(w, &err), -EBADMSG);
    unlink(w->path);
    ledger_reopen(w);
    ledger_close(w->ledger);
    w->ledger = NULL;
    run_sql(w, "PRAGMA user_version=2");
    assert_int_equal(open_both(w, &err), -EPROTO);
    assert_non_null(strstr(err.text, "has format 2, this program knows 1"));
}

static void test_nothing_in_it(void **state)
{
    struct ledger_world *w = *state;
    struct error err = {0};
    struct ledger_reader *reader = NULL;
    fclose(fopen(w->path, "w"));
    assert_int_equal(ledger_reader_open(&reader, w->path, &err), -ENOENT);
    assert_non_null(strstr(err.text, "nothing in it"));
    ledger_reopen(w); /* a server killed while it made the file goes on here */
    assert_int_equal(bill_of(w, &(struct ledger_query){.until_us = LEDGER_NOW}).count, 0);
}

static void overwrite(struct ledger_world *w, long from, long to)
{
    FILE *f = fopen(w->path, "r+");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    if (to < 0)
        to = ftell(f);
    fseek(f, from, SEEK_SET);
    for (long i = from; i < to; i++)
        fputc('x', f);
    fclose(f);
}

static void test_damaged(void **state)
{
    struct ledger_world *w = *state;
    struct error err = {0};
    struct ledger_reader *reader;
    struct bill b = {0};
    fill(w);
    ledger_close(w->ledger);
    w->ledger = NULL;
    overwrite(w, 8192, -1);
    assert_int_equal(ledger_reader_open(&reader, w->path, &err), 0);
    assert_int_equal(
        ledger_bill(reader, &(struct ledger_query){.until_us = LEDGER_NOW}, on_line, &b, &err),
        -EBADMSG);
    assert_non_null(strstr(err.text, "damaged"));
    ledger_reader_close(reader);
    overwrite(w, 0, 4096);
    assert_int_equal(open_both(w, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "restore it from a backup"));
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, ledger_world_set_up, ledger_world_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_by_function),  TEST(test_by_owner_and_day),
        TEST(test_filters),      TEST(test_stops),
        TEST(test_once),         TEST(test_parts),
        TEST(test_limit),        TEST(test_locked),
        TEST(test_adds_up),      TEST(test_sum_of_runs),
        TEST(test_absurd_times), TEST(test_reader_sees_one_moment),
        TEST(test_other_files),  TEST(test_nothing_in_it),
        TEST(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
