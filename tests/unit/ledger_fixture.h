/* A ledger in a directory of its own, rows with numbers that can be told apart, and a look at the
 * file past the ledger's code. */
#pragma once

#include "store/ledger.h"
#include "store/ledger_bill.h"

#include <dirent.h>
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

#define DAY_US UINT64_C(86400000000)
#define WALL_US UINT64_C(1764028800000000) /* 2025-11-25, midnight */
#define GB PRICE_GB_BYTES

struct ledger_world {
    char dir[64];
    char path[96];
    struct ledger *ledger;
};

static inline int ledger_world_set_up(void **state)
{
    struct ledger_world *w = calloc(1, sizeof *w);
    snprintf(w->dir, sizeof w->dir, "/tmp/sllora-ledger-XXXXXX");
    if (mkdtemp(w->dir) == NULL)
        return -1;
    snprintf(w->path, sizeof w->path, "%s/" LEDGER_FILE, w->dir);
    *state = w;
    return 0;
}

/* Removes every file of the world; those of SQLite beside the ledger, too. */
static inline void ledger_world_empty(struct ledger_world *w)
{
    DIR *dir = opendir(w->dir);
    const struct dirent *e;
    assert_non_null(dir);
    while ((e = readdir(dir)) != NULL) {
        if (e->d_name[0] != '.')
            unlinkat(dirfd(dir), e->d_name, 0);
    }
    closedir(dir);
}

static inline int ledger_world_tear_down(void **state)
{
    struct ledger_world *w = *state;
    ledger_close(w->ledger);
    ledger_world_empty(w);
    int r = rmdir(w->dir);
    free(w);
    return r;
}

static inline void ledger_reopen(struct ledger_world *w)
{
    struct error err = {0};
    ledger_close(w->ledger);
    w->ledger = NULL;
    if (ledger_open(&w->ledger, w->path, WALL_US, &err) < 0)
        fail_msg("%s", err.text);
}

static inline struct ledger_function function_of(const char *name, const char *owner)
{
    struct ledger_function f = {.generation = 3, .has_adapter = strcmp(name, "bare") != 0};
    snprintf(f.name, sizeof f.name, "%s", name);
    snprintf(f.owner, sizeof f.owner, "%s", owner);
    memset(f.backbone.bytes, 0xb0, sizeof f.backbone.bytes);
    memset(f.adapter.bytes, name[0], sizeof f.adapter.bytes);
    return f;
}

static inline struct ledger_receipt receipt_of(const char *name, const char *owner,
                                               uint64_t request)
{
    return (struct ledger_receipt){
        .function = function_of(name, owner),
        .request = request,
        .wall_us = WALL_US + request,
        .used = {.device_us = 2000,
                 .own_byte_s = 0.5 * GB,
                 .backbone_byte_s = 0.25 * GB,
                 .prompt_tokens = 40,
                 .cached_tokens = 16,
                 .new_tokens = 8,
                 .completed = 1},
        .price = {.own = 1,
                  .backbone = 20,
                  .device = 300,
                  .request = 4000,
                  .prompt = 50000,
                  .cached = 600000,
                  .generated = 7000000},
    };
}

static inline struct ledger_idle idle_of(const char *name, const char *owner, uint64_t to_us)
{
    return (struct ledger_idle){.function = function_of(name, owner),
                                .from_us = to_us - 1000,
                                .to_us = to_us,
                                .byte_s = 0.125 * GB,
                                .price = {.idle = 80000000}};
}

static inline int64_t ledger_number(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK || sqlite3_step(st) != SQLITE_ROW)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

static inline void ledger_must_commit(struct ledger *l)
{
    struct error err = {0};
    if (ledger_commit(l, &err) < 0)
        fail_msg("%s", err.text);
}
