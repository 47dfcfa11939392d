/* See capacity.h. */
#include "sim/capacity.h"

#include "sim/page.h"

#include <math.h>
#include <stdio.h>

int capacity_run(const struct system *system, const struct system_options *options,
                 const uint32_t *devices, size_t count, struct capacity_point *ret,
                 struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        struct system_options o = *options;
        o.devices = devices[i];
        int r = system_run(system, &o, &ret[i].figures, err);
        if (r < 0)
            return error_prefix(err, "%u devices", devices[i]);
        ret[i].devices = devices[i];
    }
    return 0;
}

static void table(struct page *page, const struct capacity_point *points, size_t count)
{
    static const char *const columns[] = {"devices", "requests", "met",  "refused", "TTFT mean",
                                          "p95",     "E2E mean", "cost", "per 1000"};
    page_table_begin(page, columns, 9);
    for (size_t i = 0; i < count; i++) {
        const struct figures *f = &points[i].figures;
        char text[9][48];
        const char *cells[9];
        snprintf(text[0], 48, "%u", points[i].devices);
        snprintf(text[1], 48, "%llu", (unsigned long long)f->requests);
        snprintf(text[2], 48, "%.2f %%", 100 * f->slo_attainment);
        snprintf(text[3], 48, "%llu", (unsigned long long)f->refused);
        snprintf(text[4], 48, "%.0f ms", f->ttft_ms.mean);
        snprintf(text[5], 48, "%.0f ms", f->ttft_ms.p95);
        snprintf(text[6], 48, "%.0f ms", f->e2e_ms.mean);
        snprintf(text[7], 48, "%.4g USD", f->cost_usd);
        snprintf(text[8], 48, "%.4g USD", f->cost_usd_per_1k);
        for (int c = 0; c < 9; c++)
            cells[c] = text[c];
        page_table_row(page, cells, 9);
    }
    page_table_end(page);
}

static void plot(struct page *page, const char *title, const char *unit, const double *x,
                 const double *y, size_t count, bool y_log, double mark)
{
    const struct page_series series = {title, x, y, count};
    const struct page_plot p = {.title = title,
                                .x_label = "devices",
                                .y_label = unit,
                                .y_log = y_log,
                                .series = &series,
                                .series_count = 1,
                                .mark_y = mark,
                                .mark_name = isfinite(mark) ? "99 %" : NULL};
    page_lines(page, &p);
}

int capacity_page(const char *dir, const struct system *system, const char *what,
                  const struct capacity_point *points, size_t count, struct error *err)
{
    char path[4200];
    struct page *page;
    double x[CAPACITY_POINTS_MAX], met[CAPACITY_POINTS_MAX], cost[CAPACITY_POINTS_MAX],
        ttft[CAPACITY_POINTS_MAX];
    snprintf(path, sizeof path, "%s/capacity.html", dir);
    int r = page_open(&page, path, "What so many devices give, and what they cost", err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        x[i] = points[i].devices;
        met[i] = 100 * points[i].figures.slo_attainment;
        cost[i] = points[i].figures.cost_usd;
        ttft[i] = points[i].figures.ttft_ms.mean;
    }
    page_text(page,
              "%s (%s), %s. Simulated; cost is by use: what is not held is not paid for, "
              "however many devices there are.",
              system->title, system->models, what);
    plot(page, "First tokens in time", "% of all requests", x, met, count, false, 99);
    plot(page, "Cost", "USD", x, cost, count, false, NAN);
    plot(page, "First token, mean", "ms", x, ttft, count, true, NAN);
    table(page, points, count);
    return page_close(page, err);
}
