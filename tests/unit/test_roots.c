/* Paths that clients name: below the operator's directories or refused, whatever links say. */
#include "daemon/roots.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/*
 * TOP/one/a, TOP/one/a/b      below the first root
 * TOP/one-not/c               a neighbour whose name begins with the root's
 * TOP/two/d                   below the second root
 * TOP/secret/e                below none
 */
struct world {
    char top[64];
    struct roots roots;
};

static const char *path_of(const struct world *w, const char *rest)
{
    static char path[4][256];
    static unsigned next;
    char *to = path[next++ % 4];
    snprintf(to, sizeof path[0], "%s/%s", w->top, rest);
    return to;
}

static int set_up(void **state)
{
    static const char *const dirs[] = {"one",     "one/a", "one/a/b", "one-not", "one-not/c",
                                       "one-not", "two",   "two/d",   "secret",  "secret/e"};
    struct world *w = calloc(1, sizeof *w);
    struct error err = {0};
    snprintf(w->top, sizeof w->top, "/tmp/sllora-roots-XXXXXX");
    if (mkdtemp(w->top) == NULL)
        return -1;
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++)
        mkdir(path_of(w, dirs[i]), 0700);
    assert_int_equal(symlink("one", path_of(w, "alias")), 0);
    if (roots_add(&w->roots, path_of(w, "alias/"), &err) < 0 ||
        roots_add(&w->roots, path_of(w, "two"), &err) < 0)
        fail_msg("%s", err.text);
    *state = w;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static int tear_down(void **state)
{
    struct world *w = *state;
    roots_close(&w->roots);
    nftw(w->top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(w);
    return 0;
}

static void accept(const struct world *w, const char *path, uint32_t root, const char *rest)
{
    char got[ROOT_PATH_BYTES];
    int fd = -1;
    struct error err = {0};
    if (roots_resolve(&w->roots, path, &fd, got, &err) < 0)
        fail_msg("%s: %s", path, err.text);
    assert_int_equal(fd, w->roots.list[root].fd);
    assert_string_equal(got, rest);
}

static void refuse(const struct world *w, const char *path, int code)
{
    char got[ROOT_PATH_BYTES];
    int fd = -1;
    struct error err = {0};
    int r = roots_resolve(&w->roots, path, &fd, got, &err);
    if (r != code)
        fail_msg("%s: %d \"%s\", expected %d", path, r, err.text, code);
    assert_non_null(strstr(err.text, path));
}

static void test_below(void **state)
{
    const struct world *w = *state;
    accept(w, "a", 0, "a");
    accept(w, "a/b/", 0, "a/b/");
    accept(w, "./a//b", 0, "./a//b");
    accept(w, "d", 1, "d");
    accept(w, path_of(w, "alias/a/b"), 0, "a/b"); /* as the operator wrote it */
    accept(w, path_of(w, "one//a"), 0, "a");      /* and without links */
    accept(w, path_of(w, "two/d"), 1, "d");
    accept(w, path_of(w, "two"), 1, ".");
}

static void test_outside(void **state)
{
    const struct world *w = *state;
    refuse(w, "..", -EACCES);
    refuse(w, "../one/a", -EACCES);
    refuse(w, "a/../a", -EACCES);
    refuse(w, "a/..", -EACCES);
    refuse(w, path_of(w, "two/../secret/e"), -EACCES);
    refuse(w, "/", -EACCES);
    refuse(w, "/etc", -EACCES);
    refuse(w, path_of(w, "secret/e"), -EACCES);
    refuse(w, path_of(w, "one-not/c"), -EACCES);
    refuse(w, w->top, -EACCES);
    refuse(w, "nothing", -ENOENT);
    refuse(w, path_of(w, "two/nothing"), -ENOENT);
    refuse(w, "a..b", -ENOENT); /* dots that are no parent */
}

static void test_links(void **state)
{
    const struct world *w = *state;
    assert_int_equal(symlink("a/b", path_of(w, "one/inside")), 0);
    assert_int_equal(symlink("../secret/e", path_of(w, "one/out")), 0);
    assert_int_equal(symlink(path_of(w, "secret"), path_of(w, "one/absolute")), 0);
    assert_int_equal(symlink(path_of(w, "one/a"), path_of(w, "one/back")), 0);
    assert_int_equal(symlink("../two/d", path_of(w, "one/other")), 0);
    assert_int_equal(symlink("loop", path_of(w, "one/loop")), 0);
    accept(w, "inside", 0, "inside");
    refuse(w, "out", -EACCES);
    refuse(w, "absolute/e", -EACCES);
    refuse(w, "back", -EACCES); /* what begins at "/" has left the root */
    refuse(w, "other", -EACCES);
    refuse(w, "loop", -EACCES);
    refuse(w, path_of(w, "one/out"), -EACCES);
}

/* Files are opened under the same rule as their directory, after it was resolved. */
static void test_files(void **state)
{
    const struct world *w = *state;
    int root = w->roots.list[0].fd;
    int file = open(path_of(w, "one/a/b/data"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    close(file);
    file = open(path_of(w, "secret/e/data"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(symlink("b/data", path_of(w, "one/a/near")), 0);
    assert_int_equal(symlink("../../secret/e/data", path_of(w, "one/a/far")), 0);
    int fd = root_open(root, "a/near", 0);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(root_open(root, "a/far", 0), -EXDEV);
    /* The directory is exchanged for a link behind our back. */
    assert_int_equal(rename(path_of(w, "one/a"), path_of(w, "one/was-a")), 0);
    assert_int_equal(symlink("../secret/e", path_of(w, "one/a")), 0);
    assert_int_equal(root_open(root, "a/data", 0), -EXDEV);
    /* A root stays the directory that it was at the start. */
    assert_int_equal(rename(path_of(w, "one"), path_of(w, "moved")), 0);
    fd = root_open(root, "was-a/b/data", 0);
    assert_true(fd >= 0);
    close(fd);
}

static void test_bad_roots(void **state)
{
    const struct world *w = *state;
    struct roots r = {.count = 0};
    struct error err = {0};
    int file = open(path_of(w, "file"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(roots_add(&r, path_of(w, "nothing"), &err), -ENOENT);
    assert_non_null(strstr(err.text, "--lora-root"));
    assert_int_equal(roots_add(&r, path_of(w, "file"), &err), -ENOTDIR);
    assert_int_equal(r.count, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_below), TEST(test_outside),   TEST(test_links),
        TEST(test_files), TEST(test_bad_roots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
