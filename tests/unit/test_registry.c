/* What must survive: functions with their generations and objectives, owners with their limits,
 * images with their sizes and certificates; and files that cannot be it. */
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

/* --- what is kept --- */

static struct registry_function function_of(const char *name, const char *owner)
{
    struct registry_function f = {.isolation = 1, .backbone = digest_of_byte(1)};
    snprintf(f.name, sizeof f.name, "%s", name);
    snprintf(f.owner, sizeof f.owner, "%s", owner);
    return f;
}

static void must(int r, const struct error *err)
{
    if (r < 0)
        fail_msg("%d: %s", r, err->text);
}

struct seen {
    struct registry_function f[8];
    uint32_t count, stop_at;
};

static int see(void *context, const struct registry_function *f)
{
    struct seen *s = context;
    assert_true(s->count < 8);
    s->f[s->count++] = *f;
    return s->count == s->stop_at ? -77 : 0;
}

static struct seen functions_of(struct world *w)
{
    struct seen s = {0};
    struct error err = {0};
    must(registry_each_function(w->registry, see, &s, &err), &err);
    return s;
}

/* Objectives, owner and its limit, isolation, digests; in the order of names. */
static void test_functions_are_kept(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    uint32_t acme = 0, again = 0;
    struct registry_function b = function_of("b", "acme"), a = function_of("a", "globex");
    b.slo_ttft_us = 1500000;
    b.slo_tpot_us = UINT64_C(1) << 40;
    b.isolation = 3;
    b.created_us = 1764201600000000;
    b.has_adapter = true;
    b.adapter = digest_of_byte(9);
    must(registry_put_function(w->registry, &b, 0, &err), &err);
    must(registry_put_function(w->registry, &a, 0, &err), &err);
    assert_int_equal(b.owner_requests_max, 0); /* the server's default */
    must(registry_put_owner_limit(w->registry, "acme", 12, &acme, &err), &err);
    assert_int_equal(acme, b.owner_id);
    assert_int_not_equal(a.owner_id, b.owner_id);
    reopen(w);
    struct seen s = functions_of(w);
    assert_int_equal(s.count, 2);
    assert_string_equal(s.f[0].name, "a");
    assert_string_equal(s.f[0].owner, "globex");
    assert_int_equal(s.f[0].owner_requests_max, 0);
    assert_false(s.f[0].has_adapter);
    assert_int_equal(s.f[0].slo_ttft_us, 0);
    const struct registry_function *f = &s.f[1];
    assert_string_equal(f->name, "b");
    assert_string_equal(f->owner, "acme");
    assert_int_equal(f->owner_id, acme);
    assert_int_equal(f->owner_requests_max, 12);
    assert_int_equal(f->isolation, 3);
    assert_int_equal(f->generation, 1);
    assert_int_equal(f->created_us, b.created_us);
    assert_int_equal(f->slo_ttft_us, 1500000);
    assert_int_equal(f->slo_tpot_us, UINT64_C(1) << 40);
    assert_true(f->has_adapter && digest_equal(&f->adapter, &b.adapter));
    assert_true(digest_equal(&f->backbone, &b.backbone));
    /* The next generation is told of the limit, and objectives may be taken back. */
    struct registry_function next = function_of("b", "acme");
    must(registry_put_function(w->registry, &next, 1, &err), &err);
    assert_int_equal(next.owner_requests_max, 12);
    assert_int_equal(functions_of(w).f[1].slo_ttft_us, 0);
    assert_false(functions_of(w).f[1].has_adapter);
    /* A limit may come before the owner's first function, and go. */
    must(registry_put_owner_limit(w->registry, "new", 3, &again, &err), &err);
    must(registry_put_owner_limit(w->registry, "acme", 0, &acme, &err), &err);
    assert_int_equal(acme, b.owner_id);
    struct registry_function c = function_of("c", "new");
    must(registry_put_function(w->registry, &c, 0, &err), &err);
    assert_int_equal(c.owner_id, again);
    assert_int_equal(c.owner_requests_max, 3);
    reopen(w);
    assert_int_equal(functions_of(w).f[1].owner_requests_max, 0);
    /* Who is told may stop. */
    s = (struct seen){.stop_at = 2};
    assert_int_equal(registry_each_function(w->registry, see, &s, &err), -77);
    assert_int_equal(s.count, 2);
    must(registry_remove_function(w->registry, "b", &err), &err);
    assert_int_equal(registry_remove_function(w->registry, "b", &err), -ENOENT);
    assert_int_equal(functions_of(w).count, 2);
}

static void test_sizes_are_kept(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    struct registry_image i = {.digest = digest_of_byte(3),
                               .bytes = UINT64_C(14) << 30,
                               .kind = 1,
                               .dtype = 2,
                               .kv_token_bytes = {524288, 262144, 131073},
                               .row_bytes = UINT64_C(5) << 32,
                               .fixed_bytes = 4097};
    struct registry_image got;
    memset(i.label, 'x', sizeof i.label - 1);
    must(registry_put_image(w->registry, &i, NULL, &err), &err);
    reopen(w);
    must(registry_get_image(w->registry, &i.digest, &got, &err), &err);
    assert_true(digest_equal(&got.digest, &i.digest));
    assert_int_equal(got.bytes, i.bytes);
    assert_int_equal(got.kind, 1);
    assert_int_equal(got.dtype, 2);
    assert_int_equal(got.rank, 0);
    for (int k = 0; k < 3; k++)
        assert_int_equal(got.kv_token_bytes[k], i.kv_token_bytes[k]);
    assert_int_equal(got.row_bytes, i.row_bytes);
    assert_int_equal(got.fixed_bytes, i.fixed_bytes);
    assert_string_equal(got.label, i.label);
    struct digest other = digest_of_byte(4);
    assert_int_equal(registry_get_image(w->registry, &other, &got, &err), -ENOENT);
}

static void sweep_one(void *context, const struct digest *d)
{
    uint32_t *swept = context;
    *swept |= 1u << d->bytes[0];
}

/* What a function uses stays, as backbone or as adapter, and how it was made with it. */
static void test_what_is_swept(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    struct registry_function f = function_of("f", "acme");
    struct digest key, image;
    uint32_t swept = 0;
    f.backbone = digest_of_byte(1);
    f.adapter = digest_of_byte(2);
    f.has_adapter = true;
    must(registry_put_function(w->registry, &f, 0, &err), &err);
    for (uint8_t i = 1; i <= 4; i++) {
        struct registry_image made = {.digest = digest_of_byte(i), .kind = 1};
        key = digest_of_byte(100 + i);
        must(registry_put_image(w->registry, &made, NULL, &err), &err);
        must(registry_put_source(w->registry, &key, &made.digest, &err), &err);
    }
    image = digest_of_byte(2);
    must(registry_forget_sources(w->registry, &image, &err), &err);
    must(registry_sweep_images(w->registry, sweep_one, &swept, &err), &err);
    assert_int_equal(swept, 1u << 3 | 1u << 4);
    reopen(w);
    static const int expected[] = {0, 0, -ENOENT, -ENOENT, -ENOENT};
    for (uint8_t i = 1; i <= 4; i++) {
        struct registry_image got;
        struct digest d = digest_of_byte(i);
        key = digest_of_byte(100 + i);
        assert_int_equal(registry_get_source(w->registry, &key, &image, &err), expected[i]);
        assert_int_equal(registry_get_image(w->registry, &d, &got, &err), i <= 2 ? 0 : -ENOENT);
    }
}

/* --- files that are none of ours, or not whole --- */

static void run_sql(struct world *w, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(w->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* Refused with what it is and what to do; nothing is made of it, and it is left as it was. */
static void refused(struct world *w, int code, const char *says)
{
    struct error err = {0};
    assert_int_equal(registry_open(&w->registry, w->path, &err), code);
    assert_null(w->registry);
    if (strstr(err.text, says) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
}

static void test_other_format(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    assert_int_equal(put(w, "a", 0, &err), 1);
    registry_close(w->registry);
    w->registry = NULL;
    run_sql(w, "PRAGMA user_version=3");
    refused(w, -EPROTO,
            "has format 3, this program knows 4: use the version that wrote it, or "
            "move the data directory away and deploy again");
    run_sql(w, "PRAGMA user_version=5");
    refused(w, -EPROTO, "has format 5");
    run_sql(w, "PRAGMA user_version=4; PRAGMA application_id=7");
    refused(w, -EBADMSG, "is some other program's database");
    run_sql(w, "PRAGMA application_id=0x534c4f52"); /* "SLOR" */
    reopen(w);
    assert_int_equal(put(w, "a", 1, &err), 2);
}

static long bytes_of(const struct world *w)
{
    FILE *f = fopen(w->path, "re");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long bytes = ftell(f);
    fclose(f);
    return bytes;
}

static void write_magic(const struct world *w, const char text[16])
{
    FILE *f = fopen(w->path, "r+e");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, 16, f), 16);
    assert_int_equal(fclose(f), 0);
}

/* A file of another kind, one whose first page says so wrongly, one without its second half. */
static void test_damaged(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    struct seen s = {0};
    assert_int_equal(put(w, "a", 0, &err), 1);
    registry_close(w->registry);
    w->registry = NULL;
    long bytes = bytes_of(w);
    write_magic(w, "this is no datab");
    refused(w, -EBADMSG, "the registry file is damaged");
    write_magic(w, "SQLite format 3");
    assert_int_equal(truncate(w->path, bytes / 2 / 4096 * 4096), 0);
    int r = registry_open(&w->registry, w->path, &err);
    if (r == 0)
        r = registry_each_function(w->registry, see, &s, &err);
    assert_int_equal(r, -EBADMSG);
    assert_non_null(strstr(err.text, "restore it from a backup or move it away and deploy again"));
    assert_int_equal(s.count, 0);
}

static void test_where_nothing_can_be_written(void **state)
{
    struct world *w = *state;
    struct registry *none = NULL;
    struct error err = {0};
    char path[160];
    snprintf(path, sizeof path, "%s/nowhere/registry.sqlite", w->dir);
    assert_int_equal(registry_open(&none, path, &err), -EROFS);
    assert_null(none);
    assert_non_null(strstr(err.text, "the data directory cannot be written"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_generations),
        TEST(test_certificates),
        TEST(test_functions_are_kept),
        TEST(test_sizes_are_kept),
        TEST(test_what_is_swept),
        TEST(test_other_format),
        TEST(test_damaged),
        TEST(test_where_nothing_can_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
