/*
 * The bill: the ledger read beside the server, or without one. A reader sees the ledger as it was
 * when it was opened, whatever is written meanwhile, so lines and totals are of one moment.
 */
#pragma once

#include "base/error.h"
#include "policy/price.h"
#include "store/registry.h"

#include <stdbool.h>
#include <stdint.h>

struct ledger_reader;

/* -ENOENT when there is no ledger at `path`. */
int ledger_reader_open(struct ledger_reader **ret, const char *path, struct error *err);
void ledger_reader_close(struct ledger_reader *l);

enum ledger_group {
    LEDGER_BY_FUNCTION,
    LEDGER_BY_OWNER,
    LEDGER_BY_DAY, /* UTC */
};

#define LEDGER_NOW UINT64_MAX

/* A request is in the period that it ended in, idle memory in the one that it was billed in. */
struct ledger_query {
    const char *owner;    /* NULL: all */
    const char *function; /* NULL: all */
    uint64_t since_us;    /* wall clock; 0: from the beginning */
    uint64_t until_us;    /* not included; LEDGER_NOW: to the end */
    enum ledger_group group;
};

struct ledger_line {
    char function[REGISTRY_NAME_BYTES]; /* "" unless by function */
    char owner[REGISTRY_NAME_BYTES];    /* "" by day */
    char day[16];                       /* "2025-11-25", "" unless by day */
    uint64_t requests;
    uint64_t lost; /* of them, with their worker; they cost nothing */
    uint64_t prompt_tokens, cached_tokens, new_tokens;
    uint64_t device_us;
    double own_byte_s, backbone_byte_s, idle_byte_s;
    struct price_items price;
};

/* Calls fn for each group in order of its name or day. Stops at the first that returns < 0 and
 * returns that. */
int ledger_bill(struct ledger_reader *l, const struct ledger_query *q,
                int (*fn)(void *context, const struct ledger_line *line), void *context,
                struct error *err);

/* Runs of the server, each in whole: all that their devices did, and whose it was. Open is what was
 * in use at the last commit of its run: of requests that had not ended, and idle memory that had
 * not been billed. When a run ends it stays open. */
struct ledger_sum {
    uint32_t runs;
    uint64_t started_us, updated_us; /* of the first and the last run */
    uint64_t device_us;              /* = billed + open; turns do more than requests */
    uint64_t billed_device_us;
    double byte_s; /* = receipts + idle + platform + open */
    double receipts_byte_s;
    double idle_byte_s;
    double platform_byte_s;
    double open_byte_s;
    int64_t open_device_us;
    bool adds_up; /* no more was billed than was used, but for rounding */
};

/* Of the runs that the period touches; owner and function are not asked for. */
int ledger_sum(struct ledger_reader *l, uint64_t since_us, uint64_t until_us,
               struct ledger_sum *ret, struct error *err);
