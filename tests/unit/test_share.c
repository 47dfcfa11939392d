/* Shares: what arrives is what was sent, or nothing; what is not immutable is not mapped. The
 * attempts to write one from a worker's sandbox are in test_sandbox_denied.c. */
#include "unit/sandboxed.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/rng.h"
#include "weights/share.h"

#define MIB ((uint64_t)1 << 20)
#define ALL_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

struct source {
    int fd;
    char *bytes;
    struct digest digest;
};

static struct source source_new(uint64_t bytes, uint64_t seed)
{
    struct source s = {.fd = memfd_create("source", MFD_CLOEXEC), .bytes = malloc(bytes + 8)};
    struct rng r;

    rng_seed(&r, seed);
    for (uint64_t i = 0; i < bytes; i += 8) {
        uint64_t word = rng_u64(&r);
        memcpy(s.bytes + i, &word, 8);
    }
    assert_int_equal(pwrite(s.fd, s.bytes, bytes, 0), bytes);
    digest_of(s.bytes, bytes, &s.digest);
    return s;
}

static void source_free(struct source *s)
{
    close(s->fd);
    free(s->bytes);
}

static struct share *share_of(const struct source *src, uint64_t bytes,
                              const struct share_options *o)
{
    struct share *s = NULL;
    struct error err = {0};

    if (share_create(&s, bytes, o, &err) < 0 ||
        share_fill(s, src->fd, &src->digest, NULL, NULL, &err) < 0 || share_seal(s, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void round_trip(uint64_t bytes, const struct share_options *o, bool populate)
{
    struct source src = source_new(bytes, bytes);
    struct share *s = share_of(&src, bytes, o);
    struct share_view v = {0};
    struct error err = {0};

    int fd = dup(share_reader_fd(s));
    if (share_map(&v, fd, UINT64_MAX, populate, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(share_bytes(s), bytes);
    share_free(s); /* readers keep it */
    close(fd);
    assert_int_equal((uintptr_t)v.data % SHARE_HUGE_BYTES, 0);
    assert_true(v.bytes >= bytes);
    assert_memory_equal(v.data, src.bytes, bytes);
    for (uint64_t i = bytes; i < v.bytes; i++)
        assert_int_equal(((const char *)v.data)[i], 0);
    share_unmap(&v);
    assert_null(v.data);
    source_free(&src);
}

static void test_round_trip(void **state)
{
    static const uint64_t SIZES[] = {1,       4095,        4096,    4097,       2 * MIB - 1,
                                     2 * MIB, 2 * MIB + 1, 4 * MIB, 5 * MIB + 3};
    const struct share_options small_pages = {.no_hugetlb = true, .no_collapse = true};
    const struct share_options no_pool = {.no_hugetlb = true, .name = "x"};

    (void)state;
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        round_trip(SIZES[i], NULL, false);
        round_trip(SIZES[i], &no_pool, true);
        round_trip(SIZES[i], &small_pages, true);
    }
}

static void test_huge_pages(void **state)
{
    struct source src = source_new(8 * MIB, 3);
    const struct share_options small_pages = {.no_hugetlb = true, .no_collapse = true};

    (void)state;
    struct share *s = share_of(&src, 8 * MIB, NULL);
    print_message("backing %s, %llu of 8388608 bytes in 2 MiB pages\n",
                  share_backing(s) == SHARE_BACKING_HUGETLB ? "hugetlb" : "memfd",
                  (unsigned long long)share_huge_bytes(s));
    assert_int_equal(share_huge_bytes(s) % SHARE_HUGE_BYTES, 0);
    share_free(s);
    s = share_of(&src, 8 * MIB, &small_pages);
    assert_int_equal(share_huge_bytes(s), 0);
    assert_int_equal(share_backing(s), SHARE_BACKING_MEMFD);
    share_free(s);
    source_free(&src);
}

struct watched {
    uint64_t last;
    unsigned calls;
};

static void watch(void *ctx, uint64_t done, uint64_t total)
{
    struct watched *w = ctx;
    assert_true(done > w->last && done <= total);
    w->last = done;
    w->calls++;
}

static void test_progress(void **state)
{
    uint64_t bytes = 130 * MIB + 17;
    struct source src = source_new(bytes, 5);
    struct share *s = NULL;
    struct watched w = {0};
    struct error err = {0};

    (void)state;
    assert_int_equal(share_create(&s, bytes, NULL, &err), 0);
    assert_int_equal(share_fill(s, src.fd, &src.digest, watch, &w, &err), 0);
    assert_int_equal(w.last, bytes);
    assert_int_equal(w.calls, 3);
    share_free(s);
    source_free(&src);
}

static void test_damaged(void **state)
{
    uint64_t bytes = 3 * MIB + 5;
    static const uint64_t PLACES[] = {0, 2 * MIB - 1, 2 * MIB, 3 * MIB + 4};
    struct source src = source_new(bytes, 7);
    struct error err = {0};
    struct share *s = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        char flipped = (char)(src.bytes[PLACES[i]] ^ 1);
        assert_int_equal(pwrite(src.fd, &flipped, 1, (off_t)PLACES[i]), 1);
        assert_int_equal(share_create(&s, bytes, NULL, &err), 0);
        assert_int_equal(share_fill(s, src.fd, &src.digest, NULL, NULL, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "damaged"));
        assert_int_equal(share_seal(s, &err), -EINVAL);
        assert_int_equal(share_fill(s, src.fd, &src.digest, NULL, NULL, &err), -EINVAL);
        assert_int_equal(share_reader_fd(s), -1);
        share_free(s);
        assert_int_equal(pwrite(src.fd, &src.bytes[PLACES[i]], 1, (off_t)PLACES[i]), 1);
    }
    assert_int_equal(ftruncate(src.fd, (off_t)bytes - 1), 0);
    assert_int_equal(share_create(&s, bytes, NULL, &err), 0);
    assert_int_equal(share_fill(s, src.fd, &src.digest, NULL, NULL, &err), -EIO);
    assert_non_null(strstr(err.text, "1 too early"));
    share_free(s);
    int pipefd[2];
    assert_int_equal(pipe2(pipefd, O_CLOEXEC), 0);
    assert_int_equal(share_create(&s, bytes, NULL, &err), 0);
    assert_int_equal(share_fill(s, pipefd[0], &src.digest, NULL, NULL, &err), -EIO);
    share_free(s);
    close(pipefd[0]);
    close(pipefd[1]);
    source_free(&src);
}

static void test_order(void **state)
{
    struct source src = source_new(4096, 9);
    struct error err = {0};
    struct share *s = (struct share *)&err;

    (void)state;
    assert_int_equal(share_create(&s, 0, NULL, &err), -EINVAL);
    assert_int_equal(share_create(&s, UINT64_MAX, NULL, &err), -EINVAL);
    assert_ptr_equal(s, &err);
    assert_int_equal(share_create(&s, 4096, NULL, &err), 0);
    assert_int_equal(share_reader_fd(s), -1);
    assert_int_equal(share_seal(s, &err), -EINVAL);
    assert_int_equal(share_fill(s, src.fd, &src.digest, NULL, NULL, &err), 0);
    assert_int_equal(share_reader_fd(s), -1);
    assert_int_equal(share_seal(s, &err), 0);
    assert_true(share_reader_fd(s) >= 0);
    assert_int_equal(share_seal(s, &err), -EINVAL);
    assert_int_equal(share_fill(s, src.fd, &src.digest, NULL, NULL, &err), -EINVAL);
    share_free(s);
    share_free(NULL);
    source_free(&src);
}

static int memfd_with(uint64_t bytes, mode_t mode, int seals)
{
    int fd = memfd_create("foreign", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    assert_int_equal(fchmod(fd, mode), 0);
    if (seals)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static int reopen(int fd, int flags)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int other = open(path, flags | O_CLOEXEC);
    close(fd);
    return other;
}

static void refused(const char *what, int fd, int expect)
{
    struct share_view v = {.bytes = 77};
    struct error err = {0};

    int r = share_map(&v, fd, MIB, false, &err);
    if (r != expect || err.text[0] == '\0' || v.bytes != 77)
        fail_msg("%s: %d instead of %d: %s", what, r, expect, err.text);
    if (fd >= 0)
        close(fd);
}

static void test_refused(void **state)
{
    static const int EACH_SEAL[] = {F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE,
                                    F_SEAL_SEAL};
    int pipefd[2];

    (void)state;
    assert_int_equal(pipe2(pipefd, O_CLOEXEC), 0);
    close(pipefd[1]);
    refused("closed", -1, -EINVAL);
    refused("a pipe", pipefd[0], -EINVAL);
    refused("a file", open("/etc/passwd", O_RDONLY | O_CLOEXEC), -EINVAL);
    refused("a directory", open("/", O_RDONLY | O_CLOEXEC), -EINVAL);
    refused("a device", open("/dev/zero", O_RDONLY | O_CLOEXEC), -EINVAL);
    refused("no seals", reopen(memfd_with(4096, 0444, 0), O_RDONLY), -EPERM);
    for (size_t i = 0; i < sizeof EACH_SEAL / sizeof *EACH_SEAL; i++)
        refused("a seal less", reopen(memfd_with(4096, 0444, ALL_SEALS & ~EACH_SEAL[i]), O_RDONLY),
                -EPERM);
    refused("the creator's own", memfd_with(4096, 0444, ALL_SEALS), -EPERM);
    refused("only a path", reopen(memfd_with(4096, 0444, ALL_SEALS), O_PATH), -EINVAL);
    refused("empty", reopen(memfd_with(0, 0444, ALL_SEALS), O_RDONLY), -EINVAL);
    refused("too long", reopen(memfd_with(MIB + 1, 0444, ALL_SEALS), O_RDONLY), -E2BIG);
    struct share_view v;
    int good = reopen(memfd_with(MIB, 0444, ALL_SEALS), O_RDONLY);
    assert_int_equal(share_map(&v, good, MIB, false, NULL), 0);
    share_unmap(&v);
    close(good);
}

/* In a child, for what is frozen stays. */
static int case_freeze(uint32_t features)
{
    struct share_view v;
    struct error err = {0};

    (void)features;
    CHILD_CHECK(share_map(&v, 3, UINT64_MAX, true, &err) == 0);
    int r = share_freeze(&v);
    if (r == -ENOSYS)
        return 0;
    CHILD_CHECK(r == 0);
    char *p = (char *)(uintptr_t)v.data;
    CHILD_CHECK(munmap(p, 4096) == -1 && errno == EPERM);
    CHILD_CHECK(mprotect(p, 4096, PROT_NONE) == -1);
    CHILD_CHECK(mremap(p, 4096, 8192, MREMAP_MAYMOVE) == MAP_FAILED);
    CHILD_CHECK(mmap(p, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                     0) == MAP_FAILED);
    CHILD_CHECK(memcmp(p, &(uint64_t){0}, 8) != 0);
    return 0;
}

/* A keeper as it runs: made before the lock, filled and sealed under it, handed out by message. */
static int case_keeper(uint32_t features)
{
    struct share *s = NULL;
    struct error err = {0};
    struct stat st;
    struct digest expect;
    int keep[4] = {3, 4};

    CHILD_CHECK(read(4, &expect, sizeof expect) == (ssize_t)sizeof expect);
    CHILD_CHECK(fstat(3, &st) == 0);
    CHILD_CHECK(share_create(&s, (uint64_t)st.st_size, NULL, &err) == 0);
    share_keep_fds(s, keep + 2);
    struct sandbox_policy p = {
        .role = SANDBOX_KEEPER,
        .features = features,
        .memory_bytes_max = 64 * MIB,
        .threads_max = 1,
        .fds_max = 32,
        .fds = keep,
        .fd_count = 4,
    };
    if (sandbox_lock(&p, NULL, &err) < 0 || sandbox_self_test(&p, &err) < 0 ||
        share_fill(s, 3, &expect, NULL, NULL, &err) < 0 || share_seal(s, &err) < 0) {
        dprintf(2, "%s\n", err.text);
        return 1;
    }
    int fd = share_reader_fd(s);
    union {
        char bytes[CMSG_SPACE(sizeof fd)];
        struct cmsghdr align;
    } control = {{0}};
    struct msghdr m = {.msg_iov = &(struct iovec){&fd, 1},
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    CHILD_CHECK(sendmsg(4, &m, 0) == 1);
    share_free(s);
    return 0;
}

static const struct child_case CASES[] = {{"freeze", case_freeze}, {"keeper", case_keeper}};

static void test_freeze(void **state)
{
    struct source src = source_new(2 * MIB, 11);
    struct share *s = share_of(&src, 2 * MIB, NULL);
    int fd = share_reader_fd(s);

    (void)state;
    struct outcome o = child_run_with("freeze", 0, &fd, 1, NULL);
    outcome_is_success("freeze", &o);
    share_free(s);
    source_free(&src);
}

static void test_keeper(void **state)
{
    uint32_t features = features_here();
    uint64_t bytes = 9 * MIB + 123;
    struct source src = source_new(bytes, 13);
    struct sandbox_child c;
    struct outcome o = {0};
    struct error err = {0};
    int sv[2], log, fd = -1;
    char byte;
    union {
        char bytes[CMSG_SPACE(sizeof fd)];
        struct cmsghdr align;
    } control;
    struct msghdr m = {.msg_iov = &(struct iovec){&byte, 1},
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    int fds[] = {src.fd, sv[1]};
    if (child_start(&c, &log, "keeper", features, fds, 2, NULL, &err) < 0)
        fail_msg("%s", err.text);
    close(sv[1]);
    assert_int_equal(write(sv[0], &src.digest, sizeof src.digest), sizeof src.digest);
    ssize_t n = recvmsg(sv[0], &m, MSG_CMSG_CLOEXEC);
    child_finish(&o, &c, log);
    outcome_is_success("keeper", &o);
    assert_int_equal(n, 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    struct share_view v = {0};
    if (share_map(&v, fd, 2 * bytes, true, &err) < 0)
        fail_msg("%s", err.text);
    assert_memory_equal(v.data, src.bytes, bytes);
    share_unmap(&v);
    close(fd);
    close(sv[0]);
    source_free(&src);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--child") == 0)
        return child_main(argc, argv, CASES, sizeof CASES / sizeof *CASES);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_huge_pages),
        cmocka_unit_test(test_progress),   cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_order),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_freeze),     cmocka_unit_test(test_keeper),
    };
    int failed = cmocka_run_group_tests_name("share", tests, NULL, NULL);
    if (become_ordinary_user(&failed))
        failed = cmocka_run_group_tests_name("share as ordinary user", tests, NULL, NULL);
    return failed;
}
