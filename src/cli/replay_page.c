/* See replay_page.h. What does not fit a plot is thinned, and the page says how. */
#include "cli/replay_page.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POINTS_MAX 2000u
#define CDF_POINTS 200u
#define BINS_MAX 240u
#define AREAS_MAX 8u /* functions by name; the others are one more */
#define CELL_BYTES 64

typedef char cell[CELL_BYTES];

struct grouped {
    size_t *indices;  /* [due] */
    size_t *begin;    /* [names + 1] */
    uint32_t *ranked; /* [names], the most asked first */
};

/* --- tables --- */

static void put_ms(cell to, double ms)
{
    if (isnan(ms))
        snprintf(to, CELL_BYTES, "-");
    else
        snprintf(to, CELL_BYTES, ms < 10 ? "%.2f" : "%.1f", ms);
}

static void put_percent(cell to, double share)
{
    if (isnan(share))
        snprintf(to, CELL_BYTES, "-");
    else
        snprintf(to, CELL_BYTES, "%.1f %%", 100 * share);
}

static void write_latencies(struct page *p, const struct result *r)
{
    static const char *const columns[] = {"", "mean", "p50", "p95", "p99", "max"};
    const struct {
        const char *name;
        const struct stats_summary *s;
    } rows[] = {{"TTFT, ms", &r->figures.ttft_ms},
                {"TPOT, ms", &r->figures.tpot_ms},
                {"E2E, ms", &r->figures.e2e_ms},
                {"sent late by, ms", &r->figures.late_ms}};
    page_table_begin(p, columns, 6);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct stats_summary *s = rows[i].s;
        const double values[] = {s->mean, s->p50, s->p95, s->p99, s->max};
        cell text[5];
        const char *cells[6] = {rows[i].name};
        for (size_t k = 0; k < 5; k++) {
            put_ms(text[k], values[k]);
            cells[k + 1] = text[k];
        }
        page_table_row(p, cells, 6);
    }
    page_table_end(p);
}

static void write_row(struct page *p, const char *name, const char *value)
{
    const char *cells[] = {name, value};
    page_table_row(p, cells, 2);
}

static void write_count(struct page *p, const char *name, size_t count)
{
    cell text;
    snprintf(text, sizeof text, "%zu", count);
    write_row(p, name, text);
}

static void write_number(struct page *p, const char *name, double value)
{
    cell text;
    snprintf(text, sizeof text, "%.3f", value);
    write_row(p, name, text);
}

static void write_counts(struct page *p, const struct result *r)
{
    static const char *const columns[] = {"of all requests", ""};
    const struct result_figures *f = &r->figures;
    cell text;
    page_table_begin(p, columns, 2);
    write_count(p, "requests", f->requests);
    write_count(p, "completed", f->completed);
    write_count(p, "refused (429, 503)", f->refused);
    write_count(p, "failed", f->failed);
    write_count(p, "unfinished when the run ended", f->unfinished);
    write_count(p, "that waited for a connection of the driver", f->waited);
    put_percent(text, f->slo_attainment);
    write_row(p, "first token within the objective", text);
    if (!isnan(f->slo_tpot_attainment)) {
        put_percent(text, f->slo_tpot_attainment);
        write_row(p, "TPOT within the objective", text);
    }
    write_number(p, "tokens/s of completed ones", result_tok_s(r));
    if (r->usage.known) {
        const struct server_usage *u = &r->usage;
        write_number(p, "memory of functions, GB s", (u->active_byte_s + u->idle_byte_s) / 1e9);
        write_number(p, "of it idle, GB s", u->idle_byte_s / 1e9);
        write_number(p, "memory of the platform, GB s", u->platform_byte_s / 1e9);
        write_number(p, "compute, s", u->device_s);
        snprintf(text, sizeof text, "$%.6f", u->cost_usd);
        write_row(p, "cost", text);
        if (!isnan(result_ce(r)))
            write_number(p, "cost-effectiveness, 1/(s $)", result_ce(r));
    }
    for (size_t i = 0; i < f->code_count; i++) {
        snprintf(text, sizeof text, "answers: %s", f->codes[i].word);
        write_count(p, text, f->codes[i].count);
    }
    page_table_end(p);
}

static int write_functions(struct page *p, const struct result *r, const struct grouped *g)
{
    static const char *const columns[] = {"function",     "requests",         "completed",
                                          "refused",      "failed",           "TTFT p50, ms",
                                          "TTFT p95, ms", "TTFT p99, ms",     "TPOT p50, ms",
                                          "E2E mean, ms", "TTFT in objective"};
    page_table_begin(p, columns, 11);
    int n = 0;
    for (uint32_t i = 0; n == 0 && i < r->names->count; i++) {
        uint32_t name = g->ranked[i];
        struct result_figures f;
        cell text[10];
        const char *cells[11] = {r->names->names[name]};
        n = result_figures(r, g->indices + g->begin[name], g->begin[name + 1] - g->begin[name], &f);
        if (n < 0)
            break;
        const size_t counts[] = {f.requests, f.completed, f.refused, f.failed};
        const double ms[] = {f.ttft_ms.p50, f.ttft_ms.p95, f.ttft_ms.p99, f.tpot_ms.p50,
                             f.e2e_ms.mean};
        for (size_t k = 0; k < 4; k++)
            snprintf(text[k], CELL_BYTES, "%zu", counts[k]);
        for (size_t k = 0; k < 5; k++)
            put_ms(text[4 + k], ms[k]);
        put_percent(text[9], f.slo_attainment);
        for (size_t k = 0; k < 10; k++)
            cells[k + 1] = text[k];
        page_table_row(p, cells, 11);
    }
    page_table_end(p);
    return n;
}

/* --- plots --- */

/* TTFT by the time that requests should have been sent; of many, the slowest of each few. */
static int write_ttft(struct page *p, const struct result *r)
{
    size_t due = r->run->due;
    size_t each = (due + POINTS_MAX - 1) / POINTS_MAX;
    double *x = calloc(POINTS_MAX, sizeof *x);
    double *y = calloc(POINTS_MAX, sizeof *y);
    size_t n = 0;
    for (size_t i = 0; x != NULL && y != NULL && i < due; i += each) {
        y[n] = NAN;
        for (size_t k = i; k < i + each && k < due; k++) {
            const struct trace_request *q = &r->trace->requests[k];
            double ms = result_ttft_ms(q, &r->run->samples[k]);
            if (!isnan(ms) && !(y[n] >= ms)) {
                x[n] = (double)q->at_us / 1e6;
                y[n] = ms;
            }
        }
        n += !isnan(y[n]);
    }
    const struct page_series series = {.name = "requests", .x = x, .y = y, .count = n};
    const struct page_plot plot = {
        .title = "Time to the first token",
        .x_label = "when the request was due, s",
        .y_label = "TTFT, ms",
        .y_log = r->figures.ttft_ms.max > 20 * r->figures.ttft_ms.p50,
        .series = &series,
        .series_count = 1,
        .mark_y = r->slo_ttft_ms,
        .mark_name = "objective",
    };
    bool ok = x != NULL && y != NULL;
    if (ok && n > 0)
        page_points(p, &plot);
    if (ok && each > 1)
        page_text(p, "Each point is the slowest of %zu requests that followed each other.", each);
    free(x);
    free(y);
    return ok ? 0 : -ENOMEM;
}

typedef double latency_fn(const struct trace_request *q, const struct driver_sample *s);

/* Sorted latencies as points of a distribution, in milliseconds. */
static struct page_series distribution(const struct result *r, const char *name,
                                       latency_fn *latency, double *values, double *x, double *y)
{
    size_t n = 0;
    for (size_t i = 0; i < r->run->due; i++) {
        double ms = latency(&r->trace->requests[i], &r->run->samples[i]);
        if (!isnan(ms))
            values[n++] = ms;
    }
    stats_sort(values, n);
    return (struct page_series){
        .name = name, .x = x, .y = y, .count = stats_cdf(values, n, CDF_POINTS, x, y)};
}

static int write_distributions(struct page *p, const struct result *r)
{
    double *values = calloc(r->run->due > 0 ? r->run->due : 1, sizeof *values);
    double *points = calloc(6 * CDF_POINTS, sizeof *points);
    if (values != NULL && points != NULL) {
        double *at = points;
        struct page_series series[3];
        series[0] = distribution(r, "TTFT", result_ttft_ms, values, at, at + CDF_POINTS);
        at += 2 * CDF_POINTS;
        series[1] = distribution(r, "TPOT", result_tpot_ms, values, at, at + CDF_POINTS);
        at += 2 * CDF_POINTS;
        series[2] = distribution(r, "E2E", result_e2e_ms, values, at, at + CDF_POINTS);
        const struct page_plot plot = {
            .title = "Distributions of latencies",
            .x_label = "ms",
            .y_label = "share of requests",
            .x_log = true,
            .series = series,
            .series_count = 3,
            .mark_y = NAN,
        };
        page_lines(p, &plot);
    }
    bool ok = values != NULL && points != NULL;
    free(values);
    free(points);
    return ok ? 0 : -ENOMEM;
}

/* Requests a second, of the most asked functions by name and of the others together. */
static int write_arrivals(struct page *p, const struct result *r, const struct grouped *g)
{
    double span_s = (double)r->trace->requests[r->run->due - 1].at_us / 1e6;
    double width_s = fmax(1, ceil(span_s / BINS_MAX));
    size_t bins = (size_t)(span_s / width_s) + 1;
    uint32_t names = r->names->count;
    uint32_t areas = names > AREAS_MAX ? AREAS_MAX + 1 : names;
    struct page_series series[AREAS_MAX + 1];
    double *x = calloc(bins * (areas + 1), sizeof *x);
    if (x == NULL)
        return -ENOMEM;
    for (size_t b = 0; b < bins; b++)
        x[b] = (double)b * width_s;
    for (uint32_t i = 0; i < names; i++) {
        uint32_t area = i < areas ? i : areas - 1;
        double *y = x + bins * (area + 1);
        for (size_t k = g->begin[g->ranked[i]]; k < g->begin[g->ranked[i] + 1]; k++)
            y[(size_t)((double)r->trace->requests[g->indices[k]].at_us / 1e6 / width_s)] +=
                1 / width_s;
        bool others = names > AREAS_MAX && area == AREAS_MAX;
        series[area] = (struct page_series){
            .name = others ? "others" : r->names->names[g->ranked[i]],
            .x = x,
            .y = y,
            .count = bins,
        };
    }
    const struct page_plot plot = {
        .title = "Arrivals",
        .x_label = "when requests were due, s",
        .y_label = "requests a second",
        .series = series,
        .series_count = areas,
        .mark_y = NAN,
    };
    page_areas(p, &plot);
    free(x);
    return 0;
}

/* --- the whole --- */

static void write_head(struct page *p, const struct result *r)
{
    char name[RESULT_NAME_BYTES];
    page_text(p,
              "%s: %zu requests to %u functions in %.1f s%s. Each request was sent at its time, "
              "whether or not earlier ones had been answered, and its latencies count from that "
              "time.",
              result_name(r, name), r->figures.requests, result_functions(r), result_duration_s(r),
              r->run->stopped ? ", after which the run was stopped" : "");
    if (r->run->complaint[0] != '\0')
        page_text(p, "The first request that failed: %s", r->run->complaint);
}

static int order(const void *a, const void *b, void *context)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    const size_t *begin = context;
    size_t of_x = begin[x + 1] - begin[x];
    size_t of_y = begin[y + 1] - begin[y];
    if (of_x != of_y)
        return of_x > of_y ? -1 : 1;
    return (x > y) - (x < y);
}

static void rank(struct grouped *g, uint32_t names)
{
    for (uint32_t i = 0; i < names; i++)
        g->ranked[i] = i;
    qsort_r(g->ranked, names, sizeof *g->ranked, order, g->begin);
}

int replay_page_write(struct page *p, const struct result *r)
{
    size_t due = r->run->due;
    uint32_t names = r->names->count;
    struct grouped g = {.indices = calloc(due > 0 ? due : 1, sizeof *g.indices),
                        .begin = calloc(names + 1, sizeof *g.begin),
                        .ranked = calloc(names, sizeof *g.ranked)};
    int n = g.indices != NULL && g.begin != NULL && g.ranked != NULL ? 0 : -ENOMEM;
    if (n == 0) {
        result_group(r, g.indices, g.begin);
        rank(&g, names);
        write_head(p, r);
        write_latencies(p, r);
        write_counts(p, r);
    }
    if (n == 0 && due > 0) {
        page_heading(p, "Over time");
        n = write_ttft(p, r);
        n = n == 0 ? write_arrivals(p, r, &g) : n;
        page_heading(p, "Distributions");
        n = n == 0 ? write_distributions(p, r) : n;
        page_heading(p, "By function");
        n = n == 0 ? write_functions(p, r, &g) : n;
    }
    free(g.indices);
    free(g.begin);
    free(g.ranked);
    return n;
}
