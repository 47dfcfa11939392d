/*
 * The picture of a run as the system lived it, drawn from its event log (store/eventlog.h): whose
 * turn each device had, every request cut into what it waited for and what it did, processes, loads
 * and memory, one below the other on one axis of time. It is made of events and actions alone, and
 * what a receipt says of its request is the truth about that.
 *
 * The result is an SVG drawing, or a page around it with tables and how to read it: no script, no
 * font, no network, light and dark as the reader's screen is.
 *
 * A log is input from outside and may be as long as it likes. It is read twice, front to back; what
 * is kept is what a screen can show: one value a column, PICTURE_REQUESTS_MAX requests, the lanes
 * of the busiest functions, and tables as large as the log's own limits (a few MiB as the daemon
 * sets them). What was left out is said in the picture. A log that is cut or damaged is drawn up to
 * there, and the picture says so.
 */
#pragma once

#include "base/error.h"
#include "sim/markup.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define PICTURE_FUNCTIONS 24u     /* lanes, unless asked for others */
#define PICTURE_FUNCTIONS_MAX 64u /* that may be asked for */
#define PICTURE_REQUESTS_MAX 4000u

struct picture_options {
    double from_s, to_s;    /* since the log's first record; NAN: the first request, the last end */
    uint32_t functions_max; /* with a lane of their own, the busiest; the others share one */
};

void picture_options_default(struct picture_options *o);

/* out_path ends in .svg or .html; the file there is replaced once the new one is complete. -EINVAL:
 * another name, no event log, one of another version, or times that it does not have. */
int picture_write(const char *log_path, const char *out_path, const struct picture_options *o,
                  struct error *err);

/* The same of a file that can be read twice, into `out`; `name` is what it is called. */
int picture_make(FILE *log, const char *name, bool is_page, const struct picture_options *o,
                 struct markup *out, struct error *err);
