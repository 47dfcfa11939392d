/*
 * Memory groups whose limit changes while a process runs in them: more is there at once, and less
 * binds from then on. Needs a machine where a memory group can be made, and says so elsewhere.
 */
#include "unit/sandboxed.h"

#include <sys/mman.h>
#include <sys/socket.h>

#define MIB ((uint64_t)1 << 20)

/* Touches as many MiB as each byte on its channel says, keeps them, and sends the byte back. */
static int case_eater(uint32_t features)
{
    static const int KEEP[] = {3};
    const struct sandbox_policy p = {.role = SANDBOX_WORKER,
                                     .features = features,
                                     .threads_max = 1,
                                     .fds_max = 16,
                                     .fds = KEEP,
                                     .fd_count = 1};
    struct error err = {0};
    uint8_t count;
    if (sandbox_lock(&p, NULL, &err) < 0) {
        dprintf(2, "%s\n", err.text);
        return 1;
    }
    while (read(3, &count, 1) == 1) {
        char *block =
            mmap(NULL, count * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHILD_CHECK(block != MAP_FAILED);
        memset(block, 1, count * MIB);
        CHILD_CHECK(write(3, &count, 1) == 1);
    }
    return 0;
}

static const struct child_case CASES[] = {{"eater", case_eater}};

/* --- the group --- */

struct memory_group {
    struct sandbox_features features;
    struct sandbox_cgroup cgroup;
};

/* Of `bytes`; or the test is skipped. */
static struct memory_group group_new(const char *what, uint64_t bytes)
{
    struct memory_group g = {0};
    struct error err = {0};
    char name[64];
    sandbox_probe(&g.features);
    if (!(g.features.have & SANDBOX_BIT(SANDBOX_MEMORY_CGROUP)) ||
        sandbox_cgroup_prepare(&g.features, &err) < 0) {
        print_message("skipped: no memory group can be made here %s\n", err.text);
        skip();
    }
    snprintf(name, sizeof name, "sllora-test-%d-%s", (int)getpid(), what);
    if (sandbox_cgroup_create(&g.cgroup, &g.features, name, bytes, &err) < 0)
        fail_msg("%s", err.text);
    return g;
}

/* The number in a file of the group; UINT64_MAX when there is no such file, or no number in it. */
static uint64_t number_in(const struct memory_group *g, const char *name)
{
    char path[SANDBOX_PATH_BYTES + 64];
    unsigned long long n = 0;
    snprintf(path, sizeof path, "%s/%s", g->cgroup.dir, name);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return UINT64_MAX;
    int got = fscanf(f, "%llu", &n);
    fclose(f);
    return got == 1 ? n : UINT64_MAX;
}

static uint64_t limit_of(const struct memory_group *g)
{
    return number_in(g, g->cgroup.version == 1 ? "memory.limit_in_bytes" : "memory.max");
}

/* Swap does not make the limit a softer one. */
static void assert_limit(const struct memory_group *g, uint64_t bytes)
{
    assert_int_equal(limit_of(g), bytes);
    uint64_t swap =
        number_in(g, g->cgroup.version == 1 ? "memory.memsw.limit_in_bytes" : "memory.swap.max");
    if (swap != UINT64_MAX)
        assert_int_equal(swap, g->cgroup.version == 1 ? bytes : 0);
}

static void test_up_and_down(void **state)
{
    static const uint64_t sizes[] = {64, 200, 199, 16, 1000000, 17, 17, 64};
    (void)state;
    struct memory_group g = group_new("sizes", 32 * MIB);
    assert_limit(&g, 32 * MIB);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(sandbox_cgroup_limit(&g.cgroup, sizes[i] * MIB), 0);
        assert_limit(&g, sizes[i] * MIB);
    }
    struct sandbox_cgroup gone = g.cgroup;
    assert_int_equal(sandbox_cgroup_remove(&g.cgroup), 0);
    assert_int_equal(sandbox_cgroup_limit(&gone, 64 * MIB), -ENOENT);
    assert_int_equal(sandbox_cgroup_limit(&g.cgroup, 64 * MIB), 0); /* there is none to limit */
}

/* --- a process inside --- */

/* Whether it has touched `count` MiB more; else it is gone. */
static bool eats(int channel, uint8_t count)
{
    struct pollfd p = {.fd = channel, .events = POLLIN};
    uint8_t answer = 0;
    if (send(channel, &count, 1, MSG_NOSIGNAL) != 1)
        return false;
    if (poll(&p, 1, CHILD_MS_MAX) != 1)
        fail_msg("no answer to %u MiB", count);
    return read(channel, &answer, 1) == 1 && answer == count;
}

static struct sandbox_child eater_start(const struct memory_group *g, int *ret_channel,
                                        int *ret_log)
{
    struct sandbox_child c;
    struct error err = {0};
    int sv[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    if (child_start(&c, ret_log, "eater", features_here(), &sv[1], 1, &g->cgroup, &err) < 0)
        fail_msg("%s", err.text);
    close(sv[1]);
    *ret_channel = sv[0];
    return c;
}

/* What would have killed it does not once there is more. */
static void test_more_is_there_at_once(void **state)
{
    (void)state;
    struct outcome o = {0};
    int channel, log;
    struct memory_group g = group_new("more", 64 * MIB);
    struct sandbox_child c = eater_start(&g, &channel, &log);
    assert_true(eats(channel, 10));
    assert_int_equal(sandbox_cgroup_limit(&g.cgroup, 400 * MIB), 0);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(eats(channel, 100));
    assert_int_equal(sandbox_cgroup_oom_kills(&g.cgroup), 0);
    close(channel);
    child_finish(&o, &c, log);
    outcome_is_success("eater", &o);
    assert_int_equal(sandbox_cgroup_remove(&g.cgroup), 0);
}

/* Down to what is in use and a little, and it is killed where it was not before. */
static void test_less_binds(void **state)
{
    (void)state;
    for (uint32_t is_less = 0; is_less < 2; is_less++) {
        struct outcome o = {0};
        int channel, log;
        struct memory_group g = group_new("less", 500 * MIB);
        struct sandbox_child c = eater_start(&g, &channel, &log);
        assert_true(eats(channel, 60));
        if (is_less)
            assert_int_equal(sandbox_cgroup_limit(&g.cgroup, 150 * MIB), 0);
        assert_int_equal(eats(channel, 200), !is_less);
        close(channel);
        child_finish(&o, &c, log);
        if (is_less)
            outcome_is_kill("eater", &o, SIGKILL);
        else
            outcome_is_success("eater", &o);
        assert_int_equal(sandbox_cgroup_oom_kills(&g.cgroup) > 0, is_less);
        assert_int_equal(sandbox_cgroup_remove(&g.cgroup), 0);
    }
}

/* Below what is in use: either the kernel says so and nothing has changed (v1), or it kills. */
static void test_less_than_is_in_use(void **state)
{
    (void)state;
    struct outcome o = {0};
    int channel, log;
    struct memory_group g = group_new("under", 300 * MIB);
    struct sandbox_child c = eater_start(&g, &channel, &log);
    assert_true(eats(channel, 200));
    int r = sandbox_cgroup_limit(&g.cgroup, 50 * MIB);
    print_message("memory groups v%d: %d\n", g.cgroup.version, r);
    bool lives = eats(channel, 1);
    close(channel);
    child_finish(&o, &c, log);
    if (r < 0) {
        assert_int_equal(r, -EBUSY);
        assert_limit(&g, 300 * MIB);
        assert_true(lives);
        outcome_is_success("eater", &o);
    } else {
        assert_limit(&g, 50 * MIB);
        assert_false(lives);
        outcome_is_kill("eater", &o, SIGKILL);
        assert_true(sandbox_cgroup_oom_kills(&g.cgroup) > 0);
    }
    assert_int_equal(sandbox_cgroup_remove(&g.cgroup), 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--child") == 0)
        return child_main(argc, argv, CASES, sizeof CASES / sizeof *CASES);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_up_and_down),
        cmocka_unit_test(test_more_is_there_at_once),
        cmocka_unit_test(test_less_binds),
        cmocka_unit_test(test_less_than_is_in_use),
    };
    int failed = cmocka_run_group_tests_name("sandbox_groups", tests, NULL, NULL);
    if (become_ordinary_user(&failed))
        failed = cmocka_run_group_tests_name("sandbox_groups as ordinary user", tests, NULL, NULL);
    return failed;
}
