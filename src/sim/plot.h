/*
 * A plot of page.h as one SVG: the ranges of its axes, the room for everything around the data, and
 * the data in it. The legend and the names of axes have rows of their own above the data, never a
 * place upon it; where text does not fit it is cut, since a reader has no use for half a letter.
 */
#pragma once

#include "base/error.h"
#include "sim/markup.h"
#include "sim/page.h"

enum plot_kind { PLOT_LINES, PLOT_POINTS, PLOT_BARS, PLOT_AREAS };

/* Once a page each: rules for its style sheet; what the drawings refer to, at the front of its
 * body. */
void plot_style(struct markup *out);
void plot_definitions(struct markup *out);

/* `groups` names the bars of PLOT_BARS. -E2BIG: more series than can be told apart. -ENOMEM. */
int plot_draw(struct markup *out, enum plot_kind kind, const struct page_plot *plot,
              const char *const *groups, struct error *err);
