/* See plot.h. */
#include "sim/plot.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim/axis.h"
#include "sim/marks.h"

/* All in units of the drawing, about one pixel on a large screen. */
#define WIDTH 760.0
#define DATA_HEIGHT 270.0
#define ROW_HEIGHT 22.0 /* of the legend and of an axis' name */
#define EDGE 14.0
#define TICK_SIZE 12.0 /* of letters */
#define NAME_SIZE 13.0
#define TICK_GAP 8.0 /* between a tick's name and the data, and between two names */
#define SIGN_WIDTH 32.0
#define ENTRY_GAP 20.0
#define ENTRY_WIDTH_MAX 420.0
#define GROUP_WIDTH_MAX 220.0
#define TURNED_ACROSS 0.77 /* of a name turned by 40 degrees */
#define TURNED_DOWN 0.65
#define X_LABELS 8
#define Y_LABELS 8
#define HEADROOM 0.07 /* above the highest bar, for its value */

struct entry {
    double x;
    size_t row;
};

struct plot {
    enum plot_kind kind;
    const struct page_plot *asked;
    const char *const *groups;
    size_t group_count; /* of bars */
    size_t group_step;  /* each how many groups have a name */
    bool groups_turned;
    double *heights; /* [series_count][count], sums of areas; owned */
    bool empty;
    bool marked;
    struct marks marks;
    struct entry entries[MARKS_SLOTS + 1]; /* by slot, the mark last */
    double bottom;                         /* room below the data */
};

/* --- text --- */

/* Fonts differ: a width that no usual one exceeds, of one character as a part of its height. */
static double character_width(unsigned char c)
{
    if (c >= 0xe3)
        return 1.05;
    if (c >= 0x80 || strchr("mwMWO@%&", c) != NULL)
        return 0.98;
    if (strchr("iljtfrI.,:;|'!()-/ ", c) != NULL)
        return 0.41;
    return c >= 'A' && c <= 'Z' ? 0.76 : 0.65;
}

static double text_width(const char *text, double size)
{
    double width = 0;
    for (; *text != '\0'; text++) {
        if (((unsigned char)*text & 0xc0) != 0x80)
            width += size * character_width((unsigned char)*text);
    }
    return width;
}

/* As much of `text` as has room, with a sign where it is cut. */
static void put_cut(struct markup *out, const char *text, double size, double room)
{
    if (text_width(text, size) <= room) {
        markup_text(out, text);
        return;
    }
    double width = size * 0.9;
    size_t len = 0;
    while (text[len] != '\0') {
        size_t next = len + 1;
        while (((unsigned char)text[next] & 0xc0) == 0x80)
            next++;
        width += size * character_width((unsigned char)text[len]);
        if (width > room)
            break;
        len = next;
    }
    markup_text_part(out, text, len);
    markup_put(out, "\xe2\x80\xa6");
}

static bool has_text(const char *text)
{
    return text != NULL && text[0] != '\0';
}

/* --- ranges --- */

static size_t longest_series(const struct page_plot *asked)
{
    size_t count = 0;
    for (size_t i = 0; i < asked->series_count; i++)
        count = asked->series[i].count > count ? asked->series[i].count : count;
    return count;
}

/* A sum of which one part is not known is not known. */
static int sum_areas(struct plot *p)
{
    const struct page_plot *asked = p->asked;
    size_t count = longest_series(asked);
    if (count == 0)
        return 0;
    p->heights = calloc(count * asked->series_count, sizeof *p->heights);
    if (p->heights == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (size_t s = 0; s < asked->series_count; s++) {
            double part = asked->series[s].y[i];
            sum = isfinite(part) && part >= 0 ? sum + part : (double)NAN;
        }
        double height = 0;
        for (size_t s = 0; s < asked->series_count; s++) {
            height += asked->series[s].y[i];
            p->heights[s * count + i] = isnan(sum) ? (double)NAN : height;
        }
    }
    return 0;
}

static void collect(const struct plot *p, struct axis_range *x, struct axis_range *y)
{
    const struct page_plot *asked = p->asked;
    bool x_log = asked->x_log && p->kind != PLOT_BARS;
    for (size_t s = 0; s < asked->series_count; s++) {
        const struct page_series *series = &asked->series[s];
        const double *values = p->kind == PLOT_AREAS ? p->heights + s * series->count : series->y;
        for (size_t i = 0; i < series->count; i++) {
            double at = p->kind == PLOT_BARS ? (double)i : series->x[i];
            if (!axis_shows(at, x_log) || !axis_shows(values[i], asked->y_log))
                continue;
            axis_range_add(x, at, x_log);
            axis_range_add(y, values[i], asked->y_log);
        }
    }
}

/* On a log axis a height of nothing is at its foot, since no place is that of zero. */
static void lift_areas(struct plot *p)
{
    size_t count = p->heights == NULL ? 0 : longest_series(p->asked) * p->asked->series_count;
    for (size_t i = 0; i < count; i++) {
        if (p->heights[i] < p->marks.y.lo)
            p->heights[i] = p->marks.y.lo;
    }
}

/* For the value at a bar's end; and on a log axis the lowest bar has a height too. */
static void make_room_for_bars(struct axis_range *y, bool log)
{
    if (log) {
        y->lo = y->lo / 2;
        y->hi = y->hi * 1.2;
    } else {
        y->hi += fmax(0, y->hi) * HEADROOM;
        y->lo += fmin(0, y->lo) * HEADROOM;
    }
}

static void fit_axes(struct plot *p)
{
    const struct page_plot *asked = p->asked;
    struct axis_range x, y;
    axis_range_init(&x);
    axis_range_init(&y);
    collect(p, &x, &y);
    p->empty = axis_range_empty(&y);
    p->marked = !p->empty && axis_shows(asked->mark_y, asked->y_log);
    if (p->kind == PLOT_BARS && !p->empty)
        make_room_for_bars(&y, asked->y_log);
    if (p->marked)
        axis_range_add(&y, asked->mark_y, asked->y_log);
    enum axis_ends x_ends = p->kind == PLOT_POINTS ? AXIS_ROUND : AXIS_TIGHT;
    enum axis_ends y_ends = p->kind == PLOT_BARS || p->kind == PLOT_AREAS ? AXIS_ZERO : AXIS_ROUND;
    axis_fit(&p->marks.x, &x, asked->x_log && p->kind != PLOT_BARS, x_ends, X_LABELS);
    axis_fit(&p->marks.y, &y, asked->y_log, y_ends, Y_LABELS);
    if (p->kind == PLOT_BARS)
        p->marks.x.tick_count = 0;
    if (asked->y_log)
        lift_areas(p);
}

/* --- room --- */

static const char *entry_name(const struct plot *p, size_t slot)
{
    if (slot == p->asked->series_count)
        return p->marked ? p->asked->mark_name : NULL;
    return p->asked->series[slot].name;
}

/* Entries side by side in as many rows as they need. Returns the rows. */
static size_t place_entries(struct plot *p)
{
    double x = 0;
    size_t row = 0;
    bool any = false;
    for (size_t slot = 0; slot <= p->asked->series_count; slot++) {
        const char *name = entry_name(p, slot);
        if (!has_text(name))
            continue;
        double width = SIGN_WIDTH + fmin(text_width(name, NAME_SIZE), ENTRY_WIDTH_MAX);
        if (x > 0 && x + width > WIDTH) {
            x = 0;
            row++;
        }
        p->entries[slot] = (struct entry){.x = x, .row = row};
        x += width + ENTRY_GAP;
        any = true;
    }
    return any ? row + 1 : 0;
}

static double group_width(const struct plot *p, size_t group)
{
    return fmin(text_width(p->groups[group], TICK_SIZE), GROUP_WIDTH_MAX);
}

/* Names of groups lie flat where each has room, otherwise they are turned, otherwise some go. */
static void place_groups(struct plot *p)
{
    struct marks *m = &p->marks;
    double room = m->width / (double)p->group_count;
    for (size_t i = 0; i < p->group_count; i++) {
        if (text_width(p->groups[i], TICK_SIZE) > room - TICK_GAP)
            p->groups_turned = true;
    }
    if (!p->groups_turned)
        return;
    p->group_step = (size_t)ceil((TICK_SIZE + 4) / room);
    double left = m->left, down = 0;
    for (size_t i = 0; i < p->group_count; i += p->group_step) {
        double across = group_width(p, i) * TURNED_ACROSS;
        left = fmax(left, across - room * ((double)i + 0.5));
        down = fmax(down, group_width(p, i) * TURNED_DOWN);
    }
    m->width -= left - m->left;
    m->left = left;
    p->bottom += down;
}

static void place_all(struct plot *p)
{
    struct marks *m = &p->marks;
    double label = 0, last = 0;
    for (size_t i = 0; i < m->y.tick_count; i++)
        label = fmax(label, text_width(m->y.ticks[i].label, TICK_SIZE));
    for (size_t i = 0; i < m->x.tick_count; i++)
        last = fmax(last, text_width(m->x.ticks[i].label, TICK_SIZE) / 2);
    m->left = fmax(fmax(label + TICK_GAP, last), EDGE);
    m->width = WIDTH - m->left - fmax(EDGE, last);
    m->top = ROW_HEIGHT * (double)place_entries(p) + EDGE / 2;
    if (has_text(p->asked->y_label))
        m->top += ROW_HEIGHT;
    m->height = DATA_HEIGHT;
    p->bottom = ROW_HEIGHT + (has_text(p->asked->x_label) ? ROW_HEIGHT : 0);
    if (p->kind == PLOT_BARS && p->group_count > 0)
        place_groups(p);
}

/* --- around the data --- */

static void put_mark_line(struct markup *out, double x, double y, double width)
{
    markup_printf(out, "<path class=\"o\" d=\"M%.1f,%.1fh%.1f\"/>", x, y, width);
}

static void draw_legend(const struct plot *p)
{
    struct markup *out = p->marks.out;
    enum marks_sign sign = p->kind == PLOT_LINES    ? MARKS_SIGN_LINE
                           : p->kind == PLOT_POINTS ? MARKS_SIGN_POINT
                                                    : MARKS_SIGN_AREA;
    for (size_t slot = 0; slot <= p->asked->series_count; slot++) {
        const char *name = entry_name(p, slot);
        if (!has_text(name))
            continue;
        double y = ROW_HEIGHT * ((double)p->entries[slot].row + 0.5);
        double x = p->entries[slot].x;
        if (slot < p->asked->series_count)
            marks_sign(out, sign, x + 13, y, slot);
        else
            put_mark_line(out, x + 1, y, 24);
        markup_printf(out, "<text class=\"n\" x=\"%.1f\" y=\"%.1f\">", x + SIGN_WIDTH, y + 4.5);
        put_cut(out, name, NAME_SIZE, ENTRY_WIDTH_MAX);
        markup_put(out, "</text>\n");
    }
}

static void draw_names(const struct plot *p)
{
    const struct marks *m = &p->marks;
    if (has_text(p->asked->y_label)) {
        markup_printf(m->out, "<text class=\"t\" x=\"0\" y=\"%.1f\">", m->top - EDGE);
        put_cut(m->out, p->asked->y_label, TICK_SIZE, WIDTH);
        markup_put(m->out, "</text>\n");
    }
    if (has_text(p->asked->x_label)) {
        markup_printf(m->out, "<text class=\"t c\" x=\"%.1f\" y=\"%.1f\">", m->left + m->width / 2,
                      m->top + m->height + p->bottom - 6);
        put_cut(m->out, p->asked->x_label, TICK_SIZE, m->width);
        markup_put(m->out, "</text>\n");
    }
}

/* Lines across at each tick in one path, the unnamed ones in another. */
static void draw_grid(const struct plot *p)
{
    const struct marks *m = &p->marks;
    for (int minor = 0; minor < 2; minor++) {
        markup_printf(m->out, "<path class=\"%s\" d=\"M0,0", minor ? "g u" : "g");
        for (size_t i = 0; i < m->y.tick_count; i++) {
            const struct axis_tick *tick = &m->y.ticks[i];
            if ((tick->label[0] == '\0') == minor)
                markup_printf(m->out, "M%.1f,%.1fh%.1f", m->left, marks_y(m, tick->value),
                              m->width);
        }
        for (size_t i = 0; i < m->x.tick_count; i++) {
            const struct axis_tick *tick = &m->x.ticks[i];
            if ((tick->label[0] == '\0') == minor)
                markup_printf(m->out, "M%.1f,%.1fv%.1f", marks_x(m, tick->value), m->top,
                              m->height);
        }
        markup_put(m->out, "\"/>\n");
    }
}

/* A name that would stand on the one before is left out. */
static void draw_tick_names(const struct plot *p)
{
    const struct marks *m = &p->marks;
    double used = -INFINITY;
    for (size_t i = 0; i < m->x.tick_count; i++) {
        const struct axis_tick *tick = &m->x.ticks[i];
        double x = marks_x(m, tick->value);
        double half = text_width(tick->label, TICK_SIZE) / 2;
        if (tick->label[0] == '\0' || x - half < used + TICK_GAP)
            continue;
        markup_printf(m->out, "<text class=\"t c\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", x,
                      m->top + m->height + 17, tick->label);
        used = x + half;
    }
    used = INFINITY;
    for (size_t i = 0; i < m->y.tick_count; i++) {
        const struct axis_tick *tick = &m->y.ticks[i];
        double y = marks_y(m, tick->value);
        if (tick->label[0] == '\0' || y + TICK_SIZE > used)
            continue;
        markup_printf(m->out, "<text class=\"t e\" x=\"%.1f\" y=\"%.1f\">%s</text>\n",
                      m->left - TICK_GAP, y + 4, tick->label);
        used = y;
    }
}

static void draw_group_names(const struct plot *p)
{
    const struct marks *m = &p->marks;
    double room = m->width / (double)p->group_count;
    for (size_t i = 0; i < p->group_count; i += p->group_step) {
        double x = m->left + room * ((double)i + 0.5);
        double y = m->top + m->height + 17;
        if (p->groups_turned)
            markup_printf(m->out,
                          "<text class=\"t e\" transform=\"translate(%.1f %.1f) rotate(-40)\">",
                          x + 4, y - 3);
        else
            markup_printf(m->out, "<text class=\"t c\" x=\"%.1f\" y=\"%.1f\">", x, y);
        put_cut(m->out, p->groups[i], TICK_SIZE, GROUP_WIDTH_MAX);
        markup_put(m->out, "</text>\n");
    }
}

/* Zero where it is among the data, otherwise their foot; all around where there are none. */
static void draw_axis_line(const struct plot *p)
{
    const struct marks *m = &p->marks;
    bool zero = !m->y.log && m->y.lo < 0 && m->y.hi >= 0;
    double y = zero ? marks_y(m, 0) : m->top + m->height;
    if (p->empty)
        markup_printf(m->out, "<path class=\"g\" d=\"M%.1f,%.1fv%.1fh%.1fv%.1fz\"/>\n", m->left,
                      m->top, m->height, m->width, -m->height);
    else
        markup_printf(m->out, "<path class=\"x\" d=\"M%.1f,%.1fh%.1f\"/>\n", m->left, y, m->width);
}

static void draw_data(const struct plot *p)
{
    const struct marks *m = &p->marks;
    const struct page_plot *asked = p->asked;
    if (p->kind == PLOT_BARS)
        marks_bars(m, asked, p->groups, p->group_count);
    if (p->kind == PLOT_AREAS)
        marks_areas(m, asked, p->heights);
    for (size_t i = 0; i < asked->series_count && p->kind == PLOT_LINES; i++)
        marks_line(m, &asked->series[i], i);
    for (size_t i = 0; i < asked->series_count && p->kind == PLOT_POINTS; i++)
        marks_points(m, &asked->series[i], i);
}

/* On light ground of its own: it runs over bars and areas of any colour. */
static void draw_mark(const struct plot *p)
{
    const struct marks *m = &p->marks;
    double y = marks_y(m, p->asked->mark_y);
    markup_printf(m->out, "<g><path class=\"o b\" d=\"M%.1f,%.1fh%.1f\"/>", m->left, y, m->width);
    put_mark_line(m->out, m->left, y, m->width);
    markup_put(m->out, "<title>");
    if (has_text(p->asked->mark_name)) {
        markup_text(m->out, p->asked->mark_name);
        markup_put(m->out, ": ");
    }
    markup_printf(m->out, "%.6g</title></g>\n", p->asked->mark_y);
}

static void draw_all(const struct plot *p)
{
    const struct marks *m = &p->marks;
    markup_printf(m->out, "<svg class=\"plot\" viewBox=\"0 0 %.0f %.0f\" role=\"img\"", WIDTH,
                  ceil(m->top + m->height + p->bottom));
    if (has_text(p->asked->title)) {
        markup_put(m->out, " aria-label=\"");
        markup_text(m->out, p->asked->title);
        markup_put(m->out, "\"");
    }
    markup_put(m->out, ">\n");
    draw_legend(p);
    draw_names(p);
    draw_grid(p);
    draw_tick_names(p);
    if (p->kind == PLOT_BARS && p->group_count > 0)
        draw_group_names(p);
    if (p->empty)
        markup_printf(m->out, "<text class=\"t c\" x=\"%.1f\" y=\"%.1f\">no data</text>\n",
                      m->left + m->width / 2, m->top + m->height / 2);
    else
        draw_data(p);
    draw_axis_line(p);
    if (p->marked)
        draw_mark(p);
    markup_put(m->out, "</svg>\n");
}

void plot_style(struct markup *out)
{
    markup_put(out,
               "svg.plot{display:block;width:100%;min-width:40rem;height:auto;"
               "font-family:inherit}\n"
               "svg.defs{position:absolute}\n"
               "svg text{fill:var(--ink);font-size:13px}\n"
               "svg .t{fill:var(--muted);font-size:12px}\n"
               ".c{text-anchor:middle}.e{text-anchor:end}\n"
               ".g{fill:none;stroke:var(--grid)}.u{stroke-opacity:.45}\n"
               ".x{fill:none;stroke:var(--muted)}\n"
               ".o{fill:none;stroke:var(--ink);stroke-width:1.4;stroke-dasharray:7 4}\n"
               ".b{stroke:var(--paper);stroke-width:4;stroke-opacity:.6;stroke-dasharray:none}\n");
    marks_style(out);
}

void plot_definitions(struct markup *out)
{
    marks_patterns(out);
}

int plot_draw(struct markup *out, enum plot_kind kind, const struct page_plot *plot,
              const char *const *groups, struct error *err)
{
    if (plot->series_count > MARKS_SLOTS)
        return error_set(err, -E2BIG,
                         "the plot \"%s\" has %zu series, and a reader can tell %d apart: make "
                         "two of it",
                         plot->title == NULL ? "" : plot->title, plot->series_count, MARKS_SLOTS);
    struct plot p = {.kind = kind, .asked = plot, .groups = groups, .group_step = 1};
    p.marks.out = out;
    if (kind == PLOT_BARS)
        p.group_count = longest_series(plot);
    for (size_t i = 1; i < plot->series_count && kind == PLOT_AREAS; i++)
        assert(plot->series[i].count == plot->series[0].count);
    if (kind == PLOT_AREAS && sum_areas(&p) < 0)
        return error_set(err, -ENOMEM, "no memory for the plot of %zu series", plot->series_count);
    fit_axes(&p);
    place_all(&p);
    draw_all(&p);
    free(p.heights);
    return 0;
}
