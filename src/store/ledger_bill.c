/* See ledger_bill.h. */
#include "store/ledger_bill.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/ledger_db.h"

#define OPEN_WAIT_MS 2000
/* Sums of some million doubles in another order than they were added in first. */
#define ROUNDING 1e-6

struct ledger_reader {
    sqlite3 *db;
};

static const char reading[] = "reading the ledger";

int ledger_reader_open(struct ledger_reader **ret, const char *path, struct error *err)
{
    if (access(path, F_OK) < 0)
        return error_set(err, -errno, "there is no ledger at %s: nothing was served from there",
                         path);
    struct ledger_reader *l = calloc(1, sizeof *l);
    if (l == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    bool is_empty = false;
    int r = 0;
    if (sqlite3_open_v2(path, &l->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        r = ledger_db_error(l->db, reading, err);
    if (r == 0) {
        sqlite3_busy_timeout(l->db, OPEN_WAIT_MS);
        r = ledger_db_exec(l->db, "BEGIN", reading, err); /* to the end: one moment */
    }
    if (r == 0)
        r = ledger_db_check(l->db, path, &is_empty, err);
    if (r == 0 && is_empty)
        r = error_set(err, -ENOENT, "the ledger at %s has nothing in it yet", path);
    if (r < 0) {
        ledger_reader_close(l);
        return r;
    }
    *ret = l;
    return 0;
}

void ledger_reader_close(struct ledger_reader *l)
{
    if (l == NULL)
        return;
    sqlite3_close(l->db);
    free(l);
}

/* --- lines --- */

#define FILTER "(?3 IS NULL OR f.owner=?3) AND (?4 IS NULL OR f.name=?4)"

/* CROSS JOIN: the rows of the period first, then their functions. A sum of times may be large by
 * what one worker told; total() goes on where sum() gives up. */
#define BILL                                                                                       \
    "SELECT name,owner,day,sum(requests),sum(lost),sum(prompt),sum(cached),sum(new),"              \
    "  CAST(total(device_us) AS INTEGER),total(own_byte_s),total(backbone_byte_s),"                \
    "  total(idle_byte_s),sum(p1),sum(p2),sum(p3),sum(p4),sum(p5),sum(p6),sum(p7),sum(p8) "        \
    "FROM (SELECT %1$s,%2$s,%3$s,count(*) AS requests,sum(completed=0) AS lost,"                   \
    "    sum(prompt_tokens) AS prompt,sum(cached_tokens) AS cached,sum(new_tokens) AS new,"        \
    "    total(device_us) AS device_us,total(own_byte_s) AS own_byte_s,"                           \
    "    total(backbone_byte_s) AS backbone_byte_s,0.0 AS idle_byte_s,sum(own_price) AS p1,"       \
    "    sum(backbone_price) AS p2,0 AS p3,sum(device_price) AS p4,sum(request_price) AS p5,"      \
    "    sum(prompt_price) AS p6,sum(cached_price) AS p7,sum(new_price) AS p8"                     \
    "  FROM receipts r CROSS JOIN functions f ON f.id=r.function"                                  \
    "  WHERE r.wall_us>=?1 AND r.wall_us<?2 AND " FILTER " GROUP BY 1,2,3"                         \
    "  UNION ALL SELECT %1$s,%2$s,%4$s,0,0,0,0,0,0.0,0.0,0.0,total(byte_s),0,0,sum(price),0,0,0,"  \
    "    0,0"                                                                                      \
    "  FROM idle i CROSS JOIN functions f ON f.id=i.function"                                      \
    "  WHERE i.to_us>=?1 AND i.to_us<?2 AND " FILTER " GROUP BY 1,2,3) "                           \
    "GROUP BY 1,2,3 ORDER BY 3,1,2"

struct grouping {
    const char *name, *owner, *receipt_day, *idle_day;
};

static const struct grouping groupings[] = {
    [LEDGER_BY_FUNCTION] = {"f.name AS name", "f.owner AS owner", "'' AS day", "'' AS day"},
    [LEDGER_BY_OWNER] = {"'' AS name", "f.owner AS owner", "'' AS day", "'' AS day"},
    [LEDGER_BY_DAY] = {"'' AS name", "'' AS owner",
                       "strftime('%Y-%m-%d',r.wall_us/1000000,'unixepoch') AS day",
                       "strftime('%Y-%m-%d',i.to_us/1000000,'unixepoch') AS day"},
};

static void copy_text(sqlite3_stmt *st, int column, char *to, size_t bytes)
{
    const char *text = (const char *)sqlite3_column_text(st, column);
    snprintf(to, bytes, "%s", text != NULL ? text : "");
}

static uint64_t whole(sqlite3_stmt *st, int column)
{
    return (uint64_t)sqlite3_column_int64(st, column);
}

static void read_line(sqlite3_stmt *st, struct ledger_line *ret)
{
    *ret = (struct ledger_line){
        .requests = whole(st, 3),
        .lost = whole(st, 4),
        .prompt_tokens = whole(st, 5),
        .cached_tokens = whole(st, 6),
        .new_tokens = whole(st, 7),
        .device_us = whole(st, 8),
        .own_byte_s = sqlite3_column_double(st, 9),
        .backbone_byte_s = sqlite3_column_double(st, 10),
        .idle_byte_s = sqlite3_column_double(st, 11),
        .price = {.own = whole(st, 12),
                  .backbone = whole(st, 13),
                  .idle = whole(st, 14),
                  .device = whole(st, 15),
                  .request = whole(st, 16),
                  .prompt = whole(st, 17),
                  .cached = whole(st, 18),
                  .generated = whole(st, 19)},
    };
    copy_text(st, 0, ret->function, sizeof ret->function);
    copy_text(st, 1, ret->owner, sizeof ret->owner);
    copy_text(st, 2, ret->day, sizeof ret->day);
}

static sqlite3_int64 until_of(uint64_t until_us)
{
    return until_us < INT64_MAX ? (sqlite3_int64)until_us : INT64_MAX;
}

int ledger_bill(struct ledger_reader *l, const struct ledger_query *q,
                int (*fn)(void *context, const struct ledger_line *line), void *context,
                struct error *err)
{
    const struct grouping *g = &groupings[q->group];
    char sql[sizeof BILL + 512];
    sqlite3_stmt *st = NULL;
    snprintf(sql, sizeof sql, BILL, g->name, g->owner, g->receipt_day, g->idle_day);
    int r = ledger_db_prepare(l->db, &st, sql, reading, err);
    if (r < 0)
        return r;
    sqlite3_bind_int64(st, 1, until_of(q->since_us));
    sqlite3_bind_int64(st, 2, until_of(q->until_us));
    sqlite3_bind_text(st, 3, q->owner, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 4, q->function, -1, SQLITE_STATIC);
    int step = SQLITE_DONE;
    while (r >= 0 && (step = sqlite3_step(st)) == SQLITE_ROW) {
        struct ledger_line line;
        read_line(st, &line);
        r = fn(context, &line);
    }
    if (r >= 0 && step != SQLITE_DONE)
        r = ledger_db_error(l->db, reading, err);
    sqlite3_finalize(st);
    return r < 0 ? r : 0;
}

/* --- how it adds up --- */

#define RUNS "FROM runs WHERE updated_us>=?1 AND started_us<?2"

static const char sum_sql[] =
    "SELECT count(*),min(started_us),max(updated_us),CAST(total(device_us) AS INTEGER),"
    "  total(byte_s),total(platform_byte_s),"
    "  (SELECT CAST(total(device_us) AS INTEGER) FROM receipts WHERE run IN (SELECT id " RUNS ")),"
    "  (SELECT total(own_byte_s+backbone_byte_s) FROM receipts WHERE run IN (SELECT id " RUNS ")),"
    "  (SELECT total(byte_s) FROM idle WHERE run IN (SELECT id " RUNS ")) " RUNS;

int ledger_sum(struct ledger_reader *l, uint64_t since_us, uint64_t until_us,
               struct ledger_sum *ret, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int r = ledger_db_prepare(l->db, &st, sum_sql, reading, err);
    if (r < 0)
        return r;
    sqlite3_bind_int64(st, 1, until_of(since_us));
    sqlite3_bind_int64(st, 2, until_of(until_us));
    if (sqlite3_step(st) == SQLITE_ROW) {
        struct ledger_sum s = {
            .runs = (uint32_t)whole(st, 0),
            .started_us = whole(st, 1),
            .updated_us = whole(st, 2),
            .device_us = whole(st, 3),
            .byte_s = sqlite3_column_double(st, 4),
            .platform_byte_s = sqlite3_column_double(st, 5),
            .billed_device_us = whole(st, 6),
            .receipts_byte_s = sqlite3_column_double(st, 7),
            .idle_byte_s = sqlite3_column_double(st, 8),
        };
        s.open_device_us = (int64_t)(s.device_us - s.billed_device_us);
        s.open_byte_s = s.byte_s - s.receipts_byte_s - s.idle_byte_s - s.platform_byte_s;
        s.adds_up = s.open_byte_s >= -ROUNDING * s.byte_s - 1 &&
                    (double)s.open_device_us >= -ROUNDING * (double)s.device_us - 1e6;
        *ret = s;
    } else {
        r = ledger_db_error(l->db, reading, err);
    }
    sqlite3_finalize(st);
    return r;
}
