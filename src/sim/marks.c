/* See marks.h. */
#include "sim/marks.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STYLES 8 /* colours, and as many shapes and hatchings */
#define TITLED_POINTS_MAX 200
#define SIGNED_POINTS_MAX 40 /* a line of more has its signs some way apart */
#define SIGN_GAP 72.0
#define SPOT 2.0 /* points nearer than this are one */
#define BAR_WIDTH_MAX 56.0
#define BAR_SHARE 0.8         /* of a group's room, the rest keeps groups apart */
#define VALUE_DIGIT_WIDTH 6.8 /* of a value's name above its bar */
#define VALUE_HEIGHT 9.0
#define LONE_AREA_WIDTH 3.0 /* of an area with a gap to either side */

/* Contrast with the paper of at least 3.2 : 1 (light) and 4.2 : 1 (dark), and a distance of at
 * least 0.066 in OKLab between any two, also as seen with each kind of colour blindness. */
static const struct {
    const char *light, *dark;
} colours[STYLES] = {
    {"#0c3ed9", "#4682ca"}, {"#ee6300", "#e67620"}, {"#009e73", "#54c184"}, {"#ab3a97", "#ea93cf"},
    {"#885600", "#ffd62c"}, {"#2e3270", "#e0d2ff"}, {"#891b2d", "#c65871"}, {"#5d6ff2", "#a254ff"},
};

/* Drawn from the middle of the sign: disc, square, triangle, diamond, triangle down, plus, ring,
 * cross. */
static const char *const shapes[STYLES] = {
    "m-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0-7.2,0z",
    "m-3.3-3.3h6.6v6.6h-6.6z",
    "m0-4.4l4.2,7.4h-8.4z",
    "m0-4.7l4.7,4.7l-4.7,4.7l-4.7-4.7z",
    "m0,4.4l4.2-7.4h-8.4z",
    "m-1.4-4.3h2.8v2.9h2.9v2.8h-2.9v2.9h-2.8v-2.9h-2.9v-2.8h2.9z",
    "m-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0-8.4,0zm2.5,0a1.7,1.7 0 1,1 3.4,0a1.7,1.7 0 "
    "1,1-3.4,0z",
    "m0-2l2.3-2.3l2,2l-2.3,2.3l2.3,2.3l-2,2l-2.3-2.3l-2.3,2.3l-2-2l2.3-2.3l-2.3-2.3l2-2z",
};

/* Over the colour, in tiles of 8 by 8. */
static const char *const hatchings[STYLES] = {
    "",       "M-2,2l4-4M0,8l8-8M6,10l4-4", "M2,2h.1M6,6h.1", "M-2,6l4,4M0,0l8,8M6-2l4,4",
    "M0,4h8", "M0,0l8,8M8,0l-8,8",          "M4,0v8",         "M0,4h8M4,0v8",
};

static size_t colour_of(size_t slot)
{
    return slot % STYLES;
}

/* The second round of colours has other shapes than the first. */
static size_t shape_of(size_t slot)
{
    return (slot + slot / STYLES) % STYLES;
}

double marks_x(const struct marks *m, double value)
{
    return m->left + m->width * axis_place(&m->x, value);
}

double marks_y(const struct marks *m, double value)
{
    return m->top + m->height * (1 - axis_place(&m->y, value));
}

void marks_style(struct markup *out)
{
    for (size_t i = 0; i < STYLES; i++)
        markup_printf(out, ".s%zu{color:%s}", i, colours[i].light);
    markup_put(out, "\n@media screen and (prefers-color-scheme:dark){");
    for (size_t i = 0; i < STYLES; i++)
        markup_printf(out, ".s%zu{color:%s}", i, colours[i].dark);
    markup_put(out, "}\n"
                    ".l{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round;"
                    "stroke-linecap:round}\n"
                    ".m{fill:currentColor;stroke:var(--paper);stroke-width:.9}\n"
                    ".d{fill:currentColor;fill-opacity:.6}\n"
                    ".a{stroke:var(--paper);stroke-width:.6}\n"
                    ".h{fill:none;stroke:var(--paper);stroke-opacity:.45;stroke-width:1.3;"
                    "stroke-linecap:round}\n"
                    "svg .v{font-size:11px;text-anchor:middle}\n");
}

void marks_patterns(struct markup *out)
{
    markup_put(out, "<svg class=\"defs\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>\n");
    for (size_t slot = 0; slot < MARKS_SLOTS; slot++) {
        markup_printf(out,
                      "<pattern id=\"f%zu\" width=\"8\" height=\"8\" "
                      "patternUnits=\"userSpaceOnUse\">"
                      "<rect class=\"s%zu\" width=\"8\" height=\"8\" fill=\"currentColor\"/>",
                      slot, colour_of(slot));
        markup_printf(out, "<path class=\"h\" d=\"%s\"/></pattern>\n", hatchings[shape_of(slot)]);
    }
    markup_put(out, "</defs></svg>\n");
}

/* --- paths: in tenths of a unit, finer than a screen shows --- */

struct pen {
    struct markup *out;
    bool down;
    bool moved; /* since it is down */
    long x, y;  /* in tenths */
};

static void put_tenths(struct markup *out, long tenths)
{
    markup_printf(out, "%.*f", tenths % 10 != 0, (double)tenths / 10);
}

static void put_place(struct markup *out, double x, double y)
{
    put_tenths(out, lround(x * 10));
    markup_put(out, ",");
    put_tenths(out, lround(y * 10));
}

static void pen_to(struct pen *pen, double x, double y)
{
    long x_tenths = lround(x * 10);
    long y_tenths = lround(y * 10);
    if (pen->down && x_tenths == pen->x && y_tenths == pen->y)
        return;
    markup_put(pen->out, pen->down ? " " : "M");
    put_place(pen->out, x, y);
    pen->moved = pen->down;
    pen->down = true;
    pen->x = x_tenths;
    pen->y = y_tenths;
}

/* A line of one place is a dot: its ends are round. */
static void pen_up(struct pen *pen)
{
    if (pen->down && !pen->moved)
        markup_put(pen->out, "h0");
    pen->down = false;
}

static bool shown(const struct marks *m, double x, double y)
{
    return axis_shows(x, m->x.log) && axis_shows(y, m->y.log);
}

/* The next stretch without a gap, [*begin, *end), from *end on. False: there is none. */
static bool next_run(const struct marks *m, const double *x, const double *y, size_t count,
                     size_t *begin, size_t *end)
{
    size_t i = *end;
    while (i < count && !shown(m, x[i], y[i]))
        i++;
    *begin = i;
    while (i < count && shown(m, x[i], y[i]))
        i++;
    *end = i;
    return *begin < *end;
}

/* Neighbours that share a column of one unit. */
struct column {
    long place;
    size_t first, last, low, high; /* indexes */
};

static void draw_column(const struct marks *m, struct pen *pen, const double *x, const double *y,
                        const struct column *c)
{
    bool low_first = c->low < c->high;
    size_t kept[] = {c->first, low_first ? c->low : c->high, low_first ? c->high : c->low, c->last};
    for (size_t i = 0; i < 4; i++)
        pen_to(pen, marks_x(m, x[kept[i]]), marks_y(m, y[kept[i]]));
}

static void draw_run(const struct marks *m, struct pen *pen, const double *x, const double *y,
                     size_t begin, size_t end)
{
    struct column c = {.place = -1};
    for (size_t i = begin; i < end; i++) {
        long place = (long)floor(marks_x(m, x[i]));
        if (i == begin || place != c.place) {
            if (i > begin)
                draw_column(m, pen, x, y, &c);
            c = (struct column){.place = place, .first = i, .last = i, .low = i, .high = i};
            continue;
        }
        c.last = i;
        if (y[i] < y[c.low])
            c.low = i;
        if (y[i] > y[c.high])
            c.high = i;
    }
    draw_column(m, pen, x, y, &c);
}

/* --- signs: a shape on a value, that says it --- */

static void put_point_title(struct markup *out, const struct page_series *series, size_t index)
{
    markup_put(out, "<title>");
    if (series->name != NULL && series->name[0] != '\0') {
        markup_text(out, series->name);
        markup_put(out, ": ");
    }
    markup_printf(out, "%.6g, %.6g</title>", series->x[index], series->y[index]);
}

static void draw_sign(const struct marks *m, const struct page_series *series, size_t index,
                      size_t slot)
{
    markup_printf(m->out, "<path class=\"m s%zu\" d=\"M", colour_of(slot));
    put_place(m->out, marks_x(m, series->x[index]), marks_y(m, series->y[index]));
    markup_put(m->out, shapes[shape_of(slot)]);
    markup_put(m->out, "\">");
    put_point_title(m->out, series, index);
    markup_put(m->out, "</path>\n");
}

/* Far enough apart to leave the line visible, and each slot at other places. */
static void draw_line_signs(const struct marks *m, const struct page_series *series, size_t slot)
{
    double gap = series->count <= SIGNED_POINTS_MAX ? 0 : SIGN_GAP;
    double last = m->left - gap + gap * (double)(slot % STYLES + 1) / (STYLES + 1);
    for (size_t i = 0; i < series->count; i++) {
        if (!shown(m, series->x[i], series->y[i]))
            continue;
        double x = marks_x(m, series->x[i]);
        if (fabs(x - last) < gap)
            continue;
        draw_sign(m, series, i, slot);
        last = x;
    }
}

void marks_line(const struct marks *m, const struct page_series *series, size_t slot)
{
    struct pen pen = {.out = m->out};
    size_t begin = 0, end = 0;
    if (!next_run(m, series->x, series->y, series->count, &begin, &end))
        return;
    markup_printf(m->out, "<path class=\"l s%zu\" d=\"", colour_of(slot));
    do {
        draw_run(m, &pen, series->x, series->y, begin, end);
        pen_up(&pen);
    } while (next_run(m, series->x, series->y, series->count, &begin, &end));
    markup_put(m->out, "\"/>\n");
    draw_line_signs(m, series, slot);
}

/* --- points --- */

/* One byte for each spot of the rectangle: is there a point already? */
struct spots {
    unsigned char *taken;
    size_t columns, rows;
};

static bool take_spot(const struct marks *m, struct spots *s, double x, double y)
{
    size_t column = (size_t)((x - m->left) / SPOT);
    size_t row = (size_t)((y - m->top) / SPOT);
    assert(column < s->columns && row < s->rows);
    unsigned char *spot = &s->taken[row * s->columns + column];
    if (*spot != 0)
        return false;
    *spot = 1;
    return true;
}

static void draw_dot(const struct marks *m, const struct page_series *series, size_t index,
                     size_t slot)
{
    markup_put(m->out, "M");
    put_place(m->out, marks_x(m, series->x[index]), marks_y(m, series->y[index]));
    markup_put(m->out, shapes[shape_of(slot)]);
}

/* The ends of the series in both directions come first, so that they win their spots. */
static void draw_dots(const struct marks *m, const struct page_series *series, size_t slot,
                      struct spots *spots)
{
    size_t ends[4] = {SIZE_MAX, SIZE_MAX, SIZE_MAX, SIZE_MAX};
    const double *x = series->x, *y = series->y;
    for (size_t i = 0; i < series->count; i++) {
        if (!shown(m, x[i], y[i]))
            continue;
        if (ends[0] == SIZE_MAX)
            ends[0] = ends[1] = ends[2] = ends[3] = i;
        ends[0] = x[i] < x[ends[0]] ? i : ends[0];
        ends[1] = x[i] > x[ends[1]] ? i : ends[1];
        ends[2] = y[i] < y[ends[2]] ? i : ends[2];
        ends[3] = y[i] > y[ends[3]] ? i : ends[3];
    }
    if (ends[0] == SIZE_MAX)
        return;
    markup_printf(m->out, "<path class=\"d s%zu\" d=\"", colour_of(slot));
    for (size_t i = 0; i < 4; i++) {
        take_spot(m, spots, marks_x(m, x[ends[i]]), marks_y(m, y[ends[i]]));
        if (i == 0 || ends[i] != ends[i - 1])
            draw_dot(m, series, ends[i], slot);
    }
    for (size_t i = 0; i < series->count; i++) {
        if (shown(m, x[i], y[i]) && take_spot(m, spots, marks_x(m, x[i]), marks_y(m, y[i])))
            draw_dot(m, series, i, slot);
    }
    markup_put(m->out, "\"/>\n");
}

void marks_points(const struct marks *m, const struct page_series *series, size_t slot)
{
    if (series->count <= TITLED_POINTS_MAX) {
        for (size_t i = 0; i < series->count; i++) {
            if (shown(m, series->x[i], series->y[i]))
                draw_sign(m, series, i, slot);
        }
        return;
    }
    struct spots spots = {.columns = (size_t)(m->width / SPOT) + 2,
                          .rows = (size_t)(m->height / SPOT) + 2};
    spots.taken = calloc(spots.columns, spots.rows);
    if (spots.taken == NULL) {
        markup_fail(m->out, -ENOMEM);
        return;
    }
    draw_dots(m, series, slot, &spots);
    free(spots.taken);
}

/* --- bars --- */

/* The place of one bar, and whether its value stands at its end. */
struct bar {
    double x, width, value;
    size_t slot;
    bool named;
    double mark; /* the place of a line across that the value must not stand on, or NAN */
};

/* Where the value stands: beyond the bar's end, and beyond a line that would cross it there. */
static double value_foot(const struct bar *bar, double end)
{
    bool down = bar->value < 0;
    double foot = down ? end + VALUE_HEIGHT + 3 : end - 4;
    bool crossed = bar->mark <= foot + 2 && bar->mark >= foot - VALUE_HEIGHT - 2;
    if (!crossed)
        return foot;
    return down ? bar->mark + VALUE_HEIGHT + 4 : bar->mark - 4;
}

static void draw_bar(const struct marks *m, const struct page_series *series, const char *group,
                     const struct bar *bar)
{
    double base = m->y.log ? m->top + m->height : marks_y(m, 0);
    double end = marks_y(m, bar->value);
    double gap = fmin(1.5, bar->width / 10);
    char number[AXIS_LABEL_BYTES];
    markup_printf(m->out, "<rect fill=\"url(#f%zu)\" x=\"%.1f\" y=\"%.1f\" ", bar->slot,
                  bar->x + gap / 2, fmin(base, end));
    markup_printf(m->out, "width=\"%.1f\" height=\"%.1f\"><title>", bar->width - gap,
                  fabs(base - end));
    markup_text(m->out, group);
    if (series->name != NULL && series->name[0] != '\0') {
        markup_put(m->out, ", ");
        markup_text(m->out, series->name);
    }
    markup_printf(m->out, ": %.6g</title></rect>\n", bar->value);
    if (!bar->named)
        return;
    axis_short_number(bar->value, number);
    markup_printf(m->out, "<text class=\"v\" x=\"%.1f\" y=\"%.1f\">%s</text>\n",
                  bar->x + bar->width / 2, value_foot(bar, end), number);
}

/* All bars of a plot say their values or none does. */
static bool values_fit(const struct marks *m, const struct page_plot *plot, double width)
{
    char number[AXIS_LABEL_BYTES];
    for (size_t slot = 0; slot < plot->series_count; slot++) {
        const struct page_series *series = &plot->series[slot];
        for (size_t i = 0; i < series->count; i++) {
            if (!axis_shows(series->y[i], m->y.log))
                continue;
            axis_short_number(series->y[i], number);
            if ((double)strlen(number) * VALUE_DIGIT_WIDTH > width)
                return false;
        }
    }
    return true;
}

void marks_bars(const struct marks *m, const struct page_plot *plot, const char *const *groups,
                size_t group_count)
{
    double room = m->width / (double)group_count;
    struct bar bar = {.width = fmin(BAR_WIDTH_MAX, room * BAR_SHARE / (double)plot->series_count)};
    bar.mark = axis_shows(plot->mark_y, m->y.log) ? marks_y(m, plot->mark_y) : (double)NAN;
    bar.named = values_fit(m, plot, bar.width);
    for (size_t group = 0; group < group_count; group++) {
        double middle = m->left + room * ((double)group + 0.5);
        for (size_t slot = 0; slot < plot->series_count; slot++) {
            const struct page_series *series = &plot->series[slot];
            if (group >= series->count || !axis_shows(series->y[group], m->y.log))
                continue;
            bar.slot = slot;
            bar.x = middle + bar.width * ((double)slot - (double)plot->series_count / 2);
            bar.value = series->y[group];
            draw_bar(m, series, groups[group], &bar);
        }
    }
}

/* --- areas --- */

static void draw_area(const struct marks *m, const double *x, const double *heights, size_t begin,
                      size_t end)
{
    struct pen pen = {.out = m->out};
    double base = m->y.log ? m->top + m->height : marks_y(m, 0);
    double left = marks_x(m, x[begin]);
    double right = marks_x(m, x[end - 1]);
    if (end - begin == 1) {
        double height = marks_y(m, heights[begin]);
        left -= LONE_AREA_WIDTH / 2;
        right += LONE_AREA_WIDTH / 2;
        pen_to(&pen, left, base);
        pen_to(&pen, left, height);
        pen_to(&pen, right, height);
    } else {
        pen_to(&pen, left, base);
        draw_run(m, &pen, x, heights, begin, end);
    }
    pen_to(&pen, right, base);
    markup_put(m->out, "z");
}

/* From the whole stack down to the first series: each covers all but its own part of the one
 * before, and no seam shows between them. */
void marks_areas(const struct marks *m, const struct page_plot *plot, const double *heights)
{
    for (size_t slot = plot->series_count; slot-- > 0;) {
        const struct page_series *series = &plot->series[slot];
        const double *y = heights + slot * series->count;
        size_t begin = 0, end = 0;
        markup_printf(m->out, "<path class=\"a\" fill=\"url(#f%zu)\" d=\"", slot);
        while (next_run(m, series->x, y, series->count, &begin, &end))
            draw_area(m, series->x, y, begin, end);
        markup_put(m->out, "\"><title>");
        if (series->name != NULL)
            markup_text(m->out, series->name);
        markup_put(m->out, "</title></path>\n");
    }
}

void marks_sign(struct markup *out, enum marks_sign sign, double x, double y, size_t slot)
{
    if (sign == MARKS_SIGN_AREA) {
        markup_printf(out,
                      "<rect fill=\"url(#f%zu)\" x=\"%.1f\" y=\"%.1f\" width=\"18\" "
                      "height=\"12\"/>",
                      slot, x - 9, y - 6);
        return;
    }
    if (sign == MARKS_SIGN_LINE)
        markup_printf(out, "<path class=\"l s%zu\" d=\"M%.1f,%.1fh24\"/>", colour_of(slot), x - 12,
                      y);
    markup_printf(out, "<path class=\"m s%zu\" d=\"M%.1f,%.1f%s\"/>", colour_of(slot), x, y,
                  shapes[shape_of(slot)]);
}
