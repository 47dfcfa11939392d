/* See journal.h. */
#include "daemon/journal.h"

#include "base/clock.h"
#include "store/registry.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct line {
    uint64_t wall_us;
    uint64_t generation;
    char name[REGISTRY_NAME_BYTES];
    char text[JOURNAL_TEXT_BYTES];
};

struct journal {
    uint64_t count; /* ever written; line n is at n % JOURNAL_LINES */
    struct line lines[JOURNAL_LINES];
};

struct journal *journal_new(void)
{
    return calloc(1, sizeof(struct journal));
}

void journal_free(struct journal *j)
{
    free(j);
}

void journal_put(struct journal *j, const char *name, uint64_t generation, const char *format, ...)
{
    struct line *l = &j->lines[j->count++ % JOURNAL_LINES];
    va_list args;
    l->wall_us = clock_wall_us();
    l->generation = generation;
    snprintf(l->name, sizeof l->name, "%s", name);
    va_start(args, format);
    vsnprintf(l->text, sizeof l->text, format, args);
    va_end(args);
}

json_t *journal_json(const struct journal *j, const char *name, uint64_t from, uint32_t max)
{
    json_t *lines = json_array();
    uint64_t oldest = j->count > JOURNAL_LINES ? j->count - JOURNAL_LINES : 0;
    uint64_t at = from > oldest ? from : oldest;
    for (; at < j->count && max > 0; at++) {
        const struct line *l = &j->lines[at % JOURNAL_LINES];
        if (name != NULL && strcmp(l->name, name) != 0)
            continue;
        json_array_append_new(lines,
                              json_pack("{s:I, s:f, s:s, s:I, s:s}", "number", (json_int_t)at,
                                        "time", (double)l->wall_us / 1e6, "function", l->name,
                                        "generation", (json_int_t)l->generation, "text", l->text));
        max--;
    }
    return json_pack("{s:o, s:I}", "lines", lines, "next", (json_int_t)at);
}
