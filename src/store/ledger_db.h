/*
 * What the ledger's writer and its readers share: the format of the file, and what SQLite's errors
 * mean to a person.
 */
#pragma once

#include "base/error.h"

#include <sqlite3.h>
#include <stdbool.h>

#define LEDGER_FORMAT 1
#define LEDGER_APPLICATION_ID 0x534c4c47 /* "SLLG" */

/* The sentence for the last error of `db`. */
int ledger_db_error(sqlite3 *db, const char *doing, struct error *err);
int ledger_db_exec(sqlite3 *db, const char *sql, const char *doing, struct error *err);
int ledger_db_prepare(sqlite3 *db, sqlite3_stmt **ret, const char *sql, const char *doing,
                      struct error *err);
/* 0 when it is a ledger of our format, or has nothing in it yet (*ret_is_empty). */
int ledger_db_check(sqlite3 *db, const char *path, bool *ret_is_empty, struct error *err);
