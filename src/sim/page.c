/*
 * See page.h. The page is made in memory and written by page_close, to a name of its own that then
 * takes the place of the old page: who opens the path sees one or the other, never half of one. The
 * file is opened at the start, so that a path that cannot be written is known before hours of work.
 */
#include "sim/page.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "sim/markup.h"
#include "sim/plot.h"

#define PAGE_BYTES_MAX (64u << 20)
#define TABLE_BYTES_MAX (16u << 20)
#define NUMBER_UNIT_BYTES 6

struct page {
    char *path; /* links resolved; owned */
    char *part; /* where it is written until complete; NULL: into path itself; owned */
    int fd;     /* owned */
    struct markup markup;
    struct error error; /* the first that was met */
    struct buf cells;   /* of the table that is open: its columns' names, then its rows, each
                           ended by a NUL */
    size_t columns;     /* 0: no table is open */
    size_t cell_count;
};

/* --- the file --- */

/* A device or a pipe is written as it stands: renaming would put a file in its place. */
static int open_file(struct page *p, const char *path, struct error *err)
{
    struct stat st;
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode))
        return error_set(err, -EISDIR, "%s is a folder: name a file for the page", path);
    p->path = exists ? realpath(path, NULL) : strdup(path);
    if (p->path == NULL)
        return error_set(err, -errno, "cannot find %s: %s", path, strerror(errno));
    if (exists && !S_ISREG(st.st_mode)) {
        p->fd = open(p->path, O_WRONLY | O_CLOEXEC);
    } else {
        if (asprintf(&p->part, "%s.%llx.part", p->path, (unsigned long long)clock_now_ns()) < 0)
            return error_set(err, -ENOMEM, "no memory for the page %s", path);
        p->fd = open(p->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (p->fd < 0)
        return error_set(err, -errno, "cannot write the page %s: %s", path, strerror(errno));
    return 0;
}

static void page_free(struct page *p)
{
    if (p->fd >= 0)
        close(p->fd);
    markup_free(&p->markup);
    buf_free(&p->cells);
    free(p->part);
    free(p->path);
    free(p);
}

static int write_all(struct page *p)
{
    const char *bytes = p->markup.text.data;
    size_t left = p->markup.text.len;
    while (left > 0) {
        ssize_t n = write(p->fd, bytes, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        bytes += n;
        left -= (size_t)n;
    }
    return close(steal_fd(&p->fd)) < 0 ? -errno : 0;
}

static int finish(struct page *p)
{
    if (p->error.code == 0 && p->markup.failed == -E2BIG)
        error_set(&p->error, -E2BIG, "the page %s is larger than %u MiB: show less on it", p->path,
                  PAGE_BYTES_MAX >> 20);
    if (p->error.code == 0 && p->markup.failed < 0)
        error_set(&p->error, p->markup.failed, "no memory for the page %s", p->path);
    if (p->error.code < 0)
        return p->error.code;
    int r = write_all(p);
    if (r == 0 && p->part != NULL && rename(p->part, p->path) < 0)
        r = -errno;
    if (r < 0)
        error_set(&p->error, r, "cannot write the page %s: %s", p->path, strerror(-r));
    return r;
}

/* --- the page --- */

static void put_head(struct page *p, const char *title)
{
    struct markup *m = &p->markup;
    markup_put(m, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                  "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    markup_text(m, title);
    markup_put(
        m, "</title>\n<style>\n"
           ":root{--paper:#fff;--ink:#1b1f24;--muted:#59636e;--grid:#e4e7eb;--head:#f4f6f8}\n"
           "@media screen and (prefers-color-scheme:dark){:root{--paper:#16191e;--ink:#e4e7eb;"
           "--muted:#9aa4af;--grid:#2c323a;--head:#1f242b}}\n"
           "*{box-sizing:border-box}\n"
           "body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:58rem;background:var(--paper);"
           "color:var(--ink);font:16px/1.55 system-ui,-apple-system,\"Segoe UI\",Roboto,"
           "\"Helvetica Neue\",Arial,sans-serif}\n"
           "h1{font-size:clamp(1.35rem,5vw,1.75rem);line-height:1.25;margin:1rem 0 1.25rem}\n"
           "h2{font-size:1.25rem;line-height:1.3;margin:2.75rem 0 .75rem;padding-top:1rem;"
           "border-top:1px solid var(--grid)}\n"
           "p{max-width:44rem;margin:.75rem 0;white-space:pre-line;overflow-wrap:anywhere}\n"
           "figure{margin:1.75rem 0}\n"
           "figcaption{font-weight:600;margin-bottom:.5rem}\n"
           ".scroll{overflow-x:auto}\n"
           "table{border-collapse:collapse;margin:1rem 0;font-size:.9rem;"
           "font-variant-numeric:tabular-nums}\n"
           "th,td{padding:.4rem .9rem .4rem .6rem;text-align:left;vertical-align:top;"
           "border-bottom:1px solid var(--grid)}\n"
           "thead th{font-weight:600;vertical-align:bottom;background:var(--head);"
           "border-bottom:1px solid var(--muted)}\n"
           "td:not(.num){min-width:8rem}\n"
           "td:first-child,th:first-child{position:sticky;left:0;background:var(--paper)}\n"
           "thead th:first-child{background:var(--head)}\n"
           ".num{text-align:right;white-space:nowrap}\n"
           "@media print{figure,tr{break-inside:avoid}body{max-width:none}}\n");
    plot_style(m);
    markup_put(m, "</style>\n</head>\n<body>\n");
    plot_definitions(m);
    markup_put(m, "<h1>");
    markup_text(m, title);
    markup_put(m, "</h1>\n");
}

int page_open(struct page **ret, const char *path, const char *title, struct error *err)
{
    struct page *p = calloc(1, sizeof *p);
    if (p == NULL)
        return error_set(err, -ENOMEM, "no memory for the page %s", path);
    p->fd = -1;
    markup_init(&p->markup, PAGE_BYTES_MAX);
    buf_init(&p->cells, TABLE_BYTES_MAX);
    int r = open_file(p, path, err);
    if (r < 0) {
        page_free(p);
        return r;
    }
    put_head(p, title);
    *ret = p;
    return 0;
}

int page_close(struct page *p, struct error *err)
{
    if (p->columns > 0)
        page_table_end(p);
    markup_put(&p->markup, "</body>\n</html>\n");
    int r = finish(p);
    if (r < 0) {
        error_set(err, r, "%s", p->error.text);
        if (p->part != NULL)
            unlink(p->part);
    }
    page_free(p);
    return r;
}

void page_heading(struct page *p, const char *text)
{
    assert(p->columns == 0);
    markup_put(&p->markup, "<h2>");
    markup_text(&p->markup, text);
    markup_put(&p->markup, "</h2>\n");
}

void page_text(struct page *p, const char *format, ...)
{
    assert(p->columns == 0);
    cleanup_free char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) {
        text = NULL;
        markup_fail(&p->markup, -ENOMEM);
        return;
    }
    markup_put(&p->markup, "<p>");
    markup_text(&p->markup, text);
    markup_put(&p->markup, "</p>\n");
}

/* --- tables: kept until their end, since how a column's name stands depends on its cells --- */

static void add_cells(struct page *p, const char *const *cells, size_t count)
{
    for (size_t i = 0; i < count && p->error.code == 0; i++) {
        const char *cell = cells[i] == NULL ? "" : cells[i];
        int r = buf_append(&p->cells, cell, strlen(cell) + 1);
        if (r == -E2BIG)
            error_set(&p->error, r, "a table of the page %s is larger than %u MiB: show less in it",
                      p->path, TABLE_BYTES_MAX >> 20);
        else if (r < 0)
            markup_fail(&p->markup, r);
        else
            p->cell_count++;
    }
}

void page_table_begin(struct page *p, const char *const *columns, size_t count)
{
    assert(p->columns == 0);
    assert(count > 0);
    p->columns = count;
    p->cell_count = 0;
    buf_clear(&p->cells);
    add_cells(p, columns, count);
}

void page_table_row(struct page *p, const char *const *cells, size_t count)
{
    assert(count == p->columns);
    add_cells(p, cells, count);
}

/* 12, -0.5, +3e-4, 1,024, 99.9 %, 12.5 ms, 1.2x: a number, and at most a short unit after it. */
static bool is_number(const char *cell)
{
    const char *at = cell + strspn(cell, "+-");
    if (at - cell > 1 || !isdigit((unsigned char)*at))
        return false;
    at += strspn(at, "0123456789,");
    if (*at == '.')
        at += 1 + strspn(at + 1, "0123456789");
    if (*at == 'e' || *at == 'E') {
        size_t sign = at[1] == '+' || at[1] == '-';
        size_t digits = strspn(at + 1 + sign, "0123456789");
        at += digits > 0 ? 1 + sign + digits : 0;
    }
    return strlen(at) <= NUMBER_UNIT_BYTES && strpbrk(at, "0123456789:") == NULL;
}

static bool is_blank(const char *cell)
{
    static const char *const blanks[] = {"", "-", "\xe2\x80\x93", "\xe2\x80\x94", "n/a", "nan"};
    for (size_t i = 0; i < sizeof blanks / sizeof blanks[0]; i++) {
        if (strcmp(cell, blanks[i]) == 0)
            return true;
    }
    return false;
}

/* Nothing but numbers, or a sign for none. */
static bool column_of_numbers(const char *const *cells, size_t count, size_t columns, size_t column)
{
    bool any = false;
    for (size_t i = columns + column; i < count; i += columns) {
        if (is_number(cells[i]))
            any = true;
        else if (!is_blank(cells[i]))
            return false;
    }
    return any;
}

static void put_cell(struct page *p, const char *cell, bool header, bool right)
{
    const char *start = header ? "<th scope=\"col\"" : "<td";
    markup_put(&p->markup, start);
    markup_put(&p->markup, right ? " class=\"num\">" : ">");
    markup_text(&p->markup, cell);
    markup_put(&p->markup, header ? "</th>" : "</td>");
}

static void put_table(struct page *p, const char *const *cells, bool *numbers)
{
    for (size_t i = 0; i < p->columns; i++)
        numbers[i] = column_of_numbers(cells, p->cell_count, p->columns, i);
    markup_put(&p->markup, "<div class=\"scroll\"><table>\n<thead>");
    for (size_t i = 0; i < p->cell_count; i++) {
        size_t column = i % p->columns;
        bool header = i < p->columns;
        if (column == 0)
            markup_put(&p->markup, "<tr>");
        put_cell(p, cells[i], header, numbers[column] || (!header && is_number(cells[i])));
        if (column + 1 == p->columns)
            markup_put(&p->markup, header ? "</tr></thead>\n<tbody>\n" : "</tr>\n");
    }
    markup_put(&p->markup, "</tbody>\n</table></div>\n");
}

void page_table_end(struct page *p)
{
    assert(p->columns > 0);
    cleanup_free const char **cells = calloc(p->cell_count + 1, sizeof *cells);
    cleanup_free bool *numbers = calloc(p->columns, sizeof *numbers);
    const char *at = p->cells.data;
    if (cells == NULL || numbers == NULL) {
        markup_fail(&p->markup, -ENOMEM);
    } else if (p->error.code == 0 && p->markup.failed == 0) {
        for (size_t i = 0; i < p->cell_count; i++, at += strlen(at) + 1)
            cells[i] = at;
        put_table(p, cells, numbers);
    }
    p->columns = 0;
}

/* --- plots --- */

static void put_figure(struct page *p, enum plot_kind kind, const struct page_plot *plot,
                       const char *const *groups)
{
    assert(p->columns == 0);
    markup_put(&p->markup, "<figure>\n");
    if (plot->title != NULL && plot->title[0] != '\0') {
        markup_put(&p->markup, "<figcaption>");
        markup_text(&p->markup, plot->title);
        markup_put(&p->markup, "</figcaption>\n");
    }
    markup_put(&p->markup, "<div class=\"scroll\">\n");
    struct error *first = p->error.code == 0 ? &p->error : NULL;
    plot_draw(&p->markup, kind, plot, groups, first);
    markup_put(&p->markup, "</div>\n</figure>\n");
}

void page_lines(struct page *p, const struct page_plot *plot)
{
    put_figure(p, PLOT_LINES, plot, NULL);
}

void page_points(struct page *p, const struct page_plot *plot)
{
    put_figure(p, PLOT_POINTS, plot, NULL);
}

void page_bars(struct page *p, const struct page_plot *plot, const char *const *groups)
{
    put_figure(p, PLOT_BARS, plot, groups);
}

void page_areas(struct page *p, const struct page_plot *plot)
{
    put_figure(p, PLOT_AREAS, plot, NULL);
}
