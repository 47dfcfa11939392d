/* report.html of the paper's evaluation: every number of the paper first, then what is behind. */
#include "sim/paper_parts.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct cells {
    char text[16][96];
    const char *all[16];
    size_t count;
};

static void put_text(struct cells *c, const char *text)
{
    snprintf(c->text[c->count], sizeof c->text[0], "%s", text);
    c->all[c->count] = c->text[c->count];
    c->count++;
}

static void put_number(struct cells *c, double v, int digits, const char *unit)
{
    char text[96] = "";
    if (isfinite(v))
        snprintf(text, sizeof text, "%.*f%s%s", digits, v, unit[0] != '\0' ? " " : "", unit);
    put_text(c, text);
}

static int digits_of(double v)
{
    double size = fabs(v);
    return size >= 100 ? 0 : size >= 10 ? 1 : 2;
}

/* --- the paper's numbers --- */

static void rows_table(struct page *page, const struct paper *p)
{
    static const char *const columns[] = {"row", "result",     "paper", "published, simulated",
                                          "off", "this system"};
    struct paper_row rows[PAPER_ROWS_MAX];
    size_t count = paper_rows(p, rows);
    page_heading(page, "Every number of the paper");
    page_text(page,
              "The paper's value, the published system in this simulator, and this system in "
              "the same world, with the same requests and the same machines. Rows are those "
              "of the paper's results as they are known; \"up to\" is the largest of the "
              "three classes. Means over %u traces of each class.",
              p->o->traces);
    page_table_begin(page, columns, 6);
    for (size_t i = 0; i < count; i++) {
        const struct paper_row *r = &rows[i];
        struct cells c = {.count = 0};
        put_text(&c, r->number);
        put_text(&c, r->what);
        put_number(&c, r->paper, digits_of(r->paper), r->unit);
        put_number(&c, r->published, digits_of(r->published), r->unit);
        put_number(&c, 100 * (r->published / r->paper - 1), 0, "%");
        put_number(&c, r->ours, digits_of(r->ours), r->unit);
        page_table_row(page, c.all, c.count);
    }
    page_table_end(page);
    page_heading(page, "Where the published system is more than 20 % off, and why");
    size_t off = 0;
    for (size_t i = 0; i < count; i++) {
        if (rows[i].why[0] == '\0')
            continue;
        off++;
        page_text(page, "Row %s, %s (%.3g against %.3g): %s", rows[i].number, rows[i].what,
                  rows[i].published, rows[i].paper, rows[i].why);
    }
    if (off == 0)
        page_text(page, "Nowhere.");
}

/* --- systems by class --- */

static double pick(const struct figures *f, int what)
{
    switch (what) {
    case 0:
        return f->ttft_ms.mean;
    case 1:
        return f->cost_usd_per_1k;
    case 2:
        return 100 * (1 - f->slo_attainment);
    case 3:
        return f->ce;
    case 4:
        return f->e2e_ms.mean;
    default:
        return f->tok_s;
    }
}

static void class_bars(struct page *page, const struct paper *p, const char *title,
                       const char *unit, int what, bool is_log)
{
    double y[PAPER_SYSTEMS_MAX][PAPER_CLASSES], x[PAPER_CLASSES] = {0, 1, 2};
    struct page_series series[PAPER_SYSTEMS_MAX];
    for (size_t s = 0; s < p->system_count; s++) {
        for (uint32_t c = 0; c < PAPER_CLASSES; c++)
            y[s][c] = pick(&p->whole[s][c], what);
        series[s] = (struct page_series){p->systems[s]->title, x, y[s], PAPER_CLASSES};
    }
    const struct page_plot plot = {.title = title,
                                   .y_label = unit,
                                   .y_log = is_log,
                                   .series = series,
                                   .series_count = p->system_count,
                                   .mark_y = NAN};
    page_bars(page, &plot, paper_class_names);
}

static void system_row(struct page *page, const char *title, const struct figures *f)
{
    struct cells c = {.count = 0};
    put_text(&c, title);
    put_number(&c, f->ttft_ms.mean, 0, "ms");
    put_number(&c, f->ttft_ms.p50, 0, "ms");
    put_number(&c, f->ttft_ms.p95, 0, "ms");
    put_number(&c, f->tpot_ms.mean, 1, "ms");
    put_number(&c, f->e2e_ms.mean, 0, "ms");
    put_number(&c, 100 * (1 - f->slo_attainment), 2, "%");
    put_number(&c, f->completed > 0 ? 100.0 * (double)f->cold / (double)f->completed : NAN, 1, "%");
    put_number(&c, f->cost_usd, 2, "USD");
    put_number(&c, f->cost_usd_per_1k, 2, "USD");
    put_number(&c, f->ce, 4, "");
    put_number(&c, f->active_gb_s, 0, "");
    put_number(&c, f->idle_gb_s + f->platform_gb_s, 0, "");
    page_table_row(page, c.all, c.count);
}

static void figures_begin(struct page *page)
{
    static const char *const columns[] = {"system", "TTFT mean",   "p50",       "p95",  "TPOT",
                                          "E2E",    "missed",      "cold",      "cost", "per 1000",
                                          "CE",     "active GB s", "other GB s"};
    page_table_begin(page, columns, 13);
}

static void systems_part(struct page *page, const struct paper *p)
{
    page_heading(page, "All systems, three classes");
    page_text(page,
              "8 functions on 16 GPUs for 4 hours. Always-on systems have as few GPUs as hold "
              "the objectives for 99 %% of requests (two here), billed by the hour; the others "
              "are billed by use. CE is 1 / (E2E x cost). GB s of always-on systems are not "
              "billed and not shown apart.");
    class_bars(page, p, "First token, mean", "ms", 0, true);
    class_bars(page, p, "Cost of 1,000 requests", "USD", 1, false);
    class_bars(page, p, "Objectives missed", "%", 2, false);
    class_bars(page, p, "Cost-effectiveness", "1 / (s USD)", 3, true);
    for (uint32_t c = 0; c < PAPER_CLASSES; c++) {
        char title[96];
        snprintf(title, sizeof title, "Class %s, %zu requests", paper_class_names[c],
                 p->requests[c]);
        page_heading(page, title);
        figures_begin(page);
        for (size_t s = 0; s < p->system_count; s++)
            system_row(page, p->systems[s]->title, &p->whole[s][c]);
        page_table_end(page);
    }
    page_heading(page, "What each system models");
    for (size_t s = 0; s < p->system_count; s++)
        page_text(page, "%s: %s. Left out: %s.", p->systems[s]->title, p->systems[s]->models,
                  p->systems[s]->leaves_out);
}

/* --- who wins --- */

static bool is_ours(const struct system *s)
{
    return strncmp(s->name, "sllora", 6) == 0;
}

/* For each figure the best of the others. */
static void best_table(struct page *page, const struct paper *p)
{
    static const char *const columns[] = {"class",  "figure",     "this system",
                                          "shared", "best other", "which"};
    static const char *const names[] = {"TTFT mean, ms", "USD per 1,000 requests",
                                        "objectives missed, %"};
    page_table_begin(page, columns, 6);
    for (uint32_t i = 0; i < 3 * PAPER_CLASSES; i++) {
        uint32_t c = i / 3;
        int what = (int)(i % 3);
        size_t best = SIZE_MAX;
        for (size_t s = 0; s < p->system_count; s++)
            if (!is_ours(p->systems[s]) &&
                (best == SIZE_MAX || pick(&p->whole[s][c], what) < pick(&p->whole[best][c], what)))
                best = s;
        struct cells cells = {.count = 0};
        put_text(&cells, paper_class_names[c]);
        put_text(&cells, names[what]);
        put_number(&cells, pick(paper_whole(p, "sllora", c), what), 2, "");
        put_number(&cells, pick(paper_whole(p, "sllora-shared", c), what), 2, "");
        put_number(&cells, pick(&p->whole[best][c], what), 2, "");
        put_text(&cells, p->systems[best]->title);
        page_table_row(page, cells.all, cells.count);
    }
    page_table_end(page);
}

/* As early, as reliable and cheaper: differences that nobody notices do not count. */
#define TTFT_SLACK_MS 5.0
#define MISS_SLACK 0.001

static bool is_better(const struct figures *a, const struct figures *b)
{
    return a->ttft_ms.mean <= b->ttft_ms.mean + TTFT_SLACK_MS &&
           a->slo_attainment >= b->slo_attainment - MISS_SLACK &&
           a->cost_usd_per_1k < b->cost_usd_per_1k;
}

/* The cheapest of our choices that is better in everything. */
static void better_row(struct page *page, const struct paper *p, size_t system, uint32_t class)
{
    const struct paper_sweep *w = &p->price[class];
    const struct figures *other = &p->whole[system][class], *best = NULL;
    size_t variant = 0, step = 0;
    for (size_t s = 0; s < w->system_count; s++)
        for (size_t i = 0; i < w->step_count; i++) {
            const struct figures *f = &w->figures[s][i];
            if (!is_better(f, other) || (best && f->cost_usd_per_1k >= best->cost_usd_per_1k))
                continue;
            best = f;
            variant = s;
            step = i;
        }
    char price[32] = "";
    struct cells c = {.count = 0};
    put_text(&c, paper_class_names[class]);
    put_text(&c, p->systems[system]->title);
    put_number(&c, other->ttft_ms.mean, 0, "ms");
    put_number(&c, 100 * (1 - other->slo_attainment), 2, "%");
    put_number(&c, other->cost_usd_per_1k, 2, "USD");
    if (best)
        snprintf(price, sizeof price, "%.0e", w->x[step]);
    put_text(&c, best ? w->systems[variant]->title : "none");
    put_text(&c, price);
    put_number(&c, best ? best->ttft_ms.mean : NAN, 0, "ms");
    put_number(&c, best ? 100 * (1 - best->slo_attainment) : NAN, 2, "%");
    put_number(&c, best ? best->cost_usd_per_1k : NAN, 2, "USD");
    page_table_row(page, c.all, c.count);
}

static void verdict_part(struct page *page, const struct paper *p)
{
    static const char *const columns[] = {"class",    "against",     "TTFT", "missed", "per 1000",
                                          "by which", "price_bytes", "TTFT", "missed", "per 1000"};
    page_heading(page, "This system against all others");
    best_table(page, p);
    page_text(
        page,
        "One setting of price_bytes (1e14) stands for this system in that table. Who pays less "
        "for memory waits longer, so for each other system here is the cheapest setting that "
        "is better in all three at once: first tokens as early (within %.0f ms), objectives "
        "met as often (within %.1f %%), at a lower cost.",
        TTFT_SLACK_MS, 100 * MISS_SLACK);
    page_table_begin(page, columns, 10);
    for (uint32_t c = 0; c < PAPER_CLASSES; c++)
        for (size_t s = 0; s < p->system_count; s++)
            if (!is_ours(p->systems[s]))
                better_row(page, p, s, c);
    page_table_end(page);
    page_text(page,
              "Always-on engines have first tokens as early as a shared process of this "
              "system, and earlier by the merged adapters of dLoRA: they have what a start "
              "would bring, and pay for it around the clock. What they leave out (the time of "
              "a front end in Python, any isolation between tenants) is in their favour here.");
}

/* --- ablations --- */

static void ablation_part(struct page *page, const struct paper *p)
{
    const struct {
        const char *title;
        const struct figures (*all)[PAPER_CLASSES];
    } both[] = {{"Ablations of the published system", p->published},
                {"Ablations of this system", p->ours}};
    for (int i = 0; i < 2; i++) {
        double y[PAPER_ABLATIONS][PAPER_CLASSES], x[PAPER_CLASSES] = {0, 1, 2};
        struct page_series series[PAPER_ABLATIONS];
        for (uint32_t a = 0; a < PAPER_ABLATIONS; a++) {
            for (uint32_t c = 0; c < PAPER_CLASSES; c++)
                y[a][c] = both[i].all[a][c].ttft_ms.mean;
            series[a] = (struct page_series){a == PAPER_WHOLE ? "full" : paper_ablation_names[a], x,
                                             y[a], PAPER_CLASSES};
        }
        const struct page_plot plot = {.title = "First token, mean",
                                       .y_label = "ms",
                                       .y_log = true,
                                       .series = series,
                                       .series_count = PAPER_ABLATIONS,
                                       .mark_y = NAN};
        page_heading(page, both[i].title);
        page_bars(page, &plot, paper_class_names);
        for (uint32_t c = 0; c < PAPER_CLASSES; c++) {
            page_text(page, "Class %s:", paper_class_names[c]);
            figures_begin(page);
            for (uint32_t a = 0; a < PAPER_ABLATIONS; a++)
                system_row(page, a == PAPER_WHOLE ? "full" : paper_ablation_names[a],
                           &both[i].all[a][c]);
            page_table_end(page);
        }
    }
}

/* --- sweeps --- */

static void sweep_plot(struct page *page, const struct paper_sweep *w, const char *title,
                       const char *x_label, const char *y_label, int what, bool y_log)
{
    double y[PAPER_SYSTEMS_MAX][PAPER_STEPS_MAX];
    struct page_series series[PAPER_SYSTEMS_MAX];
    for (size_t s = 0; s < w->system_count; s++) {
        for (size_t i = 0; i < w->step_count; i++)
            y[s][i] = pick(&w->figures[s][i], what);
        series[s] = (struct page_series){w->systems[s]->title, w->x, y[s], w->step_count};
    }
    const struct page_plot plot = {.title = title,
                                   .x_label = x_label,
                                   .y_label = y_label,
                                   .x_log = true,
                                   .y_log = y_log,
                                   .series = series,
                                   .series_count = w->system_count,
                                   .mark_y = NAN};
    page_lines(page, &plot);
}

/* Where the line of system a crosses that of b, in logarithms; NAN: it does not. */
static double crossing(const struct paper_sweep *w, size_t a, size_t b)
{
    for (size_t i = 0; i + 1 < w->step_count; i++) {
        double now = log(w->figures[a][i].cost_usd_per_1k / w->figures[b][i].cost_usd_per_1k);
        double next =
            log(w->figures[a][i + 1].cost_usd_per_1k / w->figures[b][i + 1].cost_usd_per_1k);
        if (now > 0 && next <= 0)
            return exp(log(w->x[i]) + (log(w->x[i + 1]) - log(w->x[i])) * now / (now - next));
    }
    return NAN;
}

static void load_part(struct page *page, const struct paper *p)
{
    page_heading(page, "At which load an always-on engine is cheaper");
    sweep_plot(page, &p->load, "Cost of 1,000 requests", "requests a second", "USD", 1, true);
    sweep_plot(page, &p->load, "First token, mean", "requests a second", "ms", 0, true);
    for (size_t s = 1; s < p->load.system_count; s++) {
        double at = crossing(&p->load, 0, s);
        if (isfinite(at))
            page_text(page,
                      "%s crosses %s at %.2g requests a second of all 8 functions together; above, "
                      "the engine by the hour is cheaper.",
                      p->load.systems[0]->title, p->load.systems[s]->title, at);
        else
            page_text(page, "%s is not cheaper than %s at any of these loads.",
                      p->load.systems[0]->title, p->load.systems[s]->title);
    }
}

static void sweeps_part(struct page *page, const struct paper *p)
{
    page_heading(page, "Strong scaling: 4 requests a second on more and more GPUs");
    sweep_plot(page, &p->strong, "Tokens a second", "GPUs", "tok/s", 5, false);
    sweep_plot(page, &p->strong, "First token, mean", "GPUs", "ms", 0, true);
    page_heading(page, "Weak scaling: a function and a quarter of a request a second for each GPU");
    sweep_plot(page, &p->weak, "First token, mean", "GPUs", "ms", 0, true);
    sweep_plot(page, &p->weak, "Cost of 1,000 requests", "GPUs", "USD", 1, false);
    page_heading(page, "Peak: 4 functions of 7B on 2 GPUs");
    figures_begin(page);
    for (size_t s = 0; s < p->system_count; s++)
        system_row(page, p->systems[s]->title, &p->peak[s]);
    page_table_end(page);
    page_heading(page, "What memory buys: the price of waiting");
    page_text(page, "The same system, the same requests: only price_bytes differs, the bytes that "
                    "may be held for as long as somebody waits without them.");
    for (uint32_t c = 0; c < PAPER_CLASSES; c++) {
        char title[96];
        snprintf(title, sizeof title, "First token, mean, class %s", paper_class_names[c]);
        sweep_plot(page, &p->price[c], title, "price_bytes", "ms", 0, true);
        snprintf(title, sizeof title, "Cost of 1,000 requests, class %s", paper_class_names[c]);
        sweep_plot(page, &p->price[c], title, "price_bytes", "USD", 1, false);
    }
}

int paper_page(const struct paper *p, struct error *err)
{
    char path[4200];
    struct page *page;
    if (mkdir(p->o->report_dir, 0777) < 0 && errno != EEXIST)
        return error_set(err, -errno, "cannot make %s: %s", p->o->report_dir, strerror(errno));
    snprintf(path, sizeof path, "%s/report.html", p->o->report_dir);
    int r = page_open(&page, path, "ServerlessLoRA: the paper's evaluation, simulated", err);
    if (r < 0)
        return r;
    page_text(page,
              "Made by `sllora sim --paper`, seed %llu, profile %s. Everything is simulated; "
              "what of the constants is measured, taken from a datasheet or calibrated is said "
              "in the profile, constant by constant.",
              (unsigned long long)p->o->seed, p->o->profile->name);
    rows_table(page, p);
    verdict_part(page, p);
    systems_part(page, p);
    load_part(page, p);
    ablation_part(page, p);
    sweeps_part(page, p);
    return page_close(page, err);
}
