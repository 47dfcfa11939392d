/*
 * The ledger's writer. See ledger.h. Names of functions are stored once and rows refer to them, so
 * a receipt takes some 150 bytes; the order of its key is the order of its writing.
 */
#include "store/ledger.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "store/ledger_db.h"

#define RUN_BYTES 16
#define DIGITS 16         /* of an image's digest */
#define OPEN_WAIT_MS 2000 /* a reader that puts the log of a killed server in order */

struct ledger {
    sqlite3 *db;
    sqlite3_stmt *find_function;
    sqlite3_stmt *put_function;
    sqlite3_stmt *put_receipt;
    sqlite3_stmt *put_idle;
    sqlite3_stmt *put_totals;
    sqlite3_int64 run;
    uint64_t idle_written; /* rows of this run, so the number of the next one */
    struct ledger_totals totals;
    bool totals_changed;
    uint32_t receipt_count;
    uint32_t idle_count;
    struct ledger_receipt *receipts; /* LEDGER_ROWS_MAX */
    struct ledger_idle *idle;        /* LEDGER_ROWS_MAX */
};

/* Times are microseconds of the wall clock, prices nanodollars. */
static const char schema[] =
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE,"
    "  started_us INTEGER NOT NULL, updated_us INTEGER NOT NULL, device_us INTEGER NOT NULL,"
    "  byte_s REAL NOT NULL, platform_byte_s REAL NOT NULL) STRICT;"
    "CREATE TABLE functions (id INTEGER PRIMARY KEY, name TEXT NOT NULL, owner TEXT NOT NULL,"
    "  generation INTEGER NOT NULL, backbone TEXT NOT NULL, adapter TEXT NOT NULL,"
    "  UNIQUE (name, owner, generation, backbone, adapter)) STRICT;"
    "CREATE TABLE receipts (run INTEGER NOT NULL REFERENCES runs(id), request INTEGER NOT NULL,"
    "  function INTEGER NOT NULL REFERENCES functions(id), wall_us INTEGER NOT NULL,"
    "  completed INTEGER NOT NULL, load_us INTEGER NOT NULL, start_us INTEGER NOT NULL,"
    "  bind_us INTEGER NOT NULL, queue_us INTEGER NOT NULL, first_us INTEGER NOT NULL,"
    "  total_us INTEGER NOT NULL, device_us INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,"
    "  cached_tokens INTEGER NOT NULL, new_tokens INTEGER NOT NULL, own_price INTEGER NOT NULL,"
    "  backbone_price INTEGER NOT NULL, device_price INTEGER NOT NULL,"
    "  request_price INTEGER NOT NULL, prompt_price INTEGER NOT NULL,"
    "  cached_price INTEGER NOT NULL, new_price INTEGER NOT NULL, own_byte_s REAL NOT NULL,"
    "  backbone_byte_s REAL NOT NULL, PRIMARY KEY (run, request)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX receipts_wall ON receipts (wall_us);"
    "CREATE TABLE idle (run INTEGER NOT NULL REFERENCES runs(id), number INTEGER NOT NULL,"
    "  function INTEGER NOT NULL REFERENCES functions(id), from_us INTEGER NOT NULL,"
    "  to_us INTEGER NOT NULL, price INTEGER NOT NULL, byte_s REAL NOT NULL,"
    "  PRIMARY KEY (run, number)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX idle_wall ON idle (to_us);";

static const char find_function_sql[] =
    "SELECT id FROM functions WHERE name=?1 AND owner=?2 AND generation=?3 AND backbone=?4"
    "  AND adapter=?5";
static const char put_function_sql[] =
    "INSERT INTO functions(name,owner,generation,backbone,adapter) VALUES(?1,?2,?3,?4,?5)";
static const char put_receipt_sql[] =
    "INSERT INTO receipts(run,request,function,wall_us,completed,load_us,start_us,bind_us,queue_us,"
    "  first_us,total_us,device_us,prompt_tokens,cached_tokens,new_tokens,own_price,backbone_price,"
    "  device_price,request_price,prompt_price,cached_price,new_price,own_byte_s,backbone_byte_s)"
    "  VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,"
    "  ?24) ON CONFLICT DO NOTHING";
static const char put_idle_sql[] =
    "INSERT INTO idle(run,number,function,from_us,to_us,price,byte_s)"
    "  VALUES(?1,?2,?3,?4,?5,?6,?7) ON CONFLICT DO NOTHING";
static const char put_totals_sql[] =
    "UPDATE runs SET updated_us=?2,device_us=?3,byte_s=?4,platform_byte_s=?5 WHERE id=?1";

static const char writing[] = "writing the ledger";
static const char opening[] = "opening the ledger";

/* --- opening --- */

static int make_tables(struct ledger *l, struct error *err)
{
    char sql[sizeof schema + 128];
    snprintf(sql, sizeof sql,
             "BEGIN IMMEDIATE;%sPRAGMA user_version=%d;PRAGMA application_id=%d;COMMIT;", schema,
             LEDGER_FORMAT, LEDGER_APPLICATION_ID);
    return ledger_db_exec(l->db, sql, "making the ledger", err);
}

/* The file is looked at before anything in it is changed: it may be another program's. */
static int open_file(struct ledger *l, const char *path, struct error *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    bool is_empty = false;
    if (sqlite3_open_v2(path, &l->db, flags, NULL) != SQLITE_OK)
        return ledger_db_error(l->db, opening, err);
    sqlite3_busy_timeout(l->db, OPEN_WAIT_MS);
    int r = ledger_db_check(l->db, path, &is_empty, err);
    if (r == 0)
        r = ledger_db_exec(
            l->db, "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA foreign_keys=ON;",
            opening, err);
    if (r == 0 && is_empty)
        r = make_tables(l, err);
    return r;
}

static int prepare_all(struct ledger *l, struct error *err)
{
    struct {
        sqlite3_stmt **statement;
        const char *sql;
    } const all[] = {{&l->find_function, find_function_sql},
                     {&l->put_function, put_function_sql},
                     {&l->put_receipt, put_receipt_sql},
                     {&l->put_idle, put_idle_sql},
                     {&l->put_totals, put_totals_sql}};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof all / sizeof all[0]; i++)
        r = ledger_db_prepare(l->db, all[i].statement, all[i].sql, opening, err);
    return r;
}

static int begin_run(struct ledger *l, uint64_t wall_us, struct error *err)
{
    uint8_t bytes[RUN_BYTES];
    char name[2 * RUN_BYTES + 1];
    sqlite3_stmt *st = NULL;
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return error_set(err, -EIO, "%s: no random bytes: %s", opening, strerror(errno));
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(name + 2 * i, 3, "%02x", bytes[i]);
    int r = ledger_db_prepare(l->db, &st,
                              "INSERT INTO runs(run,started_us,updated_us,device_us,byte_s,"
                              "platform_byte_s) VALUES(?1,?2,?2,0,0,0)",
                              opening, err);
    if (r < 0)
        return r;
    sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)wall_us);
    if (sqlite3_step(st) != SQLITE_DONE)
        r = ledger_db_error(l->db, opening, err);
    sqlite3_finalize(st);
    l->run = sqlite3_last_insert_rowid(l->db);
    return r;
}

int ledger_open(struct ledger **ret, const char *path, uint64_t wall_us, struct error *err)
{
    struct ledger *l = calloc(1, sizeof *l);
    if (l == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    l->receipts = calloc(LEDGER_ROWS_MAX, sizeof *l->receipts);
    l->idle = calloc(LEDGER_ROWS_MAX, sizeof *l->idle);
    int r = 0;
    if (l->receipts == NULL || l->idle == NULL)
        r = error_set(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = open_file(l, path, err);
    if (r == 0)
        r = prepare_all(l, err);
    if (r == 0)
        r = begin_run(l, wall_us, err);
    if (r < 0) {
        ledger_close(l);
        return r;
    }
    sqlite3_busy_timeout(l->db, 0);
    *ret = l;
    return 0;
}

void ledger_close(struct ledger *l)
{
    if (l == NULL)
        return;
    sqlite3_finalize(l->find_function);
    sqlite3_finalize(l->put_function);
    sqlite3_finalize(l->put_receipt);
    sqlite3_finalize(l->put_idle);
    sqlite3_finalize(l->put_totals);
    sqlite3_close(l->db);
    free(l->receipts);
    free(l->idle);
    free(l);
}

/* --- rows that wait --- */

int ledger_add_receipt(struct ledger *l, const struct ledger_receipt *r)
{
    assert(isfinite(r->used.own_byte_s));
    assert(isfinite(r->used.backbone_byte_s));
    if (l->receipt_count == LEDGER_ROWS_MAX)
        return -ENOBUFS;
    l->receipts[l->receipt_count++] = *r;
    return 0;
}

int ledger_add_idle(struct ledger *l, const struct ledger_idle *i)
{
    assert(isfinite(i->byte_s));
    if (l->idle_count == LEDGER_ROWS_MAX)
        return -ENOBUFS;
    l->idle[l->idle_count++] = *i;
    return 0;
}

void ledger_set_totals(struct ledger *l, const struct ledger_totals *t)
{
    assert(isfinite(t->byte_s));
    assert(isfinite(t->platform_byte_s));
    l->totals = *t;
    l->totals_changed = true;
}

uint32_t ledger_waiting(const struct ledger *l)
{
    return l->receipt_count + l->idle_count;
}

/* --- writing --- */

/* Some numbers were told by a worker. One that no request can have (30 years, a million dollars)
 * must not make the sum of all others impossible: SQLite refuses to add beyond 64 bits. */
static sqlite3_int64 bounded(uint64_t value)
{
    return value < PRICE_ITEM_MAX ? (sqlite3_int64)value : (sqlite3_int64)PRICE_ITEM_MAX;
}

/* Runs a statement that gives no rows and makes it ready for the next. */
static int run(struct ledger *l, sqlite3_stmt *st, struct error *err)
{
    int r = sqlite3_step(st) == SQLITE_DONE ? 0 : ledger_db_error(l->db, writing, err);
    sqlite3_reset(st);
    return r;
}

static void bind_function(sqlite3_stmt *st, const struct ledger_function *f)
{
    char hex[DIGEST_HEX_BYTES];
    sqlite3_bind_text(st, 1, f->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 2, f->owner, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 3, (sqlite3_int64)f->generation);
    digest_hex(&f->backbone, hex);
    sqlite3_bind_text(st, 4, hex, DIGITS, SQLITE_TRANSIENT);
    digest_hex(&f->adapter, hex);
    sqlite3_bind_text(st, 5, hex, f->has_adapter ? DIGITS : 0, SQLITE_TRANSIENT);
}

static int function_id(struct ledger *l, const struct ledger_function *f, sqlite3_int64 *ret,
                       struct error *err)
{
    bind_function(l->find_function, f);
    int step = sqlite3_step(l->find_function);
    int r = step == SQLITE_ROW || step == SQLITE_DONE ? 0 : ledger_db_error(l->db, writing, err);
    if (step == SQLITE_ROW)
        *ret = sqlite3_column_int64(l->find_function, 0);
    sqlite3_reset(l->find_function);
    if (r < 0 || step == SQLITE_ROW)
        return r;
    bind_function(l->put_function, f);
    r = run(l, l->put_function, err);
    if (r == 0)
        *ret = sqlite3_last_insert_rowid(l->db);
    return r;
}

static int write_receipt(struct ledger *l, const struct ledger_receipt *receipt, struct error *err)
{
    const struct sched_receipt *u = &receipt->used;
    const struct price_items *p = &receipt->price;
    sqlite3_stmt *st = l->put_receipt;
    sqlite3_int64 function;
    int r = function_id(l, &receipt->function, &function, err);
    if (r < 0)
        return r;
    const uint64_t whole[] = {u->completed,     u->load_us,       u->start_us,   u->bind_us,
                              u->queue_us,      u->first_us,      u->total_us,   u->device_us,
                              u->prompt_tokens, u->cached_tokens, u->new_tokens, p->own,
                              p->backbone,      p->device,        p->request,    p->prompt,
                              p->cached,        p->generated};
    int index = 1;
    sqlite3_bind_int64(st, index++, l->run);
    sqlite3_bind_int64(st, index++, (sqlite3_int64)receipt->request);
    sqlite3_bind_int64(st, index++, function);
    sqlite3_bind_int64(st, index++, (sqlite3_int64)receipt->wall_us);
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        sqlite3_bind_int64(st, index++, bounded(whole[i]));
    sqlite3_bind_double(st, index++, u->own_byte_s);
    sqlite3_bind_double(st, index++, u->backbone_byte_s);
    return run(l, st, err);
}

static int write_idle(struct ledger *l, const struct ledger_idle *idle, uint64_t number,
                      struct error *err)
{
    sqlite3_stmt *st = l->put_idle;
    sqlite3_int64 function;
    int r = function_id(l, &idle->function, &function, err);
    if (r < 0)
        return r;
    sqlite3_bind_int64(st, 1, l->run);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)number);
    sqlite3_bind_int64(st, 3, function);
    sqlite3_bind_int64(st, 4, (sqlite3_int64)idle->from_us);
    sqlite3_bind_int64(st, 5, (sqlite3_int64)idle->to_us);
    sqlite3_bind_int64(st, 6, bounded(idle->price.idle));
    sqlite3_bind_double(st, 7, idle->byte_s);
    return run(l, st, err);
}

static int write_totals(struct ledger *l, struct error *err)
{
    sqlite3_stmt *st = l->put_totals;
    sqlite3_bind_int64(st, 1, l->run);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)l->totals.wall_us);
    sqlite3_bind_int64(st, 3, bounded(l->totals.device_us));
    sqlite3_bind_double(st, 4, l->totals.byte_s);
    sqlite3_bind_double(st, 5, l->totals.platform_byte_s);
    return run(l, st, err);
}

int ledger_commit(struct ledger *l, struct error *err)
{
    if (ledger_waiting(l) == 0 && !l->totals_changed)
        return 0;
    int r = ledger_db_exec(l->db, "BEGIN IMMEDIATE", writing, err);
    if (r < 0)
        return r;
    for (uint32_t i = 0; r == 0 && i < l->receipt_count; i++)
        r = write_receipt(l, &l->receipts[i], err);
    for (uint32_t i = 0; r == 0 && i < l->idle_count; i++)
        r = write_idle(l, &l->idle[i], l->idle_written + i, err);
    if (r == 0 && l->totals_changed)
        r = write_totals(l, err);
    if (r == 0)
        r = ledger_db_exec(l->db, "COMMIT", writing, err);
    if (r < 0) {
        ledger_db_exec(l->db, "ROLLBACK", writing, NULL); /* or SQLite did it already */
        return r;
    }
    l->idle_written += l->idle_count;
    l->receipt_count = l->idle_count = 0;
    l->totals_changed = false;
    return 0;
}
