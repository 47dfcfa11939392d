/*
 * What was used and what it costs, for good: a row for every request that ran, rows for memory kept
 * idle, and for each run of the daemon what its devices did in all, so that the bill can be shown
 * to add up. SQLite in a file of its own (WAL, synchronous=FULL), one writer, any number of readers
 * beside it (ledger_bill.h).
 *
 * The decision: rows gather in memory and are written in one transaction together with the totals
 * of that moment. When ledger_commit returns 0 all of it is on disk, for good; until then nothing
 * of it is. What did not get there stays in memory and is tried again with the next commit; rows
 * are never dropped. At LEDGER_ROWS_MAX of them ledger_add_* returns -ENOBUFS, and what then
 * happens to the request is the caller's to decide. Each row has a key (run and request, run and
 * number), so that one that is written twice counts once, even when a commit that failed had
 * reached the disk.
 */
#pragma once

#include "base/digest.h"
#include "base/error.h"
#include "policy/price.h"
#include "sched/sched.h"
#include "store/registry.h"

#include <stdbool.h>
#include <stdint.h>

/* Receipts, and idle rows, that may wait for a commit: more than requests that can end while a full
 * disk is noticed. */
#define LEDGER_ROWS_MAX 16384u

#define LEDGER_FILE "ledger.sqlite" /* in the data directory */

struct ledger;

/* Who pays, as things were at the time. Of the images the ledger keeps 16 hexadecimal digits. */
struct ledger_function {
    char name[REGISTRY_NAME_BYTES];
    char owner[REGISTRY_NAME_BYTES];
    uint64_t generation;
    bool has_adapter;
    struct digest backbone;
    struct digest adapter;
};

struct ledger_receipt {
    struct ledger_function function;
    uint64_t request; /* unique within the run */
    uint64_t wall_us; /* when it ended; wall clock, as all times here */
    struct sched_receipt used;
    struct price_items price;
};

struct ledger_idle {
    struct ledger_function function;
    uint64_t from_us, to_us;
    double byte_s;
    struct price_items price;
};

/* Of all memories that are billed from, since the start of the run. */
struct ledger_totals {
    uint64_t wall_us;
    uint64_t device_us;
    double byte_s;
    double platform_byte_s; /* of that, for nobody */
};

/* Opens or makes `path` and begins a run, with 16 random bytes for a name. Damaged, foreign and
 * newer files are refused with what to do. */
int ledger_open(struct ledger **ret, const char *path, uint64_t wall_us, struct error *err);
/* Does not commit. */
void ledger_close(struct ledger *l);

int ledger_add_receipt(struct ledger *l, const struct ledger_receipt *r); /* 0 or -ENOBUFS */
int ledger_add_idle(struct ledger *l, const struct ledger_idle *i);       /* 0 or -ENOBUFS */
/* Replaces what was set before: the totals at the time of the last row. */
void ledger_set_totals(struct ledger *l, const struct ledger_totals *t);
/* Rows that are not on disk yet. */
uint32_t ledger_waiting(const struct ledger *l);
/* 0 when everything is on disk; -ENOSPC, -EBUSY (another program writes), -EROFS, -EBADMSG, -EIO:
 * nothing is, and everything is kept. Never waits for a lock; waits for the disk. */
int ledger_commit(struct ledger *l, struct error *err);
