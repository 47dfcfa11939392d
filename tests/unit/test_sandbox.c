/* The sandbox from both sides: what a locked process can still do, what it cannot, what the daemon
 * gets back. The denials themselves are in test_sandbox_denied.c. */
#include "unit/sandboxed.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/digest.h"

#define MIB ((size_t)1 << 20)
#define LIMIT_BYTES (96 * MIB)

static struct sandbox_policy policy_for(uint32_t features, const int *fds, size_t count)
{
    return (struct sandbox_policy){
        .role = SANDBOX_WORKER,
        .features = features,
        .memory_bytes_max = LIMIT_BYTES,
        .threads_max = 8,
        .fds_max = 64,
        .fds = fds,
        .fd_count = count,
    };
}

static int lock_and_test(const struct sandbox_policy *p)
{
    struct error err = {0};

    if (sandbox_lock(p, NULL, &err) < 0 || sandbox_self_test(p, &err) < 0) {
        dprintf(2, "%s\n", err.text);
        return 1;
    }
    return 0;
}

/* --- cases in the child --- */

static int case_lock(uint32_t features)
{
    struct sandbox_policy p = policy_for(features, NULL, 0);
    return lock_and_test(&p);
}

/* Sends its costs on descriptor 3. */
static int case_cost(uint32_t features)
{
    int keep[] = {3};
    struct sandbox_policy p = policy_for(features, keep, 1);
    struct sandbox_lock_cost cost = {0};
    struct error err = {0};

    CHILD_CHECK(sandbox_lock(&p, &cost, &err) == 0);
    CHILD_CHECK(write(3, &cost, sizeof cost) == (ssize_t)sizeof cost);
    return 0;
}

static void *thread_main(void *arg)
{
    char *block = malloc(3 * MIB);
    if (!block)
        return NULL;
    memset(block, 1, 3 * MIB);
    free(block);
    (void)pthread_setname_np(pthread_self(), "compute");
    sched_yield();
    return arg;
}

static int use_threads(void)
{
    pthread_t threads[4];
    void *result;

    for (int i = 0; i < 4; i++)
        CHILD_CHECK(pthread_create(&threads[i], NULL, thread_main, stderr) == 0);
    for (int i = 0; i < 4; i++) {
        CHILD_CHECK(pthread_join(threads[i], &result) == 0);
        CHILD_CHECK(result == stderr);
    }
    return 0;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int use_memory(void)
{
    size_t count = 2 * MIB;
    uint32_t *numbers = malloc(count * sizeof *numbers);

    CHILD_CHECK(numbers != NULL);
    CHILD_CHECK(getrandom(numbers, 256, 0) == 256);
    for (size_t i = 64; i < count; i++)
        numbers[i] = numbers[i - 64] * 2654435761u + 1;
    qsort(numbers, count, sizeof *numbers, compare_u32);
    uint32_t *more = realloc(numbers, 3 * count * sizeof *numbers);
    CHILD_CHECK(more != NULL);
    free(more);
    struct digest d;
    digest_of("abc", 3, &d);
    CHILD_CHECK(d.bytes[0] == 0xba && d.bytes[31] == 0xad);
    return 0;
}

/* Its socket is 3: a message with a descriptor comes, an answer goes. */
static int use_socket(void)
{
    char byte = 0;
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    struct pollfd p = {.fd = 3, .events = POLLIN};

    CHILD_CHECK(poll(&p, 1, CHILD_MS_MAX) == 1);
    CHILD_CHECK(recvmsg(3, &m, MSG_CMSG_CLOEXEC) == 1);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    CHILD_CHECK(c && c->cmsg_type == SCM_RIGHTS);
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    const char *text = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHILD_CHECK(text != MAP_FAILED);
    CHILD_CHECK(close(fd) == 0);
    CHILD_CHECK(sendmsg(3,
                        &(struct msghdr){.msg_iov = &(struct iovec){(void *)(uintptr_t)text, 5},
                                         .msg_iovlen = 1},
                        0) == 5);
    return 0;
}

/* All that a worker does, under the filter, through a normal return from main. */
static int case_work(uint32_t features)
{
    int keep[] = {3};
    struct sandbox_policy p = policy_for(features, keep, 1);
    struct timespec nap = {.tv_nsec = 1000}, now;
    struct rusage usage;

    if (lock_and_test(&p) || use_threads() || use_memory() || use_socket())
        return 1;
    CHILD_CHECK(nanosleep(&nap, NULL) == 0);
    CHILD_CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0);
    CHILD_CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    CHILD_CHECK(sysconf(_SC_NPROCESSORS_ONLN) >= 1);
    CHILD_CHECK(printf("a line of log\n") == 14 && fflush(stdout) == 0);
    return 0;
}

/* What the spawn alone promises; descriptor 3 is a pipe, 4 the exe. */
static int case_spawned(uint32_t features)
{
    struct stat st, null;
    sigset_t blocked;
    struct sigaction action;
    char byte;

    (void)features;
    CHILD_CHECK(environ == NULL || environ[0] == NULL);
    CHILD_CHECK(getuid() == 0 && getgid() == 0);
    CHILD_CHECK(getpid() == 1);
    CHILD_CHECK(stat("/dev/null", &null) == 0 && fstat(0, &st) == 0);
    CHILD_CHECK(st.st_rdev == null.st_rdev && read(0, &byte, 1) == 0);
    for (int fd = 0; fd < 2048; fd++)
        CHILD_CHECK((fcntl(fd, F_GETFD) >= 0) == (fd < 5));
    CHILD_CHECK(sigprocmask(SIG_BLOCK, NULL, &blocked) == 0);
    for (int sig = 1; sig < 32; sig++) {
        CHILD_CHECK(!sigismember(&blocked, sig));
        CHILD_CHECK(sigaction(sig, NULL, &action) == 0);
#ifndef SLLORA_SANITIZED /* the sanitizers put their own handlers in */
        CHILD_CHECK(action.sa_handler == SIG_DFL);
#endif
    }
    CHILD_CHECK(write(3, "x", 1) == 1);
    CHILD_CHECK(read(0, &byte, 1) == 0);
    int death = 0;
    CHILD_CHECK(prctl(PR_GET_PDEATHSIG, &death) == 0 && death == SIGKILL);
    return 0;
}

static int case_fds_closed(uint32_t features)
{
    int keep[] = {6, 4};
    struct sandbox_policy p = policy_for(features, keep, 2);

    CHILD_CHECK(fcntl(3, F_GETFD) >= 0 && fcntl(5, F_GETFD) >= 0 && fcntl(7, F_GETFD) >= 0);
    if (lock_and_test(&p))
        return 1;
    for (int fd = 0; fd < 2048; fd++)
        CHILD_CHECK((fcntl(fd, F_GETFD) >= 0) == (fd < 3 || fd == 4 || fd == 6));
    return 0;
}

/* The filter is left out but promised: the self test must notice. */
static int case_self_test(uint32_t features)
{
    struct sandbox_policy p = policy_for(features, NULL, 0);
    struct error err = {0};

    p.features &= ~SANDBOX_BIT(SANDBOX_SECCOMP);
    CHILD_CHECK(sandbox_lock(&p, NULL, &err) == 0);
    CHILD_CHECK(sandbox_self_test(&p, &err) == 0); /* true to what was locked */
    p.features = features;
    CHILD_CHECK(sandbox_self_test(&p, &err) == -EPERM);
    CHILD_CHECK(strstr(err.text, "socket") != NULL);
    return 0;
}

static void *idle_thread(void *arg)
{
    for (;;)
        sleep(1000);
    return arg;
}

static int case_threads_first(uint32_t features)
{
    struct sandbox_policy p = policy_for(features, NULL, 0);
    struct error err = {0};
    pthread_t t;

    CHILD_CHECK(pthread_create(&t, NULL, idle_thread, NULL) == 0);
    CHILD_CHECK(sandbox_lock(&p, NULL, &err) == -EBUSY);
    return 0;
}

static int case_thread_limit(uint32_t features)
{
    struct sandbox_policy p = policy_for(features, NULL, 0);
    pthread_t t;
    int count = 1, r = 0;

    if (lock_and_test(&p))
        return 1;
    while (count < 64 && (r = pthread_create(&t, NULL, idle_thread, NULL)) == 0)
        count++;
    CHILD_CHECK(r == EAGAIN);
    CHILD_CHECK(count == 8);
    return 0;
}

static int case_limit(uint32_t features)
{
    struct sandbox_policy p = policy_for(features, NULL, 0);

    if (lock_and_test(&p))
        return 1;
    char *fits = malloc(LIMIT_BYTES / 2);
    CHILD_CHECK(fits != NULL);
    memset(fits, 1, LIMIT_BYTES / 2);
    CHILD_CHECK(malloc(LIMIT_BYTES) == NULL && errno == ENOMEM);
    /* A stack that grows or private pages of a file would be ways around. */
    CHILD_CHECK(mmap(NULL, LIMIT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                     0) == MAP_FAILED);
    free(fits);
    return 0;
}

/* Touches 256 MiB with no rlimit in the way; the neighbour sleeps until its socket speaks. */
static int case_eat(uint32_t features)
{
    struct sandbox_policy p = policy_for(features, NULL, 0);

    p.memory_bytes_max = 0;
    if (lock_and_test(&p))
        return 1;
    for (size_t i = 0; i < 256; i++) {
        char *block = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHILD_CHECK(block != MAP_FAILED);
        memset(block, 1, MIB);
    }
    return 0;
}

static int case_echo(uint32_t features)
{
    int keep[] = {3};
    struct sandbox_policy p = policy_for(features, keep, 1);
    char byte;

    if (lock_and_test(&p))
        return 1;
    while (read(3, &byte, 1) == 1)
        CHILD_CHECK(write(3, &byte, 1) == 1);
    return 0;
}

static int case_log_to_file(uint32_t features)
{
    int keep[] = {3};
    struct sandbox_policy p = policy_for(features, keep, 1);

    if (lock_and_test(&p))
        return 1;
    CHILD_CHECK(write(3, "x", 1) == -1 && errno == EFBIG); /* and no SIGXFSZ */
    return 0;
}

/* Writes its file up to the limit; nothing else of the file system is within reach. */
static int case_packer(uint32_t features)
{
    int keep[] = {3};
    struct sandbox_policy p = policy_for(features, keep, 1);

    p.role = SANDBOX_PACKER;
    p.file_bytes_max = MIB;
    if (lock_and_test(&p))
        return 1;
    CHILD_CHECK(ftruncate(3, 4096) == 0);
    CHILD_CHECK(pwrite(3, "header", 6, 0) == 6);
    CHILD_CHECK(fallocate(3, 0, 0, 8192) == 0);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
    CHILD_CHECK(map != MAP_FAILED && memcmp(map, "header", 6) == 0);
    CHILD_CHECK(fsync(3) == 0);
    CHILD_CHECK(pwrite(3, "x", 1, MIB) == -1 && errno == EFBIG);
    CHILD_CHECK(ftruncate(3, MIB + 1) == -1 && errno == EFBIG);
    return 0;
}

static const struct child_case CASES[] = {
    {"lock", case_lock},
    {"cost", case_cost},
    {"work", case_work},
    {"spawned", case_spawned},
    {"fds_closed", case_fds_closed},
    {"self_test", case_self_test},
    {"threads_first", case_threads_first},
    {"thread_limit", case_thread_limit},
    {"limit", case_limit},
    {"eat", case_eat},
    {"echo", case_echo},
    {"log_to_file", case_log_to_file},
    {"packer", case_packer},
};

/* --- the tests --- */

static void check_machine(void **state)
{
    (void)state;
    struct sandbox_features f;

    sandbox_probe(&f);
    print_message("uid %u: landlock abi %d, memory groups v%d at \"%s\"\n", geteuid(),
                  f.landlock_abi, f.cgroup_version, f.cgroup_dir);
    for (unsigned i = 0; i < SANDBOX_FEATURE_COUNT; i++) {
        assert_non_null(sandbox_feature_name(i));
        assert_non_null(sandbox_feature_promise(i));
        if (!(f.have & SANDBOX_BIT(i)))
            print_message("  missing %s: %s\n", sandbox_feature_name(i),
                          sandbox_feature_promise(i));
    }
    assert_true((f.have & SANDBOX_BIT(SANDBOX_OWN_UID)) == 0 || geteuid() == 0);
}

/* Tests below need the full sandbox; a machine without it can only run the daemon with
 * `--sandbox weak`, and says so here. */
static uint32_t full_features(void)
{
    uint32_t f = features_here();
    if ((f & SANDBOX_NEEDED) != SANDBOX_NEEDED) {
        print_message("skipped: features %#x of %#x here\n", f, SANDBOX_NEEDED);
        skip();
    }
    return f;
}

static void run_work(uint32_t features)
{
    int sv[2], memory = memfd_create("text", MFD_CLOEXEC), log;
    struct sandbox_child c;
    struct outcome o = {0};
    struct error err = {0};
    char byte = 'm', answer[8] = "";
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    assert_int_equal(write(memory, "hello", 5), 5);
    int r = child_start(&c, &log, "work", features, &sv[1], 1, NULL, &err);
    if (r < 0)
        fail_msg("spawn: %s", err.text);
    close(sv[1]);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof memory);
    memcpy(CMSG_DATA(h), &memory, sizeof memory);
    assert_int_equal(sendmsg(sv[0], &m, MSG_NOSIGNAL), 1);
    ssize_t n = recv(sv[0], answer, sizeof answer, 0);
    child_finish(&o, &c, log);
    outcome_is_success("work", &o);
    assert_int_equal(n, 5);
    assert_memory_equal(answer, "hello", 5);
    assert_string_equal(o.log, "a line of log\n");
    close(sv[0]);
    close(memory);
}

static void check_work(void **state)
{
    (void)state;
    run_work(full_features());
}

static void check_weak(void **state)
{
    (void)state;
    uint32_t here = features_here();
    const uint32_t masks[] = {
        here & (SANDBOX_BIT(SANDBOX_SECCOMP) | SANDBOX_BIT(SANDBOX_LANDLOCK)),
        here & SANDBOX_BIT(SANDBOX_SECCOMP),
        here & (SANDBOX_BIT(SANDBOX_SECCOMP) | SANDBOX_BIT(SANDBOX_OWN_UID)),
        here & ~SANDBOX_BIT(SANDBOX_NET_NS),
        here & ~SANDBOX_BIT(SANDBOX_LANDLOCK),
    };
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        run_work(masks[i]);
    struct outcome o = child_run_with("lock", 0, NULL, 0, NULL);
    outcome_is_success("lock with nothing", &o);
}

static void check_spawned(void **state)
{
    (void)state;
    uint32_t features = full_features();
    int pipefd[2], many[20];

    assert_int_equal(pipe(pipefd), 0); /* no close-on-exec: must not leak all the same */
    for (int i = 0; i < 20; i++)
        many[i] = dup(pipefd[0]);
    signal(SIGUSR1, SIG_IGN);
    int fds[] = {pipefd[1], 0};
    struct outcome o = child_run_with("spawned", features, fds, 2, NULL);
    outcome_is_success("spawned", &o);
    signal(SIGUSR1, SIG_DFL);
    for (int i = 0; i < 20; i++)
        close(many[i]);
    close(pipefd[0]);
    close(pipefd[1]);
}

static void check_cases(void **state)
{
    (void)state;
    static const char *const NAMES[] = {
        "lock",          "self_test",
#ifndef SLLORA_SANITIZED /* sanitizers keep threads and shadow memory of their own */
        "threads_first", "thread_limit", "limit",
#endif
    };
    uint32_t features = full_features();

    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        struct outcome o = child_run_with(NAMES[i], features, NULL, 0, NULL);
        outcome_is_success(NAMES[i], &o);
    }
    int fds[] = {0, 0, 0, 0, 0};
    struct outcome o = child_run_with("fds_closed", features, fds, 5, NULL);
    outcome_is_success("fds_closed", &o);
}

static void check_files(void **state)
{
    (void)state;
    uint32_t features = full_features();
    char name[] = "/tmp/sllora-test-XXXXXX";
    cleanup_fd int fd = mkostemp(name, O_CLOEXEC);

    assert_true(fd >= 0);
    unlink(name);
    struct outcome o = child_run_with("log_to_file", features, &fd, 1, NULL);
    outcome_is_success("log_to_file", &o);
    o = child_run_with("packer", features, &fd, 1, NULL);
    outcome_is_success("packer", &o);
}

static void check_failures(void **state)
{
    (void)state;
    uint32_t features = full_features();
    cleanup_fd int text = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    struct sandbox_child c = {.pid = -5};
    struct error err = {0};
    struct sandbox_spawn_options o = {
        .exe_fd = text,
        .argv = (const char *const[]){"x", NULL},
        .log_fd = -1,
        .uid = SANDBOX_UID_BASE,
        .features = features,
    };

    assert_int_equal(sandbox_spawn(&c, &o, &err), -EACCES);
    assert_non_null(strstr(err.text, "executable"));
    assert_int_equal(c.pid, -5);
    o.fds = (const int[]){999};
    o.fd_count = 1;
    assert_int_equal(sandbox_spawn(&c, &o, &err), -EBADF);
    o.fd_count = SANDBOX_SPAWN_FDS_MAX + 1;
    assert_int_equal(sandbox_spawn(&c, &o, &err), -E2BIG);
    o.fd_count = 0;
    struct sandbox_cgroup gone = {.version = 1, .dir = "/sys/fs/cgroup/no-such-group"};
    o.cgroup = &gone;
    assert_true(sandbox_spawn(&c, &o, &err) < 0);
    assert_non_null(strstr(err.text, "no-such-group"));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left behind */
}

static void check_own_uid(void **state)
{
    (void)state;
    uint32_t features = full_features();
    int sv[2], log;
    struct sandbox_child c;
    struct outcome o = {0};
    char path[64], line[256], byte;
    unsigned uid = 0;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    assert_int_equal(child_start(&c, &log, "echo", features, &sv[1], 1, NULL, NULL), 0);
    close(sv[1]);
    assert_int_equal(write(sv[0], "x", 1), 1);
    assert_int_equal(read(sv[0], &byte, 1), 1); /* it is locked now */
    snprintf(path, sizeof path, "/proc/%d/status", (int)c.pid);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "Uid: %u", &uid) == 1)
            assert_int_equal(uid, geteuid() == 0 ? SANDBOX_UID_BASE + CHILD_UID_SLOT : geteuid());
        unsigned long long caps;
        if (sscanf(line, "Cap%*[A-Za-z]: %llx", &caps) == 1)
            assert_int_equal(caps, 0);
        int value;
        if (sscanf(line, "NoNewPrivs: %d", &value) == 1)
            assert_int_equal(value, 1);
        if (sscanf(line, "Seccomp: %d", &value) == 1)
            assert_int_equal(value, 2);
    }
    assert_true(uid != 0);
    fclose(f);
    close(sv[0]);
    child_finish(&o, &c, log);
    outcome_is_success("echo", &o);
}

/* The daemon is killed: its worker goes with it, the kernel sees to that. */
static void check_dies_with_daemon(void **state)
{
    (void)state;
    uint32_t features = full_features();
    int sv[2], log;
    char byte;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    pid_t daemon_pid = fork();
    assert_true(daemon_pid >= 0);
    if (daemon_pid == 0) {
        struct sandbox_child c;
        close(sv[0]);
        _exit(child_start(&c, &log, "echo", features, &sv[1], 1, NULL, NULL) < 0 || pause());
    }
    close(sv[1]);
    assert_int_equal(write(sv[0], "x", 1), 1);
    assert_int_equal(read(sv[0], &byte, 1), 1);
    kill(daemon_pid, SIGKILL);
    assert_int_equal(waitpid(daemon_pid, NULL, 0), daemon_pid);
    struct pollfd p = {.fd = sv[0], .events = POLLIN};
    assert_int_equal(poll(&p, 1, CHILD_MS_MAX), 1);
    assert_int_equal(read(sv[0], &byte, 1), 0); /* the other end is gone */
    close(sv[0]);
}

static void check_memory_group(void **state)
{
    (void)state;
    struct sandbox_features f;
    struct sandbox_cgroup eater = {0}, neighbour = {0};
    struct sandbox_child c;
    struct outcome o = {0};
    struct error err = {0};
    int sv[2], log;
    char name[64], byte;

    (void)full_features();
    sandbox_probe(&f);
    if (!(f.have & SANDBOX_BIT(SANDBOX_MEMORY_CGROUP)) || sandbox_cgroup_prepare(&f, &err) < 0) {
        print_message("skipped: no memory group can be made here %s\n", err.text);
        skip();
    }
    snprintf(name, sizeof name, "sllora-test-%d-eater", (int)getpid());
    assert_int_equal(sandbox_cgroup_create(&eater, &f, "../x", 1, &err), -EINVAL);
    assert_int_equal(sandbox_cgroup_create(&eater, &f, name, 64 * MIB, &err), 0);
    snprintf(name, sizeof name, "sllora-test-%d-neighbour", (int)getpid());
    assert_int_equal(sandbox_cgroup_create(&neighbour, &f, name, 64 * MIB, &err), 0);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    assert_int_equal(child_start(&c, &log, "echo", f.have, &sv[1], 1, &neighbour, &err), 0);
    close(sv[1]);
    o = child_run_with("eat", f.have, NULL, 0, &eater);
    outcome_is_kill("eat", &o, SIGKILL);
    assert_true(sandbox_cgroup_oom_kills(&eater) >= 1);
    assert_int_equal(write(sv[0], "n", 1), 1);
    assert_int_equal(read(sv[0], &byte, 1), 1); /* the neighbour did not notice */
    assert_int_equal(sandbox_cgroup_oom_kills(&neighbour), 0);
    assert_int_equal(sandbox_cgroup_remove(&neighbour), -EBUSY);
    close(sv[0]);
    child_finish(&o, &c, log);
    outcome_is_success("echo", &o);
    assert_int_equal(sandbox_cgroup_remove(&neighbour), 0);
    assert_int_equal(sandbox_cgroup_remove(&eater), 0);
    assert_int_equal(sandbox_cgroup_remove(&eater), 0);
}

/* The parts add up; the figures themselves are printed, not asserted. */
static void check_cost(void **state)
{
    uint32_t features = full_features();
    struct sandbox_lock_cost k;
    int fds[2];

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct outcome o = child_run_with("cost", features, &fds[1], 1, NULL);
    outcome_is_success("cost", &o);
    assert_int_equal(read(fds[0], &k, sizeof k), sizeof k);
    assert_int_equal(k.total_ns,
                     k.root_ns + k.fds_ns + k.limits_ns + k.caps_ns + k.landlock_ns + k.seccomp_ns);
    assert_true(o.child.clone_ns > 0 && o.child.setup_ns > 0 && o.child.exec_ns > 0);
    print_message("us: clone %.0f setup %.0f exec %.0f; root %.0f fds %.0f limits %.0f caps %.0f "
                  "landlock %.0f seccomp %.0f\n",
                  (double)o.child.clone_ns / 1e3, (double)o.child.setup_ns / 1e3,
                  (double)o.child.exec_ns / 1e3, (double)k.root_ns / 1e3, (double)k.fds_ns / 1e3,
                  (double)k.limits_ns / 1e3, (double)k.caps_ns / 1e3, (double)k.landlock_ns / 1e3,
                  (double)k.seccomp_ns / 1e3);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--child") == 0)
        return child_main(argc, argv, CASES, sizeof CASES / sizeof *CASES);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_machine),
        cmocka_unit_test(check_work),
        cmocka_unit_test(check_weak),
        cmocka_unit_test(check_spawned),
        cmocka_unit_test(check_cases),
        cmocka_unit_test(check_files),
        cmocka_unit_test(check_failures),
        cmocka_unit_test(check_own_uid),
        cmocka_unit_test(check_dies_with_daemon),
        cmocka_unit_test(check_memory_group),
        cmocka_unit_test(check_cost),
    };
    int failed = cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
    if (become_ordinary_user(&failed))
        failed = cmocka_run_group_tests_name("sandbox as ordinary user", tests, NULL, NULL);
    return failed;
}
