/* report.html of the paper's evaluation: every number of the paper first, then what is behind. */
#include "sim/paper_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
        if (r->is_bound && r->published <= r->paper)
            put_text(&c, "within");
        else
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
        char paper[32] = "no number";
        if (isfinite(rows[i].paper))
            snprintf(paper, sizeof paper, "%.3g", rows[i].paper);
        page_text(page, "Row %s, %s (%.3g against %s): %s", rows[i].number, rows[i].what,
                  rows[i].published, paper, rows[i].why);
    }
    if (off == 0)
        page_text(page, "Nowhere.");
}

/* --- systems by class --- */

/* The first three are what systems are told apart by. */
enum figure { FIGURE_TTFT, FIGURE_COST, FIGURE_MISS, FIGURES, FIGURE_CE = FIGURES, FIGURE_TOKENS };

static double pick(const struct figures *f, enum figure what)
{
    switch (what) {
    case FIGURE_TTFT:
        return f->ttft_ms.mean;
    case FIGURE_COST:
        return f->cost_usd_per_1k;
    case FIGURE_MISS:
        return 100 * (1 - f->slo_attainment);
    case FIGURE_CE:
        return f->ce;
    default:
        return f->tok_s;
    }
}

static void class_bars(struct page *page, const struct paper *p, const char *title,
                       const char *unit, enum figure what, bool is_log)
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
    put_number(&c, f->ttft_ms.p95, 0, "ms");
    put_number(&c, 100 * (1 - f->slo_attainment), 2, "%");
    put_number(&c, f->cost_usd_per_1k, 2, "USD");
    put_number(&c, f->e2e_ms.mean, 0, "ms");
    put_number(&c, f->tpot_ms.mean, 1, "ms");
    put_number(&c, f->ce, 4, "");
    put_number(&c, f->completed > 0 ? 100.0 * (double)f->cold / (double)f->completed : NAN, 1, "%");
    put_number(&c, f->cost_usd, 2, "USD");
    put_number(&c, f->active_gb_s, 0, "");
    put_number(&c, f->idle_gb_s + f->platform_gb_s, 0, "");
    page_table_row(page, c.all, c.count);
}

static void figures_begin(struct page *page)
{
    static const char *const columns[] = {"system",   "TTFT mean", "p95",         "missed",
                                          "per 1000", "E2E",       "TPOT",        "CE",
                                          "cold",     "cost",      "active GB s", "other GB s"};
    page_table_begin(page, columns, 12);
}

/* What of a first token's time is what, as in the receipts. */
static void waits_part(struct page *page, const struct paper *p)
{
    static const char *const columns[] = {
        "system", "load", "start", "bind", "queue", "first step and turns", "TTFT, mean"};
    page_heading(page, "Where the time of a first token goes, class normal");
    page_table_begin(page, columns, 7);
    for (size_t s = 0; s < p->system_count; s++) {
        const struct figures *f = &p->whole[s][PAPER_NORMAL];
        struct cells c = {.count = 0};
        double rest = f->ttft_ms.mean;
        put_text(&c, p->systems[s]->title);
        for (int w = 0; w < WORLD_WAITS; w++) {
            rest -= f->wait_ms[w];
            put_number(&c, f->wait_ms[w], 1, "ms");
        }
        put_number(&c, rest, 1, "ms");
        put_number(&c, f->ttft_ms.mean, 1, "ms");
        page_table_row(page, c.all, c.count);
    }
    page_table_end(page);
}

static void systems_part(struct page *page, const struct paper *p)
{
    page_heading(page, "All systems, three classes");
    page_text(page,
              "8 functions on 16 GPUs for %g hours. Always-on systems have as few GPUs as hold "
              "the objectives for %.0f %% of requests (vLLM-like: %u here), billed by the hour; "
              "the others are billed by use. CE is 1 / (E2E x cost). GB s of always-on systems "
              "are not billed and not shown apart; host memory is paid for by nobody.",
              p->o->hours, 100 * SYSTEM_ATTAINMENT, paper_whole(p, "vllm", PAPER_NORMAL)->devices);
    class_bars(page, p, "First token, mean", "ms", FIGURE_TTFT, true);
    class_bars(page, p, "Cost of 1,000 requests", "USD", FIGURE_COST, false);
    class_bars(page, p, "Objectives missed", "%", FIGURE_MISS, false);
    class_bars(page, p, "Cost-effectiveness", "1 / (s USD)", FIGURE_CE, true);
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
    waits_part(page, p);
    page_heading(page, "What each system models");
    for (size_t s = 0; s < p->system_count; s++)
        page_text(page, "%s: %s. Left out: %s.", p->systems[s]->title, p->systems[s]->models,
                  p->systems[s]->leaves_out);
}

/* --- who wins --- */

static size_t best_other(const struct paper *p, uint32_t class, enum figure what)
{
    size_t best = SIZE_MAX;
    for (size_t s = 0; s < p->system_count; s++)
        if (!paper_is_ours(p->systems[s]) &&
            (best == SIZE_MAX ||
             pick(&p->whole[s][class], what) < pick(&p->whole[best][class], what)))
            best = s;
    return best;
}

/* For each figure the best of the others. */
static void best_table(struct page *page, const struct paper *p)
{
    static const char *const columns[] = {"class",  "figure",     "this system",
                                          "shared", "best other", "which"};
    static const char *const names[FIGURES] = {"TTFT mean, ms", "USD per 1,000 requests",
                                               "objectives missed, %"};
    page_table_begin(page, columns, 6);
    for (uint32_t i = 0; i < FIGURES * PAPER_CLASSES; i++) {
        uint32_t c = i / FIGURES;
        enum figure what = (enum figure)(i % FIGURES);
        size_t best = best_other(p, c, what);
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

static double idle_usd(const struct paper *p, const struct figures *f)
{
    struct price_table t = price_table_default(PRICE_GPU, p->o->profile->vcpus);
    return f->idle_gb_s * 1e9 / PRICE_GB_BYTES * t.gb_s_idle_usd;
}

/* Where this system is not the first, and what of it is whose. */
static void losses_part(struct page *page, const struct paper *p)
{
    for (uint32_t c = 0; c < PAPER_CLASSES; c++) {
        const struct figures *own = paper_whole(p, "sllora", c);
        const struct figures *shared = paper_whole(p, "sllora-shared", c);
        size_t first = best_other(p, c, FIGURE_TTFT), cheapest = best_other(p, c, FIGURE_COST);
        const struct figures *early = &p->whole[first][c], *cheap = &p->whole[cheapest][c];
        if (own->ttft_ms.mean > early->ttft_ms.mean)
            page_text(
                page,
                "Class %s: %s has its first token %.0f ms earlier, at %.1f times the cost. Of "
                "that, %.0f ms are waiting for a batch while another function's process has "
                "the GPU, %.0f ms are starts; one process for all (shared) is %.0f ms behind.",
                paper_class_names[c], p->systems[first]->title,
                own->ttft_ms.mean - early->ttft_ms.mean,
                early->cost_usd_per_1k / own->cost_usd_per_1k, own->wait_ms[WORLD_WAIT_QUEUE],
                own->wait_ms[WORLD_WAIT_LOAD] + own->wait_ms[WORLD_WAIT_START] +
                    own->wait_ms[WORLD_WAIT_BIND],
                shared->ttft_ms.mean - early->ttft_ms.mean);
        if (own->cost_usd_per_1k > cheap->cost_usd_per_1k)
            page_text(page,
                      "Class %s: %s is %.0f %% cheaper, with first tokens %.0f times later and "
                      "%.1f %% of objectives missed. What this system keeps for functions between "
                      "requests is %.0f %% of its bill; on the step costs of the published "
                      "system's engine it would be at %.2f USD.",
                      paper_class_names[c], p->systems[cheapest]->title,
                      100 * (1 - cheap->cost_usd_per_1k / own->cost_usd_per_1k),
                      cheap->ttft_ms.mean / own->ttft_ms.mean, 100 * (1 - cheap->slo_attainment),
                      100 * idle_usd(p, own) / own->cost_usd,
                      paper_whole(p, "sllora-eager", c)->cost_usd_per_1k);
    }
}

/* Earlier, as reliable at least, and cheaper. */
static bool is_better(const struct figures *a, const struct figures *b)
{
    return a->ttft_ms.mean < b->ttft_ms.mean && a->slo_attainment >= b->slo_attainment &&
           a->cost_usd_per_1k < b->cost_usd_per_1k;
}

/* The cheapest of our choices that is better in everything. */
static void better_row(struct page *page, const struct paper *p, size_t system, uint32_t class)
{
    const struct paper_sweep *w = &p->price[class];
    const struct figures *other = &p->whole[system][class], *best = NULL;
    size_t variant = 0, step = 0;
    bool isolates = other->devices == 0; /* by use: a process for each function, as `sllora` has */
    for (size_t s = 0; s < w->system_count; s++)
        for (size_t i = 0; i < w->step_count; i++) {
            const struct figures *f = &w->figures[s][i];
            if (isolates && w->systems[s] != &system_sllora)
                continue;
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
                                          "by which", "hold, bytes", "TTFT", "missed", "per 1000"};
    page_heading(page, "This system against all others");
    best_table(page, p);
    losses_part(page, p);
    page_text(
        page,
        "The table has this system with --hold %.0e, in bytes held for a second to save a second "
        "of waiting: an operator's who sells first tokens (the default is 1e12). Who pays less "
        "for memory waits longer, so for each other system here is the cheapest setting that "
        "is better in all three at once: first tokens earlier, objectives met as often, at a "
        "lower cost; beside those that isolate functions, of a process for each function.",
        SYSTEM_GPU_HOLD);
    page_table_begin(page, columns, 10);
    for (uint32_t c = 0; c < PAPER_CLASSES; c++)
        for (size_t s = 0; s < p->system_count; s++)
            if (!paper_is_ours(p->systems[s]))
                better_row(page, p, s, c);
    page_table_end(page);
    page_text(page,
              "Always-on engines have what a start would bring, and pay for it around the clock. "
              "What is left out of them (the time of a front end in Python, any isolation between "
              "tenants) is in their favour here.");
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
                       const char *x_label, const char *y_label, enum figure what, bool y_log)
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

/* From where on the line of system a stays below that of b, in logarithms; 0: from the first step
 * on, NAN: it is above at the last. */
static double crossing(const struct paper_sweep *w, size_t a, size_t b)
{
    double at = 0, before = -INFINITY;
    for (size_t i = 0; i < w->step_count; i++) {
        double now = log(w->figures[a][i].cost_usd_per_1k / w->figures[b][i].cost_usd_per_1k);
        if (now > 0)
            at = NAN;
        else if (before > 0)
            at = exp(log(w->x[i - 1]) + log(w->x[i] / w->x[i - 1]) * before / (before - now));
        before = now;
    }
    return at;
}

static void load_part(struct page *page, const struct paper *p)
{
    page_heading(page, "At which load an always-on engine is cheaper");
    sweep_plot(page, &p->load, "Cost of 1,000 requests", "requests a second", "USD", FIGURE_COST,
               true);
    sweep_plot(page, &p->load, "First token, mean", "requests a second", "ms", FIGURE_TTFT, true);
    for (size_t s = 1; s < p->load.system_count; s++) {
        double at = crossing(&p->load, 0, s);
        const char *engine = p->load.systems[0]->title, *other = p->load.systems[s]->title;
        if (at > 0)
            page_text(page,
                      "%s crosses %s at %.2g requests a second of all 8 functions together; above, "
                      "the engine by the hour is cheaper.",
                      engine, other, at);
        else
            page_text(page, "%s is %s than %s at %s these loads.", engine,
                      isnan(at) ? "dearer" : "cheaper", other,
                      isnan(at) ? "the highest of" : "all");
    }
}

static void sweeps_part(struct page *page, const struct paper *p)
{
    page_heading(page, "Strong scaling: 4 requests a second on more and more GPUs");
    sweep_plot(page, &p->strong, "Tokens a second", "GPUs", "tok/s", FIGURE_TOKENS, false);
    sweep_plot(page, &p->strong, "First token, mean", "GPUs", "ms", FIGURE_TTFT, true);
    page_heading(page, "Weak scaling: a function and a quarter of a request a second for each GPU");
    sweep_plot(page, &p->weak, "First token, mean", "GPUs", "ms", FIGURE_TTFT, true);
    sweep_plot(page, &p->weak, "Cost of 1,000 requests", "GPUs", "USD", FIGURE_COST, false);
    page_heading(page, "Peak: 4 functions of 7B on 2 GPUs");
    figures_begin(page);
    for (size_t s = 0; s < p->system_count; s++)
        system_row(page, p->systems[s]->title, &p->peak[s]);
    page_table_end(page);
    page_heading(page, "What memory buys: the price of waiting");
    page_text(page,
              "The same system, the same requests: only --hold differs, the bytes that may be "
              "held for a second to save a second of waiting.");
    for (uint32_t c = 0; c < PAPER_CLASSES; c++) {
        char title[96];
        snprintf(title, sizeof title, "First token, mean, class %s", paper_class_names[c]);
        sweep_plot(page, &p->price[c], title, "hold, bytes", "ms", FIGURE_TTFT, true);
        snprintf(title, sizeof title, "Cost of 1,000 requests, class %s", paper_class_names[c]);
        sweep_plot(page, &p->price[c], title, "hold, bytes", "USD", FIGURE_COST, false);
    }
}

int paper_page(const struct paper *p, struct error *err)
{
    char path[4200];
    struct page *page;
    snprintf(path, sizeof path, "%s/report.html", p->o->report_dir);
    int r = page_open(&page, path, "ServerlessLoRA: the paper's evaluation, simulated", err);
    if (r < 0)
        return r;
    page_text(page,
              "Made by `sllora sim --paper`, seed %llu, profile %s. Everything is simulated; "
              "what of the constants is measured, taken from a datasheet or calibrated is said "
              "in the profile, constant by constant.",
              (unsigned long long)p->o->seed, p->o->profile->name);
    if (p->o->hours < PAPER_HOURS || p->o->hours > PAPER_HOURS)
        page_text(page, "Of %g hours, not of the paper's %g: its sums of money do not compare.",
                  p->o->hours, PAPER_HOURS);
    rows_table(page, p);
    verdict_part(page, p);
    systems_part(page, p);
    load_part(page, p);
    ablation_part(page, p);
    sweeps_part(page, p);
    return page_close(page, err);
}
