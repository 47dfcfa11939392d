/*
 * A zygote and its copies: what is in a copy and what is not, how it looks from outside, its
 * memory, and who lives on when one of them ends. What they try with one another is in
 * test_sandbox_zygote.c.
 */
#include "unit/attempts.h"

#define MIB ((size_t)1 << 20)
#define LIMIT_BYTES (96 * MIB)

static char secret;

/* --- in the child: a zygote that makes copies as it is told on descriptor 3 --- */

static int64_t do_as_told(char what)
{
    char *block;
    switch (what) {
    case 'd': { /* how many descriptors it has */
        int64_t count = 0;
        for (int fd = 0; fd < 2048; fd++)
            count += fcntl(fd, F_GETFD) >= 0;
        return count;
    }
    case 'p':
        return getpid();
    case 'u':
        return getuid();
    case 's': /* what it finds in its memory; and then it is something else */
        return secret++;
    case 'l': /* more than it may have */
        block = mmap(NULL, LIMIT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return block == MAP_FAILED ? errno : 0;
    case 'e': /* all that it may have */
        block = mmap(NULL, LIMIT_BYTES / 4 * 3, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);
        CHILD_CHECK(block != MAP_FAILED);
        memset(block, 1, LIMIT_BYTES / 4 * 3);
        return 0;
    case 'a':
        abort();
    default:
        _exit(what);
    }
}

static int serve_copy(struct sandbox_policy p, int chan, int group, uid_t uid)
{
    struct error err = {0};
    char what;

    p.fds = &chan;
    p.memory_bytes_max = LIMIT_BYTES;
    if (sandbox_descend(&p, group, uid, &err) < 0)
        return attempt_said(&err);
    while (read(chan, &what, 1) == 1) {
        int64_t number = do_as_told(what);
        CHILD_CHECK(write(chan, &number, sizeof number) == (ssize_t)sizeof number);
    }
    return 0;
}

/* A uid, with the copy's channel and perhaps its memory group; -1 at the end. */
static int next_order(int chan, int fds[2])
{
    uint8_t uid = 0;
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {&uid, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};

    if (recvmsg(chan, &m, MSG_CMSG_CLOEXEC) != 1)
        return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    fds[0] = fds[1] = -1;
    memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    return uid;
}

static int nursery_main(uint32_t features)
{
    static const int KEEP[] = {3};
    struct sandbox_policy p = {.role = SANDBOX_ZYGOTE,
                               .features = features,
                               .threads_max = 8,
                               .fds_max = 64,
                               .fds = KEEP,
                               .fd_count = 1};
    struct sandbox_filter filter = {0};
    struct error err = {0};
    int fds[2], uid, pidfd;

    if (sandbox_filter_make(&filter, SANDBOX_WORKER, &err) < 0 ||
        sandbox_lock(&p, NULL, &err) < 0 || sandbox_self_test(&p, &err) < 0)
        return attempt_said(&err);
    p.role = SANDBOX_WORKER;
    p.filter = &filter;
    while ((uid = next_order(3, fds)) >= 0) {
        pid_t pid = sandbox_fork(&pidfd);
        if (pid == 0)
            _exit(serve_copy(p, fds[0], fds[1], uid_of(features, (uid_t)uid)));
        CHILD_CHECK(pid > 0);
        CHILD_CHECK(close(fds[0]) == 0 && (fds[1] < 0 || close(fds[1]) == 0));
    }
    return 0;
}

/* --- in the test --- */

struct nursery {
    struct sandbox_child child;
    int chan, log;
};

static struct nursery nursery_start(uint32_t features, int further)
{
    struct nursery n;
    struct error err = {0};
    int pair[2], fds[10];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    for (int i = 0; i < 10; i++)
        fds[i] = i == 0 ? pair[1] : further;
    if (child_start_in("--copies", &n.child, &n.log, "nursery", features, fds,
                       further >= 0 ? 10 : 1, NULL, &err) < 0)
        fail_msg("spawn: %s", err.text);
    close(pair[1]);
    n.chan = pair[0];
    return n;
}

static void nursery_end(struct nursery *n)
{
    struct outcome o = {0};
    close(n->chan);
    child_finish(&o, &n->child, n->log);
    outcome_is_success("nursery", &o);
}

/* Its channel. */
static int copy_new(const struct nursery *n, uint8_t uid, int group)
{
    int pair[2];
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec iov = {&uid, 1};
    size_t bytes = (group >= 0 ? 2 : 1) * sizeof(int);
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = CMSG_SPACE(bytes)};

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    const int fds[2] = {pair[1], group};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(h), fds, bytes);
    assert_int_equal(sendmsg(n->chan, &m, MSG_NOSIGNAL), 1);
    close(pair[1]);
    return pair[0];
}

/* False when it is gone. */
static bool copy_asked(int chan, char what, int64_t *ret)
{
    struct pollfd p = {.fd = chan, .events = POLLIN};

    if (send(chan, &what, 1, MSG_NOSIGNAL) != 1)
        return false;
    if (poll(&p, 1, CHILD_MS_MAX) != 1)
        fail_msg("a copy does not answer to '%c'", what);
    return read(chan, ret, sizeof *ret) == (ssize_t)sizeof *ret;
}

static int64_t copy_ask(int chan, char what)
{
    int64_t number = 0;
    if (!copy_asked(chan, what, &number))
        fail_msg("a copy is gone at '%c'", what);
    return number;
}

/* Its own channel, nothing of the zygote, of a sibling or of the test; 1 in a namespace of its own;
 * its own uid, its own memory. */
static void test_what_is_in_a_copy(void **state)
{
    (void)state;
    uint32_t features = full_features();
    int open_everywhere = dup(0), chan[3]; /* without close-on-exec */
    struct nursery n = nursery_start(features, open_everywhere);
    for (uint8_t i = 0; i < 3; i++)
        chan[i] = copy_new(&n, i + 1, -1);
    for (uint8_t i = 0; i < 3; i++) {
        assert_int_equal(copy_ask(chan[i], 'd'), 4);
        assert_int_equal(copy_ask(chan[i], 'p'), 1);
        assert_int_equal(copy_ask(chan[i], 'u'), uid_of(features, i + 1));
        for (uint8_t times = 0; times <= i; times++)
            assert_int_equal(copy_ask(chan[i], 's'), times); /* who else has written is not seen */
#ifndef SLLORA_SANITIZED                                     /* then the limit is off */
        assert_int_equal(copy_ask(chan[i], 'l'), ENOMEM);
#endif
    }
    for (uint8_t i = 0; i < 3; i++)
        close(chan[i]);
    nursery_end(&n);
    close(open_everywhere);
}

/* The numbers that the kernel has for a process's children here. */
static int children_of(pid_t pid, pid_t *ret, int most)
{
    char path[64];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *f = fopen(path, "re");
    while (f != NULL && count < most && fscanf(f, "%d", &ret[count]) == 1)
        count++;
    if (f != NULL)
        fclose(f);
    return count;
}

static void check_status(pid_t pid, uint32_t features, uid_t inside)
{
    char path[64], line[256];
    uid_t base = SANDBOX_UID_BASE + CHILD_UID_SLOT;
    bool is_own = features & SANDBOX_BIT(SANDBOX_OWN_UID);
    int seen = 0, value;
    unsigned uid;
    unsigned long long caps;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "Uid: %u", &uid) == 1)
            assert_int_equal(uid, is_own ? base + inside : geteuid());
        if (sscanf(line, "Gid: %u", &uid) == 1)
            assert_int_equal(uid, is_own ? base + inside : getegid());
        if (sscanf(line, "Cap%*[A-Za-z]: %llx", &caps) == 1)
            assert_int_equal(caps, 0);
        if (sscanf(line, "NoNewPrivs: %d", &value) == 1)
            assert_int_equal(value, 1);
        if (sscanf(line, "Seccomp: %d", &value) == 1)
            assert_int_equal(value, 2);
        if (sscanf(line, "Seccomp_filters: %d", &value) == 1)
            assert_int_equal(value, 2); /* the zygote's, and its own on top */
        seen +=
            sscanf(line, "Cap%*[A-Za-z]: %llx", &caps) == 1 || sscanf(line, "Uid: %u", &uid) == 1;
    }
    assert_int_equal(seen, 6);
    fclose(f);
}

static void test_seen_from_outside(void **state)
{
    (void)state;
    uint32_t features = full_features();
    struct nursery n = nursery_start(features, -1);
    pid_t pids[3];
    int chan[2];
    for (uint8_t i = 0; i < 2; i++) {
        chan[i] = copy_new(&n, i + 1, -1);
        copy_ask(chan[i], 'p'); /* it is locked now */
    }
    assert_int_equal(children_of(n.child.pid, pids, 3), 2);
    for (uint8_t i = 0; i < 2; i++)
        check_status(pids[i], features, i + 1);
    for (uint8_t i = 0; i < 2; i++)
        close(chan[i]);
    nursery_end(&n);
}

/* One copy ends, on its own or by a signal: nobody else notices. */
static void test_a_copy_ends(void **state)
{
    (void)state;
    struct nursery n = nursery_start(full_features(), -1);
    int64_t number;
    int stays = copy_new(&n, 1, -1);
    copy_ask(stays, 'p');
    for (uint32_t by_signal = 0; by_signal < 2; by_signal++) {
        int ends = copy_new(&n, 2, -1);
        copy_ask(ends, 'p');
        assert_false(copy_asked(ends, by_signal ? 'a' : 'q', &number));
        close(ends);
        copy_ask(stays, 'p');
    }
    close(stays);
    nursery_end(&n);
}

/* With the zygote all its copies end, also one that is on its way. */
static void test_the_zygote_ends(void **state)
{
    (void)state;
    uint32_t features = full_features();
    for (uint32_t killed = 0; killed < 2; killed++) {
        struct nursery n = nursery_start(features, -1);
        struct outcome o = {0};
        int chan[3];
        int64_t number;
        for (uint8_t i = 0; i < 3; i++) {
            chan[i] = copy_new(&n, i + 1, -1);
            if (i < 2)
                copy_ask(chan[i], 'p');
        }
        if (killed)
            kill(n.child.pid, SIGKILL);
        close(n.chan);
        child_finish(&o, &n.child, n.log);
        if (killed)
            outcome_is_kill("nursery", &o, SIGKILL);
        else
            outcome_is_success("nursery", &o);
        for (uint8_t i = 0; i < 3; i++) {
            assert_false(copy_asked(chan[i], 'p', &number));
            close(chan[i]);
        }
    }
}

/* A copy that takes more than its group may have is killed; the zygote and its sibling, which take
 * as much without such a group, are not. */
static void test_a_group_of_its_own(void **state)
{
    (void)state;
    struct sandbox_features f;
    struct sandbox_cgroup group = {0};
    struct error err = {0};
    uint32_t features = full_features();
    char name[64];
    int64_t number;
    int fd = -1;

    sandbox_probe(&f);
    snprintf(name, sizeof name, "sllora-test-%d-copy", (int)getpid());
    if (!(f.have & SANDBOX_BIT(SANDBOX_MEMORY_CGROUP)) || sandbox_cgroup_prepare(&f, &err) < 0) {
        print_message("skipped: no memory group can be made here %s\n", err.text);
        skip();
    }
    assert_int_equal(sandbox_cgroup_create(&group, &f, name, LIMIT_BYTES / 2, &err), 0);
    assert_int_equal(sandbox_cgroup_open(&group, &fd, &err), 0);
    struct nursery n = nursery_start(features, -1);
    int free_one = copy_new(&n, 1, -1), bound = copy_new(&n, 2, fd);
    close(fd);
    copy_ask(bound, 'p');
    assert_int_equal(copy_ask(free_one, 'e'), 0);
    assert_false(copy_asked(bound, 'e', &number));
    assert_true(sandbox_cgroup_oom_kills(&group) >= 1);
    copy_ask(free_one, 'p');
    close(bound);
    close(free_one);
    nursery_end(&n);
    assert_int_equal(sandbox_cgroup_remove(&group), 0);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_in_a_copy),  cmocka_unit_test(test_seen_from_outside),
        cmocka_unit_test(test_a_copy_ends),        cmocka_unit_test(test_the_zygote_ends),
        cmocka_unit_test(test_a_group_of_its_own),
    };
    return cmocka_run_group_tests_name("copies", tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--copies") == 0)
        return nursery_main((uint32_t)strtoul(argv[3], NULL, 16));
    int failed = run();
    if (become_ordinary_user(&failed))
        failed = run();
    return failed;
}
