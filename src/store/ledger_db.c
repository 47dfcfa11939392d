/* See ledger_db.h. */
#include "store/ledger_db.h"

#include <errno.h>

int ledger_db_error(sqlite3 *db, const char *doing, struct error *err)
{
    const char *why = sqlite3_errmsg(db);
    switch (sqlite3_extended_errcode(db) & 0xff) {
    case SQLITE_FULL:
        return error_set(err, -ENOSPC, "%s: the disk is full; free some space", doing);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(err, -EBUSY, "%s: another program is writing to the ledger; end it",
                         doing);
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
        return error_set(err, -EROFS,
                         "%s: the ledger cannot be opened here (%s); the user who runs the server "
                         "can, in a directory that can be written",
                         doing, why);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return error_set(err, -EBADMSG,
                         "%s: the ledger is damaged (%s); restore it from a backup, or keep it "
                         "elsewhere and a new one begins",
                         doing, why);
    case SQLITE_NOMEM:
        return error_set(err, -ENOMEM, "%s: out of memory", doing);
    default:
        return error_set(err, -EIO, "%s: %s", doing, why);
    }
}

int ledger_db_exec(sqlite3 *db, const char *sql, const char *doing, struct error *err)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0
                                                                : ledger_db_error(db, doing, err);
}

int ledger_db_prepare(sqlite3 *db, sqlite3_stmt **ret, const char *sql, const char *doing,
                      struct error *err)
{
    return sqlite3_prepare_v2(db, sql, -1, ret, NULL) == SQLITE_OK
               ? 0
               : ledger_db_error(db, doing, err);
}

static int number(sqlite3 *db, const char *sql, int *ret, struct error *err)
{
    static const char doing[] = "reading the ledger";
    sqlite3_stmt *st = NULL;
    int r = ledger_db_prepare(db, &st, sql, doing, err);
    if (r == 0 && sqlite3_step(st) == SQLITE_ROW)
        *ret = sqlite3_column_int(st, 0);
    else if (r == 0)
        r = ledger_db_error(db, doing, err);
    sqlite3_finalize(st);
    return r;
}

int ledger_db_check(sqlite3 *db, const char *path, bool *ret_is_empty, struct error *err)
{
    int id = 0, format = 0, objects = 0;
    int r = number(db, "PRAGMA application_id", &id, err);
    if (r == 0)
        r = number(db, "PRAGMA user_version", &format, err);
    if (r == 0)
        r = number(db, "SELECT count(*) FROM sqlite_schema", &objects, err);
    if (r < 0)
        return r;
    bool is_empty = id == 0 && format == 0 && objects == 0;
    if (!is_empty && id != LEDGER_APPLICATION_ID)
        return error_set(err, -EBADMSG, "%s is some other program's database", path);
    if (!is_empty && format != LEDGER_FORMAT)
        return error_set(err, -EPROTO,
                         "%s has format %d, this program knows %d: use the version that wrote it, "
                         "or keep the file elsewhere and a new one begins",
                         path, format, LEDGER_FORMAT);
    *ret_is_empty = is_empty;
    return 0;
}
