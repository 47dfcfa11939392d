/*
 * Memory handed over as a descriptor: it has the size that was asked for, its reader changes
 * nothing, and once it is sealed nobody does, root included. Run as root, everything is run a
 * second time as an ordinary user.
 */
#include "base/memfile.h"
#include "unit/sandboxed.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define BYTES ((size_t)3 * 4096)
#define ALL_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

static int reopened(int fd, int flags)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

static uint32_t open_fds(void)
{
    uint32_t count = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

/* Every byte is `letter`, as `fd` reads it. */
static void assert_all(int fd, char letter)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, BYTES);
    const char *p = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED);
    for (size_t i = 0; i < BYTES; i++)
        assert_int_equal(p[i], letter);
    assert_int_equal(munmap((void *)(uintptr_t)p, BYTES), 0);
}

/* Made, filled with `letter`, with a reader. */
static int filled(char letter, int *ret_reader)
{
    char bytes[BYTES];
    struct error err = {0};
    int fd = memfile_create("test", 0, BYTES);
    assert_true(fd >= 0);
    if (memfile_reader(fd, ret_reader, &err) < 0)
        fail_msg("%s", err.text);
    memset(bytes, letter, BYTES);
    assert_int_equal(pwrite(fd, bytes, BYTES, 0), BYTES);
    return fd;
}

/* --- making it --- */

static void test_sizes(void **state)
{
    static const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, UINT64_C(1) << 33, INT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct stat st;
        cleanup_fd int fd = memfile_create("test", 0, sizes[i]);
        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, sizes[i]);
        assert_int_equal(st.st_blocks, 0); /* memory comes with the first touch */
        assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
        assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
        assert_int_equal(memfile_seals(fd) & ALL_SEALS, 0);
        assert_false(memfile_is_sealed(fd));
    }
}

static void test_what_cannot_be_made(void **state)
{
    char name[300];
    uint32_t before = open_fds();
    (void)state;
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    assert_int_equal(memfile_create("test", 0, UINT64_MAX), -EINVAL);
    assert_int_equal(memfile_create("test", 0, (uint64_t)INT64_MAX + 1), -EINVAL);
    assert_int_equal(memfile_create("test", 1u << 15, 4096), -EINVAL);
    assert_int_equal(memfile_create(name, 0, 4096), -EINVAL);
    assert_int_equal(open_fds(), before);
}

/* What is no such memory is neither read, sealed nor taken for sealed. */
static void test_nonsense(void **state)
{
    char name[] = "/tmp/sllora-test-XXXXXX";
    int pipefd[2];
    (void)state;
    assert_int_equal(pipe2(pipefd, O_CLOEXEC), 0);
    cleanup_fd int file = mkostemp(name, O_CLOEXEC);
    unlink(name);
    cleanup_fd int directory = open("/", O_RDONLY | O_CLOEXEC);
    cleanup_fd int device = open("/dev/null", O_RDWR | O_CLOEXEC);
    cleanup_fd int plain = memfd_create("test", MFD_CLOEXEC); /* not made to be sealed */
    const int fds[] = {-1, 999, pipefd[1], file, directory, device, plain};
    /* Reading begins with the mode, and this is the machine's. */
    const bool readable[] = {true, true, true, true, false, false, true};
    uint32_t before = open_fds();
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        struct error err = {0};
        int reader = -77;
        assert_false(memfile_is_sealed(fds[i]));
        assert_true(memfile_seal(fds[i], &err) < 0);
        assert_true(err.text[0] != '\0');
        assert_false(memfile_is_sealed(fds[i]));
        err = (struct error){0};
        if (!readable[i])
            continue;
        int r = memfile_reader(fds[i], &reader, &err);
        if (r >= 0 || err.code != r || err.text[0] == '\0' || reader != -77)
            fail_msg("descriptor %zu: %d \"%s\", reader %d", i, r, err.text, reader);
    }
    assert_int_equal(memfile_seals(-1), -1);
    assert_int_equal(memfile_seals(pipefd[0]), -1);
    assert_int_equal(open_fds(), before);
    close(pipefd[0]);
    close(pipefd[1]);
}

/* --- what a reader can do --- */

/* Each tries to change bytes or size through a descriptor; >= 0: it worked. */

static long try_write(int fd)
{
    return pwrite(fd, "x", 1, 0);
}

static long try_append(int fd)
{
    return pwrite(fd, "x", 1, BYTES);
}

static long try_stream(int fd)
{
    return lseek(fd, 0, SEEK_SET) < 0 ? -1 : write(fd, "x", 1);
}

static long try_shrink(int fd)
{
    return ftruncate(fd, BYTES - 1);
}

static long try_grow(int fd)
{
    return ftruncate(fd, BYTES + 1);
}

static long try_allocate(int fd)
{
    return fallocate(fd, 0, BYTES, 4096);
}

static long try_hole(int fd)
{
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
}

static long try_sendfile(int fd)
{
    cleanup_fd int other = memfd_create("source", MFD_CLOEXEC);
    off_t at = 0;
    if (write(other, "xyz", 3) != 3 || lseek(fd, 0, SEEK_SET) < 0)
        return 0;
    return sendfile(fd, other, &at, 3);
}

/* A map may be wanted for its own sake: it has worked when it is there. */
static long try_map(int fd)
{
    char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -1;
    (void)munmap(p, BYTES);
    return 0;
}

static long try_protect(int fd)
{
    char *p = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -1;
    long r = mprotect(p, BYTES, PROT_READ | PROT_WRITE);
    int code = errno;
    (void)munmap(p, BYTES);
    errno = code;
    return r;
}

struct attempt {
    const char *name;
    long (*try)(int fd);
};

static const struct attempt ATTEMPTS[] = {
    {"write", try_write},       {"write beyond", try_append}, {"write as a stream", try_stream},
    {"shrink", try_shrink},     {"grow", try_grow},           {"allocate", try_allocate},
    {"punch a hole", try_hole}, {"sendfile", try_sendfile},   {"map writable", try_map},
    {"mprotect", try_protect},
};

static void nothing_works(int fd, const char *what)
{
    for (size_t i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++) {
        errno = 0;
        if (ATTEMPTS[i].try(fd) >= 0)
            fail_msg("%s: %s worked", what, ATTEMPTS[i].name);
    }
    /* The access of an open file is not changed by its flags, nor is a seal taken away. */
    (void)fcntl(fd, F_SETFL, O_RDWR);
    assert_int_equal(try_write(fd), -1);
    assert_true(fcntl(fd, F_ADD_SEALS, 0) < 0);
}

/* The attempts do what they say where they may: else their failing would show nothing. */
static void test_attempts_work_before(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++) {
        cleanup_fd int fd = memfile_create("test", 0, BYTES);
        if (ATTEMPTS[i].try(fd) < 0)
            fail_msg("%s: %s", ATTEMPTS[i].name, strerror(errno));
    }
}

static void test_reader_only_reads(void **state)
{
    int reader;
    (void)state;
    cleanup_fd int fd = filled('a', &reader);
    cleanup_fd int own = reader;
    assert_int_equal(fcntl(reader, F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(reader, F_GETFL) & O_ACCMODE, O_RDONLY);
    nothing_works(reader, "a reader");
    assert_all(reader, 'a');
    /* What its maker writes is what the reader sees, at the size that is fixed now. */
    assert_int_equal(try_shrink(fd), -1);
    assert_int_equal(try_grow(fd), -1);
    assert_int_equal(try_append(fd), -1);
    assert_int_equal(try_allocate(fd), -1);
    char bytes[BYTES];
    memset(bytes, 'b', BYTES);
    assert_int_equal(pwrite(fd, bytes, BYTES, 0), BYTES);
    assert_all(reader, 'b');
    assert_false(memfile_is_sealed(fd));
    assert_false(memfile_is_sealed(reader));
    struct error err = {0};
    assert_true(memfile_seal(reader, &err) < 0); /* only who may write may seal */
    assert_false(memfile_is_sealed(fd));
}

/* By its mode alone, before any seal of writing: whoever does not own it has no way back. */
static void test_others_cannot_reopen(void **state)
{
    int reader;
    (void)state;
    cleanup_fd int fd = filled('a', &reader);
    cleanup_fd int own = reader;
    struct stat st;
    assert_int_equal(fstat(reader, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0444);
    if (geteuid() != 0) {
        assert_int_equal(reopened(reader, O_RDWR), -1);
        assert_int_equal(errno, EACCES);
        assert_int_equal(reopened(reader, O_WRONLY), -1);
        assert_int_equal(reopened(reader, O_RDONLY | O_TRUNC), -1);
        return;
    }
    int failed = 0;
    if (become_ordinary_user(&failed)) {
        bool held = true;
        static const int FLAGS[] = {O_RDWR, O_WRONLY, O_RDONLY | O_TRUNC, O_WRONLY | O_APPEND};
        for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++)
            held = held && reopened(reader, FLAGS[i]) == -1 && errno == EACCES;
        held = held && fchmod(reader, 0666) == -1 && errno == EPERM;
        int again = reopened(reader, O_RDONLY);
        held = held && again >= 0 && try_write(again) == -1 && try_map(again) == -1;
        _exit(!held);
    }
    assert_int_equal(failed, 0);
    assert_all(reader, 'a');
}

/* --- sealed --- */

static void test_sealed_for_everybody(void **state)
{
    static const int FLAGS[] = {O_RDWR, O_WRONLY, O_RDONLY, O_RDONLY | O_TRUNC};
    int reader;
    struct error err = {0};
    (void)state;
    cleanup_fd int fd = filled('a', &reader);
    cleanup_fd int own = reader;
    if (memfile_seal(fd, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(memfile_is_sealed(fd));
    assert_true(memfile_is_sealed(reader));
    assert_int_equal(memfile_seals(reader) & ALL_SEALS, ALL_SEALS);
    nothing_works(fd, "its maker");
    nothing_works(reader, "a reader");
    /* Root may open what it likes, its owner may change the mode: neither helps. */
    for (size_t i = 0; i < 2 * sizeof FLAGS / sizeof *FLAGS; i++) {
        cleanup_fd int again = reopened(reader, FLAGS[i / 2]);
        if (again >= 0)
            nothing_works(again, "opened again");
        assert_int_equal(fchmod(fd, 0666), 0);
    }
    assert_all(reader, 'a');
    assert_true(memfile_is_sealed(reader));
    assert_int_equal(memfile_seal(fd, &err), -EPERM); /* once */
    int more = -77;
    assert_int_equal(memfile_reader(fd, &more, &err), -EPERM);
    assert_int_equal(more, -77);
}

/* Not while somebody can still write through a map: that is an error, and no seal of writing. */
static void test_not_while_it_is_mapped(void **state)
{
    int reader;
    struct error err = {0};
    (void)state;
    cleanup_fd int fd = filled('a', &reader);
    cleanup_fd int own = reader;
    char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(memfile_seal(fd, &err), -EBUSY);
    assert_true(err.text[0] != '\0');
    assert_false(memfile_is_sealed(fd));
    assert_int_equal(munmap(p, BYTES), 0);
    /* A reader's map is none that could write. */
    const char *seen = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, reader, 0);
    assert_true(seen != MAP_FAILED);
    assert_int_equal(memfile_seal(fd, &err), 0);
    assert_int_equal(seen[BYTES - 1], 'a');
    assert_int_equal(munmap((void *)(uintptr_t)seen, BYTES), 0);
}

/* Every seal counts. */
static void test_sealed_is_all_of_them(void **state)
{
    (void)state;
    for (int seals = 0; seals <= ALL_SEALS; seals++) {
        if ((seals & ~ALL_SEALS) != 0)
            continue;
        cleanup_fd int fd = memfile_create("test", 0, BYTES);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
        assert_int_equal(memfile_seals(fd) & ALL_SEALS, seals);
        assert_int_equal(memfile_is_sealed(fd), seals == ALL_SEALS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_what_cannot_be_made),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_attempts_work_before),
        cmocka_unit_test(test_reader_only_reads),
        cmocka_unit_test(test_others_cannot_reopen),
        cmocka_unit_test(test_sealed_for_everybody),
        cmocka_unit_test(test_not_while_it_is_mapped),
        cmocka_unit_test(test_sealed_is_all_of_them),
    };
    int failed = cmocka_run_group_tests_name("memfile", tests, NULL, NULL);
    if (become_ordinary_user(&failed))
        failed = cmocka_run_group_tests_name("memfile as ordinary user", tests, NULL, NULL);
    return failed;
}
