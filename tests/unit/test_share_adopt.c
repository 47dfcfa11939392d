/*
 * A share in memory that somebody else made and reads: what is filled in is what was asked for, or
 * it stays unsealed, and whoever made it sees both through a reader that he had all along.
 */
#include "unit/image_order.h"

#include <sys/mman.h>

#include "base/cleanup.h"

static struct share *adopted(const struct order *o)
{
    struct share *s = NULL;
    struct error err = {0};
    if (share_adopt(&s, o->memory, o->bytes, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void test_fills_and_seals(void **state)
{
    static const uint64_t sizes[] = {1,       4095,        4096,    4097,       2 * MIB - 1,
                                     2 * MIB, 2 * MIB + 1, 4 * MIB, 5 * MIB + 3};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct order o = order_new(sizes[i]);
        struct error err = {0};
        struct share *s = adopted(&o);
        assert_int_equal(share_bytes(s), o.bytes);
        assert_int_equal(share_backing(s), SHARE_BACKING_MEMFD);
        assert_int_equal(share_reader_fd(s), -1);
        if (share_fill(s, o.file, &o.digest, NULL, NULL, &err) < 0)
            fail_msg("%s", err.text);
        assert_not_sealed(&o);
        if (share_seal(s, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(share_reader_fd(s), -1); /* whoever made it has one */
        assert_true(share_huge_bytes(s) <= o.bytes);
        share_free(s);
        assert_arrived(&o);
        /* Its maker's own descriptor was left alone, and changes nothing any more. */
        assert_int_equal(pwrite(o.memory, "x", 1, 0), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(ftruncate(o.memory, 0), -1);
        assert_arrived(&o);
        order_free(&o);
    }
}

/* A reader that was mapped before sees the bytes come; it does not stand in the seals' way. The
 * adopted descriptor may be closed at once. */
static void test_maker_watches(void **state)
{
    struct order o = order_new(3 * MIB);
    struct error err = {0};
    (void)state;
    const char *seen = mmap(NULL, o.bytes, PROT_READ, MAP_SHARED, o.reader, 0);
    assert_true(seen != MAP_FAILED);
    assert_int_equal(seen[o.bytes - 1], 0);
    struct share *s = NULL;
    int handed = dup(o.memory);
    assert_int_equal(share_adopt(&s, handed, o.bytes, &err), 0);
    close(handed);
    assert_int_equal(share_fill(s, o.file, &o.digest, NULL, NULL, &err), 0);
    assert_memory_equal(seen, o.image, o.bytes);
    assert_int_equal(share_seal(s, &err), 0);
    share_free(s);
    assert_arrived(&o);
    assert_int_equal(munmap((void *)(uintptr_t)seen, o.bytes), 0);
    order_free(&o);
}

static void refused(const char *what, int fd, uint64_t bytes)
{
    struct error err = {0};
    struct share *s = (struct share *)&err;
    int r = share_adopt(&s, fd, bytes, &err);
    if (r != -EINVAL || err.text[0] == '\0' || s != (struct share *)&err)
        fail_msg("%s: %d \"%s\"", what, r, err.text);
}

static void test_refused(void **state)
{
    struct order o = order_new(8192);
    int pipefd[2];
    (void)state;
    assert_int_equal(pipe2(pipefd, O_CLOEXEC), 0);
    cleanup_fd int empty = memfile_create("empty", 0, 0);
    cleanup_fd int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    cleanup_fd int directory = open("/", O_RDONLY | O_CLOEXEC);
    refused("a byte less", o.memory, o.bytes - 1);
    refused("a byte more", o.memory, o.bytes + 1);
    refused("a page more", o.memory, o.bytes + 4096);
    refused("much more", o.memory, UINT64_MAX);
    refused("nothing", o.memory, 0);
    refused("nothing of nothing", empty, 0);
    refused("closed", -1, 8192);
    refused("a pipe", pipefd[1], 8192);
    refused("a pipe of nothing", pipefd[1], 0);
    refused("a file", file, (uint64_t)lseek(file, 0, SEEK_END));
    refused("a directory", directory, 4096);
    close(pipefd[0]);
    close(pipefd[1]);
    order_free(&o);
}

/* What cannot be written is not filled. */
static void test_not_writable(void **state)
{
    struct order o = order_new(8192);
    struct error err = {0};
    struct share *s = NULL;
    (void)state;
    if (share_adopt(&s, o.reader, o.bytes, &err) == 0) {
        assert_true(share_fill(s, o.file, &o.digest, NULL, NULL, &err) < 0);
        assert_true(err.text[0] != '\0');
        assert_int_equal(share_seal(s, &err), -EINVAL);
        share_free(s);
    }
    assert_not_sealed(&o);
    assert_int_equal(memfile_seal(o.memory, &err), 0); /* full of zeroes */
    if (share_adopt(&s, o.memory, o.bytes, &err) == 0) {
        assert_true(share_fill(s, o.file, &o.digest, NULL, NULL, &err) < 0);
        assert_int_equal(share_seal(s, &err), -EINVAL);
        share_free(s);
    }
    char byte = 1;
    assert_int_equal(pread(o.reader, &byte, 1, (off_t)o.bytes - 1), 1);
    assert_int_equal(byte, 0);
    order_free(&o);
}

static void fill_fails(const struct order *o, const struct digest *digest, int expect,
                       const char *words)
{
    struct error err = {0};
    struct share *s = adopted(o);
    int r = share_fill(s, o->file, digest, NULL, NULL, &err);
    if (r != expect || strstr(err.text, words) == NULL)
        fail_msg("%d instead of %d: %s", r, expect, err.text);
    assert_int_equal(share_seal(s, &err), -EINVAL);
    assert_int_equal(share_fill(s, o->file, &o->digest, NULL, NULL, &err), -EINVAL);
    share_free(s);
    assert_not_sealed(o);
}

static void test_damaged(void **state)
{
    static const uint64_t places[] = {0, 2 * MIB - 1, 2 * MIB, 3 * MIB + 4};
    struct order o = order_new(3 * MIB + 5), other = order_new(3 * MIB + 6);
    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char flipped = (char)(o.image[places[i]] ^ 1);
        assert_int_equal(pwrite(o.file, &flipped, 1, (off_t)places[i]), 1);
        fill_fails(&o, &o.digest, -EBADMSG, "damaged");
        assert_int_equal(pwrite(o.file, &o.image[places[i]], 1, (off_t)places[i]), 1);
    }
    fill_fails(&o, &other.digest, -EBADMSG, "damaged");
    assert_int_equal(ftruncate(o.file, (off_t)o.bytes - 1), 0);
    fill_fails(&o, &o.digest, -EIO, "1 too early");
    assert_int_equal(ftruncate(o.file, 4096), 0);
    fill_fails(&o, &o.digest, -EIO, "at byte 4096, 3141637 too early"); /* of 3 MiB + 5 */
    assert_int_equal(ftruncate(o.file, 0), 0);
    fill_fails(&o, &o.digest, -EIO, "at byte 0, 3145733 too early");
    /* The memory is as good as before for another try. */
    assert_int_equal(pwrite(o.file, o.image, o.bytes, 0), o.bytes);
    struct error err = {0};
    struct share *s = adopted(&o);
    assert_int_equal(share_fill(s, o.file, &o.digest, NULL, NULL, &err), 0);
    assert_int_equal(share_seal(s, &err), 0);
    share_free(s);
    assert_arrived(&o);
    order_free(&o);
    order_free(&other);
}

/* A longer file is filled in as far as was asked for. */
static void test_longer_file(void **state)
{
    struct order o = order_new(4096);
    struct error err = {0};
    (void)state;
    assert_int_equal(pwrite(o.file, "more", 4, 4096), 4);
    struct share *s = adopted(&o);
    assert_int_equal(share_fill(s, o.file, &o.digest, NULL, NULL, &err), 0);
    assert_int_equal(share_seal(s, &err), 0);
    share_free(s);
    assert_arrived(&o);
    order_free(&o);
}

static void test_order(void **state)
{
    struct order o = order_new(MIB);
    struct error err = {0};
    (void)state;
    struct share *s = adopted(&o);
    assert_int_equal(share_seal(s, &err), -EINVAL);
    assert_not_sealed(&o);
    assert_int_equal(share_fill(s, o.file, &o.digest, NULL, NULL, &err), 0);
    assert_int_equal(share_fill(s, o.file, &o.digest, NULL, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "once"));
    assert_int_equal(share_seal(s, &err), 0);
    assert_int_equal(share_seal(s, &err), -EINVAL);
    assert_int_equal(share_fill(s, o.file, &o.digest, NULL, NULL, &err), -EINVAL);
    share_free(s);
    assert_arrived(&o);
    order_free(&o);
}

/* Whoever keeps a map to write through gets no seal, and nobody takes the image. */
static void test_kept_map(void **state)
{
    struct order o = order_new(MIB);
    struct error err = {0};
    (void)state;
    char *kept = mmap(NULL, o.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, o.memory, 0);
    assert_true(kept != MAP_FAILED);
    struct share *s = adopted(&o);
    assert_int_equal(share_fill(s, o.file, &o.digest, NULL, NULL, &err), 0);
    assert_int_equal(share_seal(s, &err), -EBUSY);
    assert_not_sealed(&o);
    assert_int_equal(munmap(kept, o.bytes), 0);
    assert_int_equal(share_seal(s, &err), 0);
    share_free(s);
    assert_arrived(&o);
    order_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fills_and_seals), cmocka_unit_test(test_maker_watches),
        cmocka_unit_test(test_refused),         cmocka_unit_test(test_not_writable),
        cmocka_unit_test(test_damaged),         cmocka_unit_test(test_longer_file),
        cmocka_unit_test(test_order),           cmocka_unit_test(test_kept_map),
    };
    int failed = cmocka_run_group_tests_name("share_adopt", tests, NULL, NULL);
    if (become_ordinary_user(&failed))
        failed = cmocka_run_group_tests_name("share_adopt as ordinary user", tests, NULL, NULL);
    return failed;
}
