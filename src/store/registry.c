/* See registry.h. synchronous=FULL: a deploy that was acknowledged survives a power cut. */
#include "store/registry.h"

#include <assert.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA_VERSION 4
#define APPLICATION_ID 0x534c4f52 /* "SLOR" */

struct registry {
    sqlite3 *db;
};

static const char schema[] =
    "CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    "  requests_max INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE images (digest BLOB PRIMARY KEY, kind INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    "  label TEXT NOT NULL, dtype INTEGER NOT NULL, rank INTEGER NOT NULL, certificate TEXT,"
    "  kv_bytes INTEGER NOT NULL, kv_bf16_bytes INTEGER NOT NULL, kv_int8_bytes INTEGER NOT NULL,"
    "  row_bytes INTEGER NOT NULL, fixed_bytes INTEGER NOT NULL) "
    "WITHOUT ROWID;"
    "CREATE TABLE sources (key BLOB PRIMARY KEY, image BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE functions (name TEXT PRIMARY KEY, owner INTEGER NOT NULL REFERENCES owners(id),"
    "  isolation INTEGER NOT NULL, generation INTEGER NOT NULL, created_us INTEGER NOT NULL,"
    "  backbone BLOB NOT NULL, adapter BLOB, slo_ttft_us INTEGER NOT NULL,"
    "  slo_tpot_us INTEGER NOT NULL);"
    "CREATE TABLE generations (name TEXT PRIMARY KEY, last INTEGER NOT NULL);";

static int db_error(struct registry *r, struct error *err, const char *doing)
{
    int code = sqlite3_extended_errcode(r->db) & 0xff;
    const char *why = sqlite3_errmsg(r->db);
    if (code == SQLITE_FULL)
        return error_set(err, -ENOSPC, "%s: the disk is full; free some space and try again",
                         doing);
    if (code == SQLITE_READONLY || code == SQLITE_CANTOPEN)
        return error_set(err, -EROFS, "%s: the data directory cannot be written (%s)", doing, why);
    if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT)
        return error_set(err, -EBADMSG,
                         "%s: the registry file is damaged (%s); restore it from a backup or move "
                         "it away and deploy again",
                         doing, why);
    return error_set(err, -EIO, "%s: %s", doing, why);
}

static int exec(struct registry *r, const char *sql, const char *doing, struct error *err)
{
    return sqlite3_exec(r->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(r, err, doing);
}

static int pragma_value(struct registry *r, const char *sql, int *ret, struct error *err)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(r->db, sql, -1, &st, NULL) != SQLITE_OK ||
        sqlite3_step(st) != SQLITE_ROW) {
        sqlite3_finalize(st);
        return db_error(r, err, "reading the registry");
    }
    *ret = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    return 0;
}

static int prepare_schema(struct registry *r, const char *path, struct error *err)
{
    int version = 0;
    int id = 0;
    int n = pragma_value(r, "PRAGMA user_version", &version, err);
    if (n == 0)
        n = pragma_value(r, "PRAGMA application_id", &id, err);
    if (n < 0)
        return n;
    if (version == 0 && id == 0) {
        char sql[sizeof schema + 128];
        snprintf(sql, sizeof sql,
                 "BEGIN IMMEDIATE;%sPRAGMA user_version=%d;PRAGMA application_id=%d;COMMIT;",
                 schema, SCHEMA_VERSION, APPLICATION_ID);
        return exec(r, sql, "making the registry", err);
    }
    if (id != APPLICATION_ID)
        return error_set(err, -EBADMSG, "%s is some other program's database", path);
    if (version != SCHEMA_VERSION)
        return error_set(err, -EPROTO,
                         "%s has format %d, this program knows %d: use the version "
                         "that wrote it, or move the data directory away and deploy again",
                         path, version, SCHEMA_VERSION);
    return 0;
}

int registry_open(struct registry **ret, const char *path, struct error *err)
{
    struct registry *r = calloc(1, sizeof *r);
    if (r == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    int n = 0;
    if (sqlite3_open_v2(path, &r->db, flags, NULL) != SQLITE_OK)
        n = db_error(r, err, "opening the registry");
    if (n == 0)
        n = exec(r, "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA foreign_keys=ON;",
                 "opening the registry", err);
    if (n == 0)
        n = prepare_schema(r, path, err);
    if (n < 0) {
        registry_close(r);
        return n;
    }
    *ret = r;
    return 0;
}

void registry_close(struct registry *r)
{
    if (r == NULL)
        return;
    sqlite3_close(r->db);
    free(r);
}

static int prepare(struct registry *r, sqlite3_stmt **st, const char *sql, const char *doing,
                   struct error *err)
{
    return sqlite3_prepare_v2(r->db, sql, -1, st, NULL) == SQLITE_OK ? 0 : db_error(r, err, doing);
}

static void bind_digest(sqlite3_stmt *st, int index, const struct digest *d)
{
    sqlite3_bind_blob(st, index, d->bytes, DIGEST_BYTES, SQLITE_TRANSIENT);
}

static bool column_digest(sqlite3_stmt *st, int index, struct digest *ret)
{
    if (sqlite3_column_bytes(st, index) != DIGEST_BYTES)
        return false;
    memcpy(ret->bytes, sqlite3_column_blob(st, index), DIGEST_BYTES);
    return true;
}

/* Runs a prepared statement that returns no row, and finalizes it. */
static int run(struct registry *r, sqlite3_stmt *st, const char *doing, struct error *err)
{
    int n = sqlite3_step(st) == SQLITE_DONE ? 0 : db_error(r, err, doing);
    sqlite3_finalize(st);
    return n;
}

/* Runs one that returns one number. */
static int run_number(struct registry *r, sqlite3_stmt *st, uint64_t *ret, const char *doing,
                      struct error *err)
{
    int n = 0;
    if (sqlite3_step(st) == SQLITE_ROW)
        *ret = (uint64_t)sqlite3_column_int64(st, 0);
    else
        n = db_error(r, err, doing);
    sqlite3_finalize(st);
    return n;
}

/* Runs one that returns a row of two. */
static int run_numbers(struct registry *r, sqlite3_stmt *st, uint32_t ret[2], const char *doing,
                       struct error *err)
{
    int n = 0;
    if (sqlite3_step(st) == SQLITE_ROW) {
        ret[0] = (uint32_t)sqlite3_column_int64(st, 0);
        ret[1] = (uint32_t)sqlite3_column_int64(st, 1);
    } else {
        n = db_error(r, err, doing);
    }
    sqlite3_finalize(st);
    return n;
}

static int put_owner(struct registry *r, struct registry_function *f, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st, "INSERT INTO owners(name) VALUES(?1) ON CONFLICT DO NOTHING",
                    "storing the owner", err);
    if (n < 0)
        return n;
    sqlite3_bind_text(st, 1, f->owner, -1, SQLITE_TRANSIENT);
    n = run(r, st, "storing the owner", err);
    if (n == 0)
        n = prepare(r, &st, "SELECT id,requests_max FROM owners WHERE name=?1", "reading the owner",
                    err);
    if (n < 0)
        return n;
    uint32_t row[2] = {0};
    sqlite3_bind_text(st, 1, f->owner, -1, SQLITE_TRANSIENT);
    n = run_numbers(r, st, row, "reading the owner", err);
    f->owner_id = row[0];
    f->owner_requests_max = row[1];
    return n;
}

int registry_put_owner_limit(struct registry *r, const char *owner, uint32_t requests_max,
                             uint32_t *ret_id, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st,
                    "INSERT INTO owners(name,requests_max) VALUES(?1,?2) "
                    "ON CONFLICT(name) DO UPDATE SET requests_max=?2 RETURNING id",
                    "storing the owner", err);
    if (n < 0)
        return n;
    uint64_t id = 0;
    sqlite3_bind_text(st, 1, owner, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(st, 2, requests_max);
    n = run_number(r, st, &id, "storing the owner", err);
    *ret_id = (uint32_t)id;
    return n;
}

static int put_generation(struct registry *r, struct registry_function *f, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st,
                    "INSERT INTO generations(name,last) VALUES(?1,1) "
                    "ON CONFLICT(name) DO UPDATE SET last=last+1 RETURNING last",
                    "storing the generation", err);
    if (n < 0)
        return n;
    sqlite3_bind_text(st, 1, f->name, -1, SQLITE_TRANSIENT);
    return run_number(r, st, &f->generation, "storing the generation", err);
}

static int put_row(struct registry *r, const struct registry_function *f, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st,
                    "INSERT OR REPLACE INTO functions"
                    "(name,owner,isolation,generation,created_us,backbone,adapter,slo_ttft_us,"
                    "slo_tpot_us) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9)",
                    "storing the function", err);
    if (n < 0)
        return n;
    sqlite3_bind_text(st, 1, f->name, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(st, 2, f->owner_id);
    sqlite3_bind_int64(st, 3, f->isolation);
    sqlite3_bind_int64(st, 4, (sqlite3_int64)f->generation);
    sqlite3_bind_int64(st, 5, (sqlite3_int64)f->created_us);
    bind_digest(st, 6, &f->backbone);
    if (f->has_adapter)
        bind_digest(st, 7, &f->adapter);
    sqlite3_bind_int64(st, 8, (sqlite3_int64)f->slo_ttft_us);
    sqlite3_bind_int64(st, 9, (sqlite3_int64)f->slo_tpot_us);
    return run(r, st, "storing the function", err);
}

int registry_check_generation(struct registry *r, const char *name, uint64_t if_generation,
                              struct error *err)
{
    if (if_generation == REGISTRY_ANY_GENERATION)
        return 0;
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st, "SELECT ifnull(max(generation),0) FROM functions WHERE name=?1",
                    "reading the generation", err);
    if (n < 0)
        return n;
    uint64_t generation = 0;
    sqlite3_bind_text(st, 1, name, -1, SQLITE_TRANSIENT);
    n = run_number(r, st, &generation, "reading the generation", err);
    if (n < 0 || generation == if_generation)
        return n;
    if (generation == 0)
        return error_set(err, -ESTALE,
                         "%s does not exist, so its generation is not %llu: 0 stands for that",
                         name, (unsigned long long)if_generation);
    if (if_generation == 0)
        return error_set(err, -ESTALE, "%s exists already, with generation %llu", name,
                         (unsigned long long)generation);
    return error_set(err, -ESTALE,
                     "%s has generation %llu, not %llu: somebody else deployed it; look at what is "
                     "there before you replace it",
                     name, (unsigned long long)generation, (unsigned long long)if_generation);
}

int registry_put_function(struct registry *r, struct registry_function *f, uint64_t if_generation,
                          struct error *err)
{
    int n = exec(r, "BEGIN IMMEDIATE", "storing the function", err);
    if (n < 0)
        return n;
    n = registry_check_generation(r, f->name, if_generation, err);
    if (n == 0)
        n = put_owner(r, f, err);
    if (n == 0)
        n = put_generation(r, f, err);
    if (n == 0)
        n = put_row(r, f, err);
    if (n == 0)
        n = exec(r, "COMMIT", "storing the function", err);
    if (n < 0)
        exec(r, "ROLLBACK", "storing the function", NULL);
    return n;
}

int registry_remove_function(struct registry *r, const char *name, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st, "DELETE FROM functions WHERE name=?1", "removing the function", err);
    if (n < 0)
        return n;
    sqlite3_bind_text(st, 1, name, -1, SQLITE_TRANSIENT);
    n = run(r, st, "removing the function", err);
    if (n == 0 && sqlite3_changes(r->db) == 0)
        return error_set(err, -ENOENT, "there is no function named %s", name);
    return n;
}

static int read_function(sqlite3_stmt *st, struct registry_function *f, struct error *err)
{
    *f = (struct registry_function){0};
    snprintf(f->name, sizeof f->name, "%s", (const char *)sqlite3_column_text(st, 0));
    snprintf(f->owner, sizeof f->owner, "%s", (const char *)sqlite3_column_text(st, 1));
    f->owner_id = (uint32_t)sqlite3_column_int64(st, 2);
    f->isolation = (uint32_t)sqlite3_column_int64(st, 3);
    f->generation = (uint64_t)sqlite3_column_int64(st, 4);
    f->created_us = (uint64_t)sqlite3_column_int64(st, 5);
    f->has_adapter = sqlite3_column_type(st, 7) != SQLITE_NULL;
    f->slo_ttft_us = (uint64_t)sqlite3_column_int64(st, 8);
    f->slo_tpot_us = (uint64_t)sqlite3_column_int64(st, 9);
    f->owner_requests_max = (uint32_t)sqlite3_column_int64(st, 10);
    if (!column_digest(st, 6, &f->backbone) ||
        (f->has_adapter && !column_digest(st, 7, &f->adapter)))
        return error_set(err, -EBADMSG, "the registry's row of function %s is damaged", f->name);
    return 0;
}

int registry_each_function(struct registry *r,
                           int (*fn)(void *context, const struct registry_function *f),
                           void *context, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st,
                    "SELECT f.name,o.name,f.owner,f.isolation,f.generation,f.created_us,f.backbone,"
                    "f.adapter,f.slo_ttft_us,f.slo_tpot_us,o.requests_max "
                    "FROM functions f JOIN owners o ON o.id=f.owner ORDER BY f.name",
                    "reading the functions", err);
    if (n < 0)
        return n;
    int step;
    while (n >= 0 && (step = sqlite3_step(st)) == SQLITE_ROW) {
        struct registry_function f;
        n = read_function(st, &f, err);
        if (n == 0)
            n = fn(context, &f);
    }
    if (n >= 0 && step != SQLITE_DONE)
        n = db_error(r, err, "reading the functions");
    sqlite3_finalize(st);
    return n < 0 ? n : 0;
}

int registry_put_image(struct registry *r, const struct registry_image *i, const char *certificate,
                       struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st,
                    "INSERT OR REPLACE INTO images(digest,kind,bytes,label,rank,certificate,dtype,"
                    "kv_bytes,kv_bf16_bytes,kv_int8_bytes,row_bytes,fixed_bytes) "
                    "VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
                    "storing the image", err);
    if (n < 0)
        return n;
    bind_digest(st, 1, &i->digest);
    sqlite3_bind_int64(st, 2, i->kind);
    sqlite3_bind_int64(st, 3, (sqlite3_int64)i->bytes);
    sqlite3_bind_text(st, 4, i->label, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(st, 5, i->rank);
    sqlite3_bind_text(st, 6, certificate, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(st, 7, i->dtype);
    for (int k = 0; k < 3; k++)
        sqlite3_bind_int64(st, 8 + k, (sqlite3_int64)i->kv_token_bytes[k]);
    sqlite3_bind_int64(st, 11, (sqlite3_int64)i->row_bytes);
    sqlite3_bind_int64(st, 12, (sqlite3_int64)i->fixed_bytes);
    return run(r, st, "storing the image", err);
}

int registry_get_image(struct registry *r, const struct digest *d, struct registry_image *ret,
                       struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st,
                    "SELECT kind,bytes,label,rank,dtype,kv_bytes,kv_bf16_bytes,kv_int8_bytes,"
                    "row_bytes,fixed_bytes FROM images WHERE digest=?1",
                    "reading the image", err);
    if (n < 0)
        return n;
    bind_digest(st, 1, d);
    int step = sqlite3_step(st);
    if (step == SQLITE_ROW) {
        struct registry_image i = {.digest = *d,
                                   .kind = (uint32_t)sqlite3_column_int64(st, 0),
                                   .bytes = (uint64_t)sqlite3_column_int64(st, 1),
                                   .rank = (uint32_t)sqlite3_column_int64(st, 3),
                                   .dtype = (uint32_t)sqlite3_column_int64(st, 4),
                                   .row_bytes = (uint64_t)sqlite3_column_int64(st, 8),
                                   .fixed_bytes = (uint64_t)sqlite3_column_int64(st, 9)};
        for (int k = 0; k < 3; k++)
            i.kv_token_bytes[k] = (uint64_t)sqlite3_column_int64(st, 5 + k);
        snprintf(i.label, sizeof i.label, "%s", (const char *)sqlite3_column_text(st, 2));
        *ret = i;
    } else if (step == SQLITE_DONE) {
        n = error_set(err, -ENOENT, "the registry knows no such image");
    } else {
        n = db_error(r, err, "reading the image");
    }
    sqlite3_finalize(st);
    return n;
}

int registry_get_certificate(struct registry *r, const struct digest *d, char **ret,
                             struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st,
                    "SELECT certificate FROM images WHERE digest=?1 AND certificate IS NOT NULL",
                    "reading the certificate", err);
    if (n < 0)
        return n;
    bind_digest(st, 1, d);
    int step = sqlite3_step(st);
    if (step == SQLITE_DONE) {
        n = error_set(err, -ENOENT, "the registry holds no certificate of this image");
    } else if (step != SQLITE_ROW) {
        n = db_error(r, err, "reading the certificate");
    } else {
        char *text = strdup((const char *)sqlite3_column_text(st, 0));
        if (text == NULL)
            n = error_set(err, -ENOMEM, "out of memory");
        else
            *ret = text;
    }
    sqlite3_finalize(st);
    return n;
}

int registry_put_source(struct registry *r, const struct digest *key, const struct digest *image,
                        struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st, "INSERT OR REPLACE INTO sources(key,image) VALUES(?1,?2)",
                    "storing the source", err);
    if (n < 0)
        return n;
    bind_digest(st, 1, key);
    bind_digest(st, 2, image);
    return run(r, st, "storing the source", err);
}

int registry_get_source(struct registry *r, const struct digest *key, struct digest *ret_image,
                        struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st, "SELECT image FROM sources WHERE key=?1", "reading the source", err);
    if (n < 0)
        return n;
    bind_digest(st, 1, key);
    int step = sqlite3_step(st);
    if (step != SQLITE_ROW || !column_digest(st, 0, ret_image))
        n = step == SQLITE_ROW || step == SQLITE_DONE
                ? error_set(err, -ENOENT, "these files have not been packed")
                : db_error(r, err, "reading the source");
    sqlite3_finalize(st);
    return n;
}

int registry_forget_sources(struct registry *r, const struct digest *image, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n = prepare(r, &st, "DELETE FROM sources WHERE image=?1", "forgetting a source", err);
    if (n < 0)
        return n;
    bind_digest(st, 1, image);
    return run(r, st, "forgetting a source", err);
}

#define UNUSED_IMAGES                                                                              \
    "digest NOT IN (SELECT backbone FROM functions) AND digest NOT IN "                            \
    "(SELECT adapter FROM functions WHERE adapter IS NOT NULL)"

int registry_sweep_images(struct registry *r, void (*fn)(void *context, const struct digest *d),
                          void *context, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int n =
        prepare(r, &st, "SELECT digest FROM images WHERE " UNUSED_IMAGES, "sweeping images", err);
    if (n < 0)
        return n;
    struct digest d;
    while (sqlite3_step(st) == SQLITE_ROW) {
        if (column_digest(st, 0, &d))
            fn(context, &d);
    }
    sqlite3_finalize(st);
    return exec(r,
                "BEGIN IMMEDIATE; DELETE FROM images WHERE " UNUSED_IMAGES ";"
                "DELETE FROM sources WHERE image NOT IN (SELECT digest FROM images); COMMIT;",
                "sweeping images", err);
}
