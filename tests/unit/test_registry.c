/* What must survive: functions with their generations, images with their certificates. */
#include "store/registry.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

struct world {
    char dir[64];
    char path[96];
    struct registry *registry;
};

static void reopen(struct world *w)
{
    struct error err = {0};
    registry_close(w->registry);
    w->registry = NULL;
    if (registry_open(&w->registry, w->path, &err) < 0)
        fail_msg("%s", err.text);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    snprintf(w->dir, sizeof w->dir, "/tmp/sllora-registry-XXXXXX");
    if (mkdtemp(w->dir) == NULL)
        return -1;
    snprintf(w->path, sizeof w->path, "%s/registry.sqlite", w->dir);
    reopen(w);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    registry_close(w->registry);
    unlink(w->path);
    rmdir(w->dir);
    free(w);
    return 0;
}

static struct digest digest_of_byte(uint8_t byte)
{
    struct digest d;
    memset(d.bytes, byte, sizeof d.bytes);
    return d;
}

/* Returns the generation, or what the registry said. */
static int64_t put(struct world *w, const char *name, uint64_t if_generation, struct error *err)
{
    struct registry_function f = {.isolation = 1, .backbone = digest_of_byte(1)};
    snprintf(f.name, sizeof f.name, "%s", name);
    snprintf(f.owner, sizeof f.owner, "acme");
    int r = registry_put_function(w->registry, &f, if_generation, err);
    return r < 0 ? r : (int64_t)f.generation;
}

static void test_generations(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    assert_int_equal(put(w, "a", REGISTRY_ANY_GENERATION, &err), 1);
    assert_int_equal(put(w, "a", REGISTRY_ANY_GENERATION, &err), 2);
    assert_int_equal(put(w, "a", 2, &err), 3);
    assert_int_equal(put(w, "a", 2, &err), -ESTALE);
    assert_non_null(strstr(err.text, "generation 3, not 2"));
    assert_int_equal(put(w, "a", 0, &err), -ESTALE);
    assert_non_null(strstr(err.text, "exists already"));
    assert_int_equal(put(w, "b", 1, &err), -ESTALE);
    assert_non_null(strstr(err.text, "does not exist"));
    assert_int_equal(put(w, "b", 0, &err), 1);
    /* A refused one has cost no generation, here or after a restart. */
    reopen(w);
    assert_int_equal(registry_check_generation(w->registry, "a", 3, &err), 0);
    assert_int_equal(registry_check_generation(w->registry, "a", 4, &err), -ESTALE);
    assert_int_equal(put(w, "a", 3, &err), 4);
    /* What was removed does not exist, and its generations are not given out again. */
    assert_int_equal(registry_remove_function(w->registry, "a", &err), 0);
    assert_int_equal(put(w, "a", 4, &err), -ESTALE);
    assert_int_equal(put(w, "a", 0, &err), 5);
}

static void test_certificates(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    struct registry_image adapter = {
        .digest = digest_of_byte(2), .bytes = 9, .kind = 2, .dtype = 3, .rank = 16};
    struct registry_image backbone = {.digest = digest_of_byte(3), .bytes = 8, .kind = 1};
    struct registry_image got;
    char *text = NULL;
    assert_int_equal(registry_put_image(w->registry, &adapter, "{\"a\":1}", &err), 0);
    assert_int_equal(registry_put_image(w->registry, &backbone, NULL, &err), 0);
    reopen(w);
    assert_int_equal(registry_get_image(w->registry, &adapter.digest, &got, &err), 0);
    assert_int_equal(got.rank, 16);
    assert_int_equal(got.dtype, 3);
    assert_int_equal(registry_get_certificate(w->registry, &adapter.digest, &text, &err), 0);
    assert_string_equal(text, "{\"a\":1}");
    free(text);
    assert_int_equal(registry_get_certificate(w->registry, &backbone.digest, &text, &err), -ENOENT);
    adapter.digest = digest_of_byte(4);
    assert_int_equal(registry_get_certificate(w->registry, &adapter.digest, &text, &err), -ENOENT);
}

static void test_other_format(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    sqlite3 *db;
    registry_close(w->registry);
    w->registry = NULL;
    assert_int_equal(sqlite3_open(w->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version=1", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(registry_open(&w->registry, w->path, &err), -EPROTO);
    assert_non_null(strstr(err.text, "has format 1"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_generations),
        TEST(test_certificates),
        TEST(test_other_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
