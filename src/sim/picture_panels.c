/*
 * The panels of the drawing, one function each: requests, processes, turns, loads, memory. Bars are
 * strokes of a path, so that a class says how thick and of what colour they are and a bar costs a
 * dozen bytes. See picture_parts.h.
 */
#include <math.h>

#include "sim/axis.h"
#include "sim/picture_parts.h"

#define ROW 6.0       /* of requests */
#define LANE_MIN 28.0 /* room for two lines of text */
#define WIDTH_MIN 1.6 /* of what is short, or it were not seen */
#define WORKER_ROW 11.0
#define TURNS_HEIGHT 44.0
#define LOAD_ROW 15.0
#define MEMORY_HEIGHT 96.0
#define LABEL_X 9.0

static void put_bar(struct markup *out, double x, double y, double width)
{
    markup_printf(out, "M%g,%gh%g", picture_tenths(x), picture_tenths(y), picture_tenths(width));
}

/* Three digits, as a person writes them. */
static int digits_of(double v)
{
    return v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2;
}

/* --- requests --- */

static const char *const part_classes[PICTURE_PARTS] = {"b w0", "b w1", "b w2",
                                                        "b w3", "b f ", "b r "};

static void put_title(struct markup *out, const struct picture *p, const struct picture_request *r)
{
    static const char *const names[PICTURE_PARTS] = {"load",  "process",     "bind",
                                                     "queue", "first token", "the rest"};
    static const char *const ends[PICTURE_ENDS] = {"completed", "its client left",
                                                   "its process ended", "refused",
                                                   "not over when the log ends"};
    markup_printf(out, "<title>request %llu of function %u, %.3f s: ", (unsigned long long)r->id,
                  r->function, picture_seconds(p, r->arrived_us));
    for (uint32_t i = 0; i < PICTURE_PARTS; i++) {
        if (r->part_us[i] > 0)
            markup_printf(out, "%s %.1f ms, ", names[i], (double)r->part_us[i] / 1e3);
    }
    if (r->has_receipt)
        markup_printf(out, "device %.1f ms, ", (double)r->device_us / 1e3);
    markup_printf(out, "%u tokens in (%u cached), %u out; %s", r->prompt_tokens, r->cached_tokens,
                  r->new_tokens, ends[r->end]);
    if (r->reason != SCHED_REASON_NONE)
        markup_printf(out, ": %s", sched_reason_name(r->reason));
    markup_put(out, "</title>");
}

/* The last part is as wide as it takes to be seen. */
static void put_request(struct picture_sheet *s, const struct picture_request *r, double y)
{
    const struct picture *p = s->p;
    char colour[8];
    uint32_t domain = p->functions[picture_lane_of(p, r->function)].domain, last = 0;
    double start = picture_x(p, r->arrived_us), x = start, end = start;
    uint64_t at_us = r->arrived_us;
    for (uint32_t i = 0; i < PICTURE_PARTS; i++)
        last = r->part_us[i] > 0 ? i : last;
    markup_put(s->out, "<g>");
    put_title(s->out, p, r);
    for (uint32_t i = 0; i <= last; i++, x = end) {
        at_us += r->part_us[i];
        end = picture_x(p, at_us);
        end = i == last && end < start + WIDTH_MIN ? start + WIDTH_MIN : end;
        if (end - x < 0.05)
            continue;
        markup_printf(s->out, "<path class=\"%s%s\" d=\"", part_classes[i],
                      i < PICTURE_FIRST ? "" : picture_colour(p, domain, colour));
        put_bar(s->out, x, y, end - x);
        markup_put(s->out, "\"/>");
    }
    if (r->end == PICTURE_LEFT || r->end == PICTURE_LOST || r->end == PICTURE_REFUSED)
        markup_printf(s->out, "<path class=\"e e%u\" d=\"M%g,%gm-2.5-2.5l5,5m0-5l-5,5\"/>", r->end,
                      picture_tenths(end), picture_tenths(y));
    markup_put(s->out, "</g>\n");
}

static void put_lane(struct picture_sheet *s, const struct picture_lane *lane)
{
    const struct picture *p = s->p;
    const struct picture_function *f = &p->functions[lane->function];
    char name[64], colour[8], first[32] = "";
    double height = fmax(lane->rows * ROW, LANE_MIN);
    uint64_t failed = f->ends[PICTURE_LOST] + f->ends[PICTURE_REFUSED];
    double first_s = picture_first_s(p, s->lanes, lane);
    picture_name_lane(p, lane->function, name);
    markup_printf(s->out, "<path class=\"p r %s\" d=\"M%g,%gv%g\"/>\n",
                  picture_colour(p, f->domain, colour), LABEL_X + 2.5, picture_tenths(s->y),
                  picture_tenths(height - 3));
    picture_put_label(s, "a", LABEL_X + 11, s->y + 10, "%s", name);
    if (failed > 0)
        snprintf(first, sizeof first, ", %llu failed", (unsigned long long)failed);
    else if (first_s >= 0)
        snprintf(first, sizeof first, ", TTFT %.*f s", digits_of(first_s), first_s);
    picture_put_label(s, failed > 0 ? "bad" : "t", LABEL_X + 11, s->y + 22, "%llu request%s%s",
                      (unsigned long long)f->requests, f->requests == 1 ? "" : "s", first);
    double top = s->y + (height - lane->rows * ROW) / 2 - 1;
    for (uint32_t i = lane->first; i < lane->first + lane->count; i++) {
        uint32_t index = s->lanes->order[i];
        if (s->lanes->rows[index] != PICTURE_NO_ROW)
            put_request(s, &p->requests[index], top + (s->lanes->rows[index] + 0.5) * ROW);
    }
    s->y += height;
}

void picture_panel_requests(struct picture_sheet *s)
{
    uint64_t ends[PICTURE_ENDS] = {0};
    for (uint32_t i = 0; i <= s->p->function_count; i++)
        for (uint32_t e = 0; e < PICTURE_ENDS; e++)
            ends[e] += s->p->functions[i].ends[e];
    picture_put_heading(s, "Requests",
                        "each from its arrival to its last token; what overlaps is below each "
                        "other. TTFT: time to first token, median");
    picture_put_key(s, "p w0", "waits for a load");
    picture_put_key(s, "p w1", "for a process");
    picture_put_key(s, "p w2", "for its adapter to be bound");
    picture_put_key(s, "p w3", "in the queue");
    picture_put_key(s, "p f s0", "the first token");
    picture_put_key(s, "p r s0", "the others");
    s->y += 4;
    for (uint32_t i = 0; i < s->lanes->lane_count; i++) {
        put_lane(s, &s->lanes->lanes[i]);
        s->y += 4;
    }
    static const char *const crosses[] = {[PICTURE_LEFT] = "client left",
                                          [PICTURE_LOST] = "process lost",
                                          [PICTURE_REFUSED] = "refused"};
    s->key_x = PICTURE_MARGIN;
    s->y += 12;
    for (uint32_t e = PICTURE_LEFT; e <= PICTURE_REFUSED; e++) {
        if (ends[e] == 0)
            continue;
        char class[8];
        snprintf(class, sizeof class, "p e%u", e);
        picture_put_key(s, class, crosses[e]);
    }
    if (s->key_x == PICTURE_MARGIN)
        s->y -= 12;
}

/* --- processes --- */

static const struct {
    const char *class, *name;
    bool has_colour;
} states[PICTURE_LOADING] = {
    [PICTURE_STARTING] = {"p w0", "starting", false},
    [PICTURE_SPARE] = {"p w3", "spare, of no domain yet", false},
    [PICTURE_IDLE] = {"i r", "bound, idle", true},
    [PICTURE_SERVING] = {"p r", "at work", true},
    [PICTURE_ENDING] = {"i w4", "ending", false},
};

static void put_spans(struct picture_sheet *s, uint32_t state, uint32_t domain,
                      const double rows[PICTURE_WORKERS_MAX])
{
    const struct picture *p = s->p;
    bool is_open = false;
    for (uint32_t i = 0; i < p->span_count; i++) {
        const struct picture_span *k = &p->spans[i];
        if (k->state != state || (states[state].has_colour && k->domain != domain))
            continue;
        char colour[8];
        if (!is_open)
            markup_printf(s->out, "<path class=\"%s %s\" d=\"", states[state].class,
                          states[state].has_colour ? picture_colour(p, domain, colour) : "");
        is_open = true;
        double x = picture_x(p, k->begin_us);
        put_bar(s->out, x, rows[k->number], fmax(picture_x(p, k->end_us) - x, WIDTH_MIN / 2));
    }
    if (is_open)
        markup_put(s->out, "\"/>\n");
}

void picture_panel_processes(struct picture_sheet *s)
{
    const struct picture *p = s->p;
    bool exists[PICTURE_WORKERS_MAX] = {false};
    double rows[PICTURE_WORKERS_MAX];
    picture_put_heading(s, "Processes",
                        "each sandboxed, and once it is bound of one domain up to its end; a row "
                        "is a place for one");
    for (uint32_t i = 0; i < PICTURE_LOADING; i++) {
        char class[16];
        snprintf(class, sizeof class, "%s%s", states[i].class, states[i].has_colour ? " s0" : "");
        picture_put_key(s, class, states[i].name);
    }
    for (uint32_t i = 0; i < p->span_count; i++)
        exists[p->spans[i].number] = true;
    s->y += 4;
    for (uint32_t i = 0; i < PICTURE_WORKERS_MAX; i++) {
        if (!exists[i])
            continue;
        rows[i] = s->y + WORKER_ROW / 2;
        picture_put_label(s, "t", LABEL_X, rows[i] + 3.5, "process %u", i);
        s->y += WORKER_ROW;
    }
    for (uint32_t state = 0; state < PICTURE_LOADING; state++) {
        uint32_t domains = states[state].has_colour ? p->domain_count : 0;
        for (uint32_t d = 0; d <= domains; d++)
            put_spans(s, state, d, rows);
    }
}

/* --- turns --- */

/* Columns of one domain upon those before it, equal neighbours as one. */
static void put_shares(struct picture_sheet *s, const float *shares, double *base, double bottom)
{
    double x = 0, top = 0, foot = 0;
    for (uint32_t c = 0; c <= PICTURE_COLUMNS; c++) {
        double f = 0, t = 0;
        if (c < PICTURE_COLUMNS) {
            f = base[c];
            t = base[c] = fmin(base[c] + (double)shares[c], 1);
        }
        f = round(f * TURNS_HEIGHT);
        t = round(t * TURNS_HEIGHT);
        if (c > 0 && f == foot && t == top)
            continue;
        if (top > foot)
            markup_printf(s->out, "M%g,%gv%gH%gv%gz", PICTURE_MARGIN + x, bottom - foot, foot - top,
                          PICTURE_MARGIN + c, top - foot);
        x = c;
        foot = f;
        top = t;
    }
}

void picture_panel_turns(struct picture_sheet *s)
{
    const struct picture *p = s->p;
    picture_put_heading(s, "Turns",
                        "one process at a time computes on a device: how much of each moment was "
                        "whose (in the order of the lanes)");
    s->y -= 14;
    for (uint32_t i = 0; i < p->place_count; i++) {
        double base[PICTURE_COLUMNS] = {0}, held = 0;
        if (!p->places[i].is_device)
            continue;
        double bottom = round(s->y + TURNS_HEIGHT + 1);
        for (uint32_t d = 0; d <= p->domain_count; d++) {
            char colour[8];
            markup_printf(s->out, "<path class=\"u %s\" d=\"", picture_colour(p, d, colour));
            put_shares(s, picture_shares(p, i, d), base, bottom);
            markup_put(s->out, "\"/>\n");
        }
        for (uint32_t c = 0; c < PICTURE_COLUMNS; c++)
            held += base[c] / PICTURE_COLUMNS;
        markup_printf(s->out, "<path class=\"g\" d=\"M%g,%gh%u\"/>\n", PICTURE_MARGIN, bottom,
                      PICTURE_COLUMNS);
        picture_put_label(s, "a", LABEL_X, s->y + 16, "device %u", p->places[i].number);
        picture_put_label(s, "t", LABEL_X, s->y + 28, "held for %.0f %% of the time", 100 * held);
        s->y = bottom + 6;
    }
}

/* --- loads --- */

static void put_load(struct picture_sheet *s, const struct picture_span *l, double *free_x)
{
    const struct picture *p = s->p;
    char colour[8];
    double x = picture_x(p, l->begin_us), width = picture_x(p, l->end_us) - x;
    double y = s->y + (l->is_adapter ? 1.5 : 0.5) * LOAD_ROW,
           s_took = (double)(l->end_us - l->begin_us) / 1e6;
    const char *what = l->is_adapter ? "adapter of function" : "backbone";
    markup_put(s->out, "<g>");
    markup_printf(s->out, "<title>%s %u, %.3f s: %.1f ms%s</title>", what, l->number,
                  picture_seconds(p, l->begin_us), s_took * 1e3, l->has_failed ? ", failed" : "");
    markup_printf(
        s->out, "<path class=\"p %s%s\" d=\"",
        l->has_failed   ? "e2"
        : l->is_adapter ? "r "
                        : "w4",
        l->is_adapter && !l->has_failed
            ? picture_colour(p, p->functions[picture_lane_of(p, l->number)].domain, colour)
            : "");
    put_bar(s->out, x, y, fmax(width, WIDTH_MIN));
    markup_put(s->out, "\"/></g>\n");
    if (l->is_adapter || x + width < *free_x)
        return;
    picture_put_label(s, "t", x + width + 5, y + 3.5, "backbone %u, %.*f s", l->number,
                      digits_of(s_took), s_took);
    *free_x = x + width + 120;
}

void picture_panel_loads(struct picture_sheet *s)
{
    const struct picture *p = s->p;
    double free_x = 0;
    picture_put_heading(s, "Loads", "into a device's memory or a host's, until all of it is there");
    s->y -= 14;
    picture_put_label(s, "a", LABEL_X, s->y + 0.5 * LOAD_ROW + 3.5, "backbones");
    picture_put_label(s, "a", LABEL_X, s->y + 1.5 * LOAD_ROW + 3.5, "adapters");
    for (uint32_t i = 0; i < p->load_count; i++)
        put_load(s, &p->loads[i], &free_x);
    s->y += 2 * LOAD_ROW;
}

/* --- memory --- */

static const char *unit_of(double bytes, double *ret_unit)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t i = 0;
    for (*ret_unit = 1; i < 4 && bytes >= 1024 * *ret_unit; i++)
        *ret_unit *= 1024;
    return names[i];
}

/* One kind upon those before it: along its top, and back along its foot. */
static void put_level(struct picture_sheet *s, uint32_t kind, const double *foot, const double *top)
{
    double at = top[0];
    markup_printf(s->out, "<path class=\"k%u\" d=\"M%g,%gV%g", kind, PICTURE_MARGIN, foot[0], at);
    for (uint32_t c = 1; c < PICTURE_COLUMNS; c++) {
        if (top[c] == at)
            continue;
        at = top[c];
        markup_printf(s->out, "H%gV%g", PICTURE_MARGIN + c, at);
    }
    at = foot[PICTURE_COLUMNS - 1];
    markup_printf(s->out, "H%gV%g", PICTURE_MARGIN + PICTURE_COLUMNS, at);
    for (uint32_t c = PICTURE_COLUMNS - 1; c-- > 0;) {
        if (foot[c] == at)
            continue;
        at = foot[c];
        markup_printf(s->out, "H%gV%g", PICTURE_MARGIN + c + 1, at);
    }
    markup_put(s->out, "z\"/>\n");
}

static void put_scale(struct picture_sheet *s, const struct axis *axis, const char *unit)
{
    for (size_t i = 0; i < axis->tick_count; i++) {
        double y = s->y + MEMORY_HEIGHT * (1 - axis_place(axis, axis->ticks[i].value));
        markup_printf(s->out, "<path class=\"g\" d=\"M%g,%gh%u\"/>\n", PICTURE_MARGIN,
                      picture_tenths(y), PICTURE_COLUMNS);
        if (i % 2 == 0)
            picture_put_label(s, "t end", PICTURE_MARGIN - 6, y + 3.5, "%s%s%s",
                              axis->ticks[i].label, i == 0 ? "" : " ", i == 0 ? "" : unit);
    }
}

static void put_place(struct picture_sheet *s, const struct picture_place *m)
{
    double tops[PICTURE_MEMORIES + 1][PICTURE_COLUMNS], most = 0, unit;
    for (uint32_t c = 0; c < PICTURE_COLUMNS; c++) {
        double sum = 0;
        for (uint32_t k = 0; k < PICTURE_MEMORIES; k++)
            sum += m->columns[c].bytes[k];
        most = fmax(most, sum);
    }
    bool has_limit = m->budget > 0 && m->budget < 1.6 * most;
    const char *name = unit_of(most, &unit);
    struct axis axis;
    struct axis_range range = {0, fmax(most, has_limit ? m->budget : 0) / unit};
    axis_fit(&axis, &range, false, AXIS_ZERO, AXIS_LABELS_MIN);
    for (uint32_t c = 0; c < PICTURE_COLUMNS; c++) {
        double sum = 0;
        for (uint32_t k = 0; k <= PICTURE_MEMORIES; k++) {
            tops[k][c] = picture_tenths(s->y + MEMORY_HEIGHT * (1 - axis_place(&axis, sum / unit)));
            sum += k < PICTURE_MEMORIES ? m->columns[c].bytes[k] : 0;
        }
    }
    put_scale(s, &axis, name);
    for (uint32_t k = 0; k < PICTURE_MEMORIES; k++)
        put_level(s, k, tops[k], tops[k + 1]);
    if (has_limit)
        markup_printf(
            s->out, "<path class=\"lim\" d=\"M%g,%gh%u\"/>\n", PICTURE_MARGIN,
            picture_tenths(s->y + MEMORY_HEIGHT * (1 - axis_place(&axis, m->budget / unit))),
            PICTURE_COLUMNS);
    picture_put_label(s, "a", LABEL_X, s->y + 12, "%s %u", m->is_device ? "device" : "host",
                      m->number);
    name = unit_of(most, &unit);
    picture_put_label(s, "t", LABEL_X, s->y + 24, "most: %.*f %s", digits_of(most / unit),
                      most / unit, name);
    name = unit_of(m->budget, &unit);
    picture_put_label(s, "t", LABEL_X, s->y + 36, "budget: %.*f %s", digits_of(m->budget / unit),
                      m->budget / unit, name);
    s->y += MEMORY_HEIGHT + 12;
}

void picture_panel_memory(struct picture_sheet *s)
{
    static const char *const names[PICTURE_MEMORIES] = {"backbones, once each", "adapters",
                                                        "processes", "KV cache"};
    picture_put_heading(s, "Memory", "as the scheduler counts it, each column at its fullest");
    for (uint32_t k = 0; k < PICTURE_MEMORIES; k++) {
        char class[8];
        snprintf(class, sizeof class, "p q%u", k);
        picture_put_key(s, class, names[k]);
    }
    picture_put_key(s, "lim", "budget");
    s->y += 4;
    for (uint32_t i = 0; i < s->p->place_count; i++)
        put_place(s, &s->p->places[i]);
}
