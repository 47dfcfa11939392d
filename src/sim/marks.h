/*
 * The data of a plot as SVG: lines, points, bars and areas inside a rectangle whose axes are fixed.
 * What would fall on the same spot is written once, so that a page stays small whatever the number
 * of values, and no extreme is lost: a line keeps the first, last, lowest and highest value of each
 * column, points keep one a spot.
 *
 * A series has a slot, its index. A slot is a colour with a shape or a hatching, so that slots can
 * be told apart by colour-blind readers and on paper. This is the only place that knows colours.
 */
#pragma once

#include "sim/axis.h"
#include "sim/markup.h"
#include "sim/page.h"

#define MARKS_SLOTS 16 /* more cannot be told apart */

struct marks {
    struct markup *out;
    double left, top, width, height; /* the rectangle, in units of the drawing */
    struct axis x, y;
};

/* Where a value stands in the drawing. It is one that axis_shows. */
double marks_x(const struct marks *m, double value);
double marks_y(const struct marks *m, double value);

/* Once a page: the rules of style for light and dark, and what drawings refer to. */
void marks_style(struct markup *out);
void marks_patterns(struct markup *out);

void marks_line(const struct marks *m, const struct page_series *series, size_t slot);
void marks_points(const struct marks *m, const struct page_series *series, size_t slot);
/* `groups` have equal shares of the width; those that are not finite have no bar. */
void marks_bars(const struct marks *m, const struct page_plot *plot, const char *const *groups,
                size_t group_count);
/* `heights`: [series_count][count], the sums up to and with each series; NAN: a gap. */
void marks_areas(const struct marks *m, const struct page_plot *plot, const double *heights);

/* The sign of a slot in a legend, centred there. */
enum marks_sign { MARKS_SIGN_LINE, MARKS_SIGN_POINT, MARKS_SIGN_AREA };
void marks_sign(struct markup *out, enum marks_sign sign, double x, double y, size_t slot);
