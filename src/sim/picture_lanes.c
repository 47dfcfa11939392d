/*
 * Requests into lanes, one of a function, and rows, one below the other where they overlap. Rows
 * are dealt out in the order of arrival, so that a lane reads like a queue. When all that would be
 * more than a page can hold, every lane has fewer rows, and what finds none is counted. See
 * picture_parts.h.
 */
#include <errno.h>
#include <stdlib.h>

#include "sim/picture_parts.h"

#define ROWS_FIRST 24u /* of one lane, at most */
#define ROWS_TOTAL 200u
#define GAP_FIRST 0.6 /* in columns, between two in a row */
#define WIDTH_MIN 1.6 /* of a request in a row, however short */

struct by_lane {
    uint64_t arrived_us;
    uint32_t lane, index;
};

static int compare(const void *a, const void *b)
{
    const struct by_lane *x = a, *y = b;
    if (x->lane != y->lane)
        return x->lane < y->lane ? -1 : 1;
    if (x->arrived_us != y->arrived_us)
        return x->arrived_us < y->arrived_us ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* The lowest free row for each request of the lane. */
static void deal(struct picture_lanes *l, const struct picture *p, struct picture_lane *lane,
                 uint32_t rows_max, double gap)
{
    double ends[ROWS_FIRST];
    lane->rows = lane->without_row = 0;
    for (uint32_t i = lane->first; i < lane->first + lane->count; i++) {
        const struct picture_request *r = &p->requests[l->order[i]];
        double begin = picture_column(p, r->arrived_us);
        double end = picture_column(p, r->arrived_us + picture_request_us(r));
        uint32_t row = 0;
        while (row < lane->rows && begin < ends[row] + gap)
            row++;
        if (row == rows_max) {
            l->rows[l->order[i]] = PICTURE_NO_ROW;
            lane->without_row++;
            continue;
        }
        lane->rows += row == lane->rows;
        ends[row] = end > begin + WIDTH_MIN ? end : begin + WIDTH_MIN;
        l->rows[l->order[i]] = row;
    }
}

static void deal_all(struct picture_lanes *l, const struct picture *p)
{
    uint32_t rows_max = ROWS_FIRST;
    for (double gap = GAP_FIRST;; gap = rows_max == 1 ? 2 * gap : gap) {
        l->total_rows = l->drawn = 0;
        for (uint32_t i = 0; i < l->lane_count; i++) {
            deal(l, p, &l->lanes[i], rows_max, gap);
            l->total_rows += l->lanes[i].rows;
            l->drawn += l->lanes[i].count - l->lanes[i].without_row;
        }
        bool fits = l->total_rows <= ROWS_TOTAL || rows_max == 1;
        if (fits && l->drawn <= PICTURE_REQUESTS_MAX)
            return;
        if (rows_max > 1)
            rows_max -= rows_max > 8 ? 2 : 1;
    }
}

/* Functions in the order of their lanes: a domain's together, where its first is. */
static void order_functions(const struct picture *p, uint32_t order[PICTURE_FUNCTIONS_MAX + 1])
{
    uint32_t count = 0;
    for (uint32_t d = 0; d <= p->domain_count; d++) {
        for (uint32_t f = 0; f <= p->function_count; f++) {
            if (p->functions[f].domain == d)
                order[count++] = f;
        }
    }
}

static void cut_lanes(struct picture_lanes *l, const struct picture *p, const struct by_lane *all)
{
    uint32_t order[PICTURE_FUNCTIONS_MAX + 1], at = 0;
    order_functions(p, order);
    for (uint32_t i = 0; i <= p->function_count; i++) {
        struct picture_lane lane = {.function = order[i], .first = at};
        for (; at < p->request_count && all[at].lane == i; at++)
            l->order[at] = all[at].index;
        lane.count = at - lane.first;
        if (lane.count > 0 || order[i] < p->function_count)
            l->lanes[l->lane_count++] = lane;
    }
}

int picture_lanes_lay(struct picture_lanes *l, const struct picture *p)
{
    uint32_t order[PICTURE_FUNCTIONS_MAX + 1], lane_of[PICTURE_FUNCTIONS_MAX + 1];
    *l = (struct picture_lanes){0};
    struct by_lane *all = calloc((size_t)p->request_count + 1, sizeof *all);
    l->order = calloc((size_t)p->request_count + 1, sizeof *l->order);
    l->rows = calloc((size_t)p->request_count + 1, sizeof *l->rows);
    if (all == NULL || l->order == NULL || l->rows == NULL) {
        free(all);
        picture_lanes_free(l);
        return -ENOMEM;
    }
    order_functions(p, order);
    for (uint32_t i = 0; i <= p->function_count; i++)
        lane_of[order[i]] = i;
    for (uint32_t i = 0; i < p->request_count; i++)
        all[i] = (struct by_lane){p->requests[i].arrived_us,
                                  lane_of[picture_lane_of(p, p->requests[i].function)], i};
    qsort(all, p->request_count, sizeof *all, compare);
    cut_lanes(l, p, all);
    free(all);
    deal_all(l, p);
    return 0;
}

void picture_lanes_free(struct picture_lanes *l)
{
    free(l->order);
    free(l->rows);
    *l = (struct picture_lanes){0};
}
