/*
 * One self-contained HTML page: text, tables, and plots as SVG that a browser shows without a
 * script, a font or a network. Made front to back; what cannot be written is said at the end.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct page;

/* The file at `path` is replaced when the page is complete; a device or a pipe is written to. What
 * cannot be opened is said here: before the work that the page is about. */
int page_open(struct page **ret, const char *path, const char *title, struct error *err);
/* 0, or the first error of any call before: then the old file is still there, and no other. -E2BIG
 * for more than 64 MiB. Frees in any case. */
int page_close(struct page *p, struct error *err);

void page_heading(struct page *p, const char *text);
/* A paragraph; what HTML means by <, & and the like is shown as it stands. */
void page_text(struct page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A table: `columns` names, then rows of as many cells. Cells that are numbers stand to the right,
 * with a short unit behind them too. NULL is an empty cell. */
void page_table_begin(struct page *p, const char *const *columns, size_t count);
void page_table_row(struct page *p, const char *const *cells, size_t count);
void page_table_end(struct page *p);

struct page_series {
    const char *name;
    const double *x, *y; /* [count]; a y that is not finite leaves a gap */
    size_t count;
};

/* A log axis shows what is above zero. NULL is no text. */
struct page_plot {
    const char *title, *x_label, *y_label;
    bool x_log, y_log;
    const struct page_series *series;
    size_t series_count; /* at most 16: more cannot be told apart */
    double mark_y;       /* a line across, e.g. an objective; NAN: none */
    const char *mark_name;
};

/* Any number of values: those that would fall on one spot of a screen are drawn once, extremes are
 * kept. */
void page_lines(struct page *p, const struct page_plot *plot);
/* The same as points only. */
void page_points(struct page *p, const struct page_plot *plot);
/* x is not looked at: one group of bars for each index, named by groups[index]. */
void page_bars(struct page *p, const struct page_plot *plot, const char *const *groups);
/* Stacked areas: each series adds to those before; all have the same x. Where one of them is not
 * finite, or negative, the sum is not known: a gap in all. */
void page_areas(struct page *p, const struct page_plot *plot);
