/*
 * What happened to each function lately, for `sllora logs`: starts, loads, requests with their
 * times and costs, refusals. A ring in memory: the oldest lines go, and who reads by number sees
 * that some went.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>

#define JOURNAL_LINES 8192u
#define JOURNAL_TEXT_BYTES 168u

struct journal;

struct journal *journal_new(void); /* NULL: no memory */
void journal_free(struct journal *j);

/* `name` of the function; longer texts are cut. */
void journal_put(struct journal *j, const char *name, uint64_t generation, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* {"lines": [{"number", "time", "generation", "text"}], "next": N}: lines of `name` (NULL: all)
 * from number `from` on, at most `max`, oldest first. `next` is where to go on. */
json_t *journal_json(const struct journal *j, const char *name, uint64_t from, uint32_t max);
