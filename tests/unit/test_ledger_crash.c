/*
 * Whatever moment the server ends at: what was committed is in the ledger once, the batch on its
 * way is there whole or not at all, and the next run goes on. Killed at random instants, and at
 * every single step that SQLite takes on the disk, as a kill, as a power cut, and as a disk that is
 * full.
 */
#include "unit/ledger_fixture.h"

#include "unit/faulty_vfs.h"

#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"

#define BATCH_ROWS 5
#define KILL_ROUNDS 300
#define FRESH_EVERY 20 /* rounds on one file */
#define STEPS_MAX 2000
#define LUCKS 4 /* power cuts at one step, each with other writes there */
#define FRAME_BYTES (4096 + 24)
#define CHECKPOINT_FRAMES 1000 /* SQLite's own default */

/* Batch b of a run: BATCH_ROWS receipts, one idle row, totals that say how many batches there are.
 */
static void add_batch(struct ledger *l, uint64_t batch)
{
    for (uint64_t i = 0; i < BATCH_ROWS; i++) {
        struct ledger_receipt r = receipt_of("alpha", "acme", batch * BATCH_ROWS + i);
        assert(ledger_add_receipt(l, &r) == 0);
    }
    struct ledger_idle idle = idle_of("alpha", "acme", WALL_US + batch);
    assert(ledger_add_idle(l, &idle) == 0);
    ledger_set_totals(l, &(struct ledger_totals){.wall_us = WALL_US, .device_us = batch + 1});
}

/* Each run has batches 0 to n - 1, whole, and its totals say n. */
#define RUN_IS_WRONG                                                                               \
    "(SELECT count(*) FROM receipts r WHERE r.run=runs.id)<>5*device_us OR "                       \
    "(SELECT ifnull(max(request)+1,0) FROM receipts r WHERE r.run=runs.id)<>5*device_us OR "       \
    "(SELECT count(*) FROM idle i WHERE i.run=runs.id)<>device_us OR "                             \
    "(SELECT ifnull(max(number)+1,0) FROM idle i WHERE i.run=runs.id)<>device_us"

static void check_whole(const char *path, const char *when)
{
    struct ledger_reader *reader;
    struct ledger_sum sum;
    struct error err = {0};
    if (ledger_reader_open(&reader, path, &err) < 0 ||
        ledger_sum(reader, 0, LEDGER_NOW, &sum, &err) < 0)
        fail_msg("%s: %s", when, err.text);
    ledger_reader_close(reader);
    if (ledger_number(path, "SELECT count(*) FROM pragma_integrity_check WHERE "
                            "integrity_check='ok'") != 1)
        fail_msg("%s: the file is damaged", when);
    if (ledger_number(path, "SELECT count(*) FROM runs WHERE " RUN_IS_WRONG) != 0)
        fail_msg("%s: a batch is there in part", when);
}

/* --- at random instants --- */

/* Commits batches until it is killed, and tells of each that was acknowledged. */
static void commit_until_killed(const char *path, int tell_fd)
{
    struct ledger *l;
    struct error err = {0};
    if (ledger_open(&l, path, WALL_US, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        _exit(1);
    }
    for (uint64_t batch = 0;; batch++) {
        add_batch(l, batch);
        if (ledger_commit(l, &err) < 0 || write(tell_fd, "c", 1) != 1)
            _exit(1);
    }
}

/* Returns how many commits were acknowledged. */
static int64_t kill_once(const char *path, struct rng *rng)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        commit_until_killed(path, fds[1]);
    }
    close(fds[1]);
    /* Some while the ledger is being opened, most in the midst of commits. */
    struct timespec wait = {.tv_nsec = 1000 * (long)rng_below(rng, 25000)};
    nanosleep(&wait, NULL);
    kill(pid, SIGKILL);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status)); /* it did not end by itself */
    int64_t acknowledged = 0;
    char bytes[4096];
    ssize_t n;
    while ((n = read(fds[0], bytes, sizeof bytes)) > 0)
        acknowledged += n;
    close(fds[0]);
    return acknowledged;
}

static void test_killed_at_random(void **state)
{
    struct ledger_world *w = *state;
    const char *asked = getenv("SLLORA_SEED");
    uint64_t seed = asked != NULL ? strtoull(asked, NULL, 10) : clock_now_ns();
    struct rng rng;
    int64_t known = 0, all = 0;
    rng_seed(&rng, seed);
    for (int round = 0; round < KILL_ROUNDS; round++) {
        char when[96];
        snprintf(when, sizeof when, "SLLORA_SEED=%llu, round %d", (unsigned long long)seed, round);
        if (round % FRESH_EVERY == 0) {
            ledger_world_empty(w);
            known = 0;
        }
        int64_t acknowledged = kill_once(w->path, &rng);
        ledger_reopen(w); /* the next server, whatever state the file is in */
        ledger_close(w->ledger);
        w->ledger = NULL;
        check_whole(w->path, when);
        int64_t there = ledger_number(w->path, "SELECT total(device_us) FROM runs");
        if (there < known + acknowledged || there > known + acknowledged + 1)
            fail_msg("%s: %lld batches, acknowledged were %lld", when, (long long)there,
                     (long long)(known + acknowledged));
        known = there;
        all += acknowledged;
    }
    print_message("%d kills, %lld commits acknowledged, none lost\n", KILL_ROUNDS, (long long)all);
    assert_true(all > 0);
}

/* --- at every step --- */

/* The first of these acknowledged; then one more, and an orderly end. */
static void work(const char *path, int tell_fd)
{
    struct ledger *l;
    struct error err = {0};
    if (ledger_open(&l, path, WALL_US, &err) < 0)
        _exit(1);
    for (uint64_t batch = 0; batch < 2; batch++) {
        add_batch(l, batch);
        if (ledger_commit(l, &err) < 0 || write(tell_fd, "c", 1) != 1)
            _exit(1);
    }
    ledger_close(l);
    _exit(0);
}

/* Works on the file until step k. True when it was done before. */
static bool work_until_step(const char *path, enum fault fault, int64_t k, uint64_t luck,
                            int64_t *ret_commits)
{
    int fds[2];
    char bytes[16];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct faulty disk;
        close(fds[0]);
        faulty_begin(&disk, fault, k, luck);
        work(path, fds[1]);
    }
    close(fds[1]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    ssize_t n = read(fds[0], bytes, sizeof bytes);
    close(fds[0]);
    *ret_commits = n;
    if (WIFEXITED(status))
        assert_int_equal(WEXITSTATUS(status), 0);
    return WIFEXITED(status);
}

/* What is there before the server that fails. */
struct start {
    const char *path; /* NULL: nothing */
    int64_t batches;
};

/* The world's files, and what the disk has of them, become those of `from`. */
static void begin_with(struct ledger_world *w, const char *from)
{
    static const char *const suffixes[] = {"", "-wal"};
    char source[128], copy[128], disk[300];
    ledger_world_empty(w);
    for (size_t i = 0; from != NULL && i < 2; i++) {
        snprintf(source, sizeof source, "%s%s", from, suffixes[i]);
        snprintf(copy, sizeof copy, "%s%s", w->path, suffixes[i]);
        faulty_disk_path(copy, disk);
        faulty_copy(source, copy);
        faulty_copy(source, disk);
    }
}

/* One fault, and the next server after it. True when the work was done before step k. */
static bool fail_at_step(struct ledger_world *w, const struct start *from, enum fault fault,
                         int64_t k, uint64_t luck)
{
    char when[96];
    int64_t commits;
    snprintf(when, sizeof when, "fault %d at step %lld, luck %llu", fault, (long long)k,
             (unsigned long long)luck);
    begin_with(w, from->path);
    bool done = work_until_step(w->path, fault, k, luck, &commits);
    if (fault != FAULT_KILL)
        faulty_power_cut(w->path);
    ledger_reopen(w);
    ledger_close(w->ledger);
    w->ledger = NULL;
    check_whole(w->path, when);
    int64_t there = ledger_number(w->path, "SELECT total(device_us) FROM runs");
    int64_t least = from->batches + commits;
    if (there < least || there > least + 1)
        fail_msg("%s: %lld batches, acknowledged were %lld", when, (long long)there,
                 (long long)least);
    return done;
}

static void fail_at_every_step(struct ledger_world *w, const struct start *from, int64_t steps_min)
{
    for (enum fault fault = FAULT_KILL; fault <= FAULT_LUCK; fault++) {
        int64_t k = 1;
        for (bool done = false; !done; k++) {
            assert_true(k < STEPS_MAX);
            for (uint64_t luck = 0; luck < (fault == FAULT_LUCK ? LUCKS : 1); luck++)
                done = fail_at_step(w, from, fault, k, luck + 1000 * (uint64_t)k);
        }
        print_message("fault %d: %lld steps\n", fault, (long long)k - 2);
        assert_true(k - 2 >= steps_min);
    }
}

static void test_every_step_of_a_new_ledger(void **state)
{
    fail_at_every_step(*state, &(struct start){NULL, 0}, 50);
}

/* A child leaves a log that is nearly as long as SQLite lets it get, so that the next commits move
 * it into the ledger and begin it anew. Returns the number of batches. */
static int64_t leave_long_log(const char *path)
{
    char log[128];
    int fds[2];
    int64_t batches = 0;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct ledger *l;
        struct faulty disk;
        struct stat s = {0};
        snprintf(log, sizeof log, "%s-wal", path);
        faulty_begin(&disk, FAULT_NONE, 0, 0);
        if (ledger_open(&l, path, WALL_US, NULL) < 0)
            _exit(1);
        while (s.st_size < (CHECKPOINT_FRAMES - 6) * FRAME_BYTES) {
            add_batch(l, (uint64_t)batches++);
            if (ledger_commit(l, NULL) < 0 || stat(log, &s) < 0)
                _exit(1);
        }
        _exit(write(fds[1], &batches, sizeof batches) != sizeof batches);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read(fds[0], &batches, sizeof batches), sizeof batches);
    close(fds[0]);
    close(fds[1]);
    return batches;
}

static void test_every_step_of_a_checkpoint(void **state)
{
    void *old_state = NULL;
    assert_int_equal(ledger_world_set_up(&old_state), 0);
    const struct ledger_world *old = old_state;
    int64_t batches = leave_long_log(old->path);
    fail_at_every_step(*state, &(struct start){old->path, batches}, 50);
    assert_int_equal(ledger_world_tear_down(&old_state), 0);
}

/* --- a disk that refuses --- */

/* Fails the commit of a second batch at its k-th step. True when it has fewer steps. */
static bool refuse_at_step(struct ledger_world *w, enum fault fault, int64_t k)
{
    struct faulty disk;
    struct error err = {0};
    char when[64];
    ledger_world_empty(w);
    snprintf(when, sizeof when, "fault %d at step %lld", fault, (long long)k);
    faulty_begin(&disk, fault, INT64_MAX, 0);
    ledger_reopen(w);
    add_batch(w->ledger, 0);
    ledger_must_commit(w->ledger);
    add_batch(w->ledger, 1);
    disk.fail_at = disk.step + k;
    int r = ledger_commit(w->ledger, &err);
    bool done = r == 0;
    if (!done) {
        assert_int_equal(r, fault == FAULT_FULL ? -ENOSPC : -EIO);
        assert_int_equal(ledger_waiting(w->ledger), BATCH_ROWS + 1);
        /* As often as it takes, and more comes meanwhile. */
        add_batch(w->ledger, 2);
        assert_int_equal(ledger_commit(w->ledger, &err), r);
        assert_int_equal(ledger_waiting(w->ledger), 2 * (BATCH_ROWS + 1));
        disk.fail_at = INT64_MAX;
        ledger_must_commit(w->ledger);
        assert_int_equal(ledger_waiting(w->ledger), 0);
    }
    ledger_close(w->ledger);
    w->ledger = NULL;
    faulty_end(&disk);
    check_whole(w->path, when);
    assert_int_equal(ledger_number(w->path, "SELECT total(device_us) FROM runs"), done ? 2 : 3);
    return done;
}

static void test_full_disk(void **state)
{
    for (enum fault fault = FAULT_FULL; fault <= FAULT_IO; fault++) {
        int64_t k = 1;
        while (!refuse_at_step(*state, fault, k))
            k++;
        assert_true(k > 5);
    }
}

/* A ledger that cannot be made is said so, and can be made later. */
static void test_full_disk_at_start(void **state)
{
    struct ledger_world *w = *state;
    int r = -1;
    for (int64_t k = 1; r < 0; k++) {
        struct faulty disk;
        struct error err = {0};
        assert_true(k < STEPS_MAX);
        ledger_world_empty(w);
        faulty_begin(&disk, FAULT_FULL, k, 0);
        r = ledger_open(&w->ledger, w->path, WALL_US, &err);
        if (r < 0) {
            assert_int_equal(r, -ENOSPC);
            assert_non_null(strstr(err.text, "the disk is full"));
        }
        disk.fail_at = INT64_MAX;
        ledger_reopen(w);
        add_batch(w->ledger, 0);
        ledger_must_commit(w->ledger);
        ledger_close(w->ledger);
        w->ledger = NULL;
        faulty_end(&disk);
        check_whole(w->path, "after a full disk");
    }
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, ledger_world_set_up, ledger_world_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_killed_at_random),           TEST(test_every_step_of_a_new_ledger),
        TEST(test_every_step_of_a_checkpoint), TEST(test_full_disk),
        TEST(test_full_disk_at_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
