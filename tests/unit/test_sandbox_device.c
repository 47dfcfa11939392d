/*
 * A process that computes on a device, whose driver is played by the case itself: between the two
 * halves of the lock it opens a device file and starts a thread. What the driver needs goes on
 * afterwards, and nothing else does, in its thread neither.
 */
#include "unit/sandboxed.h"

#include <linux/capability.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define DEVICE "/dev/zero"

struct driver {
    int device;
    pthread_t thread;
    sem_t ready, go;
    bool was_held; /* its thread had no capability, and nothing that it tried worked */
};

static uint64_t capabilities_here(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct got[2];
    if (syscall(SYS_capget, &head, got) != 0)
        return UINT64_MAX;
    return got[0].effective | got[0].permitted | (uint64_t)got[1].effective << 32;
}

/* What no thread may do after the lock. */
static bool is_held(void)
{
    bool worked = socket(AF_UNIX, SOCK_STREAM, 0) >= 0;
    worked |= syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) >= 0;
    worked |= unshare(CLONE_NEWUSER) == 0;
    worked |= memfd_create("other", 0) >= 0;
    worked |= open("/proc/self/status", O_RDONLY) >= 0;
    worked |= open("/dev/null", O_RDONLY) >= 0;
    worked |= open("/new", O_CREAT | O_WRONLY, 0600) >= 0;
    worked |= mkdir("/dev/new", 0700) == 0;
    worked |= mount("none", "/dev", "tmpfs", 0, NULL) == 0;
    worked |= execve(DEVICE, (char *[]){NULL}, (char *[]){NULL}) == 0;
    worked |=
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
    return !worked;
}

static void *driver_thread(void *argument)
{
    struct driver *d = argument;
    uint64_t caps = capabilities_here();
    sem_post(&d->ready);
    sem_wait(&d->go);
    d->was_held = caps == 0 && is_held();
    return NULL;
}

static int driver_open(struct driver *d)
{
    d->device = open(DEVICE, O_RDWR | O_CLOEXEC);
    return d->device < 0 || sem_init(&d->ready, 0, 0) < 0 || sem_init(&d->go, 0, 0) < 0 ||
           pthread_create(&d->thread, NULL, driver_thread, d) != 0 || sem_wait(&d->ready) < 0;
}

static int lock_around(struct driver *d, uint32_t features, struct error *err)
{
    static const int KEEP[] = {3};
    struct sandbox_policy p = {.role = SANDBOX_WORKER,
                               .features = features,
                               .threads_max = 8,
                               .fds_max = 64,
                               .fds = KEEP,
                               .fd_count = 1};
    int r = sandbox_device_begin(&p.device, &p, err);
    if (r == 0 && driver_open(d) != 0)
        r = error_set(err, -EIO, "the case's driver does not open");
    if (r == 0)
        r = sandbox_lock(&p, NULL, err);
    return r == 0 ? sandbox_self_test(&p, err) : r;
}

static int case_computes(uint32_t features)
{
    static struct driver d = {.device = -1};
    struct error err = {0};
    char byte = 1;
    int count;
    if (lock_around(&d, features, &err) < 0) {
        dprintf(2, "%s\n", err.text);
        return 1;
    }
    CHILD_CHECK(fcntl(3, F_GETFD) >= 0);
    CHILD_CHECK(read(d.device, &byte, 1) == 1 && byte == 0);
    CHILD_CHECK(ioctl(d.device, FIONREAD, &count) < 0 && errno == ENOTTY); /* the file's own word */
    int again = open(DEVICE, O_RDWR | O_CLOEXEC);
    CHILD_CHECK(again >= 0);
    CHILD_CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) != MAP_FAILED);
    CHILD_CHECK(is_held());
    CHILD_CHECK(sem_post(&d.go) == 0 && pthread_join(d.thread, NULL) == 0);
    CHILD_CHECK(d.was_held);
    return 0;
}

/* Between the halves a new thread has no capability either, and threads that came before the first
 * half are the caller's mistake. */
static int case_has_threads(uint32_t features)
{
    static struct driver d = {.device = -1};
    struct sandbox_policy p = {.role = SANDBOX_WORKER, .features = features, .fds_max = 64};
    struct error err = {0};
    CHILD_CHECK(driver_open(&d) == 0);
    CHILD_CHECK(sandbox_device_begin(&p.device, &p, &err) == -EBUSY);
    return 0;
}

static const struct child_case CASES[] = {{"computes", case_computes},
                                          {"has-threads", case_has_threads}};

static void run(const char *name, uint32_t features)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct outcome o = child_run_with(name, features, &null, 1, NULL);
    close(null);
    outcome_is_success(name, &o);
}

static void test_computes(void **state)
{
    (void)state;
    run("computes", features_here());
}

static void test_without_landlock(void **state)
{
    (void)state;
    run("computes", features_here() & ~SANDBOX_BIT(SANDBOX_LANDLOCK));
}

static void test_threads_before(void **state)
{
    (void)state;
    run("has-threads", features_here());
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_computes),
        cmocka_unit_test(test_without_landlock),
        cmocka_unit_test(test_threads_before),
    };
    int failed = 0;
    if (argc > 1)
        return child_main(argc, argv, CASES, sizeof CASES / sizeof *CASES);
    if (become_ordinary_user(&failed))
        return cmocka_run_group_tests_name("device, ordinary user", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
