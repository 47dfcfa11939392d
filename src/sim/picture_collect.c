/*
 * What of a log falls on the paper. Two passes: the first finds the window and the busiest
 * functions, the second fills what is shown, at the resolution at which it is shown, so that what
 * is kept does not grow with the log. See picture_parts.h.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim/picture_parts.h"

#define LEAD 0.015 /* of the time shown, before the first request and after the last */
#define LEAD_US_MIN 1000u
#define SPAN_COLUMNS                                                                               \
    0.4 /* what a process does for less than that is part of what it did before                    \
         */

/* --- places in the picture --- */

double picture_column(const struct picture *p, uint64_t at_us)
{
    if (at_us <= p->begin_us)
        return 0;
    if (at_us >= p->end_us)
        return PICTURE_COLUMNS;
    return (double)(at_us - p->begin_us) / (double)(p->end_us - p->begin_us) * PICTURE_COLUMNS;
}

double picture_seconds(const struct picture *p, uint64_t at_us)
{
    return at_us >= p->origin_us ? (double)(at_us - p->origin_us) / 1e6
                                 : -(double)(p->origin_us - at_us) / 1e6;
}

static float *shares_of(const struct picture *p, uint32_t device, uint32_t domain)
{
    return p->shares + ((size_t)device * (p->domain_count + 1) + domain) * PICTURE_COLUMNS;
}

const float *picture_shares(const struct picture *p, uint32_t device, uint32_t domain)
{
    return shares_of(p, device, domain);
}

uint32_t picture_lane_of(const struct picture *p, uint32_t function)
{
    uint32_t i = 0;
    while (i < p->function_count && p->functions[i].number != function)
        i++;
    return i;
}

static uint32_t domain_of(const struct picture *p, struct route_domain domain)
{
    uint32_t i = 0;
    while (i < p->domain_count && !route_domain_equal(p->domains[i], domain))
        i++;
    return i;
}

static bool is_shown(const struct picture *p, uint64_t begin_us, uint64_t end_us)
{
    return begin_us <= p->end_us && end_us >= p->begin_us;
}

/* --- what the world tells --- */

uint64_t picture_request_us(const struct picture_request *r)
{
    uint64_t us = 0;
    for (uint32_t i = 0; i < PICTURE_PARTS; i++)
        us += r->part_us[i];
    return us;
}

static void keep_request(struct picture *p, const struct picture_request *r)
{
    if (p->requests_seen++ % p->request_stride != 0 || p->request_count == PICTURE_REQUESTS_KEPT)
        return;
    if (p->request_count == p->request_cap) {
        uint32_t cap = p->request_cap == 0 ? 256 : 2 * p->request_cap;
        struct picture_request *more = realloc(p->requests, cap * sizeof *more);
        if (more == NULL) {
            p->failed = -ENOMEM;
            return;
        }
        p->requests = more;
        p->request_cap = cap;
    }
    p->requests[p->request_count++] = *r;
}

void picture_take_request(struct picture *p, const struct picture_request *r)
{
    uint64_t over_us = r->arrived_us + picture_request_us(r);
    if (!is_shown(p, r->arrived_us, over_us))
        return;
    if (p->is_counting) {
        p->counts[r->function]++;
        p->first_us = r->arrived_us < p->first_us ? r->arrived_us : p->first_us;
        p->over_us = over_us > p->over_us ? over_us : p->over_us;
        p->requests_seen++;
        return;
    }
    struct picture_function *f = &p->functions[picture_lane_of(p, r->function)];
    f->requests++;
    f->ends[r->end]++;
    keep_request(p, r);
}

/* Adds to each column what of it the time takes. */
static void add_share(float *columns, double from, double to)
{
    for (uint32_t c = (uint32_t)from; c < PICTURE_COLUMNS && c < to; c++) {
        double begin = fmax(from, c), end = fmin(to, c + 1.0);
        columns[c] += (float)fmax(end - begin, 0);
    }
}

void picture_take_turn(struct picture *p, const struct picture_turn *t, struct route_domain domain)
{
    if (p->is_counting || !is_shown(p, t->begin_us, t->end_us))
        return;
    for (uint32_t i = 0; i < p->place_count; i++) {
        if (p->places[i].is_device && p->places[i].number == t->device)
            add_share(shares_of(p, i, domain_of(p, domain)), picture_column(p, t->begin_us),
                      picture_column(p, t->end_us));
    }
}

/* Too short to be seen, it makes the one before longer. */
static bool joins(struct picture *p, const struct picture_span *s)
{
    uint32_t last = p->last_span[s->number];
    if (last == 0)
        return false;
    struct picture_span *b = &p->spans[last - 1];
    double narrow = picture_column(p, s->end_us) - picture_column(p, s->begin_us);
    bool is_same = b->state == s->state && b->domain == s->domain;
    bool runs = b->state == PICTURE_SERVING && s->state == PICTURE_IDLE && b->domain == s->domain;
    if (b->end_us != s->begin_us || !(is_same || (runs && narrow < SPAN_COLUMNS)))
        return false;
    b->end_us = s->end_us;
    return true;
}

void picture_take_worker(struct picture *p, struct picture_span *s, struct route_domain domain)
{
    if (p->is_counting || !is_shown(p, s->begin_us, s->end_us))
        return;
    p->spawns += s->state == PICTURE_STARTING;
    if (s->number >= PICTURE_WORKERS_MAX) {
        p->workers_left_out =
            s->number + 1 > p->workers_left_out ? s->number + 1 : p->workers_left_out;
        return;
    }
    s->domain = (uint16_t)domain_of(p, domain);
    if (joins(p, s))
        return;
    if (p->span_count == PICTURE_SPANS_KEPT) {
        p->spans_left_out++;
        return;
    }
    if (p->span_count == p->span_cap) {
        uint32_t cap = p->span_cap == 0 ? 256 : 2 * p->span_cap;
        struct picture_span *more = realloc(p->spans, cap * sizeof *more);
        if (more == NULL) {
            p->failed = -ENOMEM;
            return;
        }
        p->spans = more;
        p->span_cap = cap;
    }
    p->spans[p->span_count++] = *s;
    p->last_span[s->number] = p->span_count;
}

void picture_take_load(struct picture *p, const struct picture_span *s)
{
    if (p->is_counting || !is_shown(p, s->begin_us, s->end_us))
        return;
    p->loads_seen++;
    if (p->load_count < PICTURE_LOADS_KEPT)
        p->loads[p->load_count++] = *s;
}

static double sum_of(const struct picture_levels *l)
{
    double sum = 0;
    for (uint32_t i = 0; i < PICTURE_MEMORIES; i++)
        sum += l->bytes[i];
    return sum;
}

static struct picture_place *place_of(struct picture *p, uint32_t place)
{
    bool is_device = place < p->devices_max;
    uint32_t number = is_device ? place : place - p->devices_max;
    for (uint32_t i = 0; i < p->place_count; i++) {
        if (p->places[i].is_device == is_device && p->places[i].number == number)
            return &p->places[i];
    }
    return NULL;
}

/* The moment with most in it stands for its column. */
void picture_take_memory(struct picture *p, uint32_t place, const struct picture_world_place *m,
                         uint64_t until_us)
{
    if (p->is_counting || !m->exists || !is_shown(p, m->since_us, until_us))
        return;
    struct picture_place *to = place_of(p, place);
    if (to == NULL || until_us == m->since_us)
        return;
    double sum = sum_of(&m->now);
    uint32_t last = (uint32_t)ceil(picture_column(p, until_us));
    for (uint32_t c = (uint32_t)picture_column(p, m->since_us); c < last; c++) {
        if (c < PICTURE_COLUMNS && sum >= sum_of(&to->columns[c]))
            to->columns[c] = m->now;
    }
    to->budget = m->budget;
}

/* --- two passes --- */

/* Up to so many records: the log of a server that runs grows meanwhile. */
static void read_all(struct picture_log *l, struct picture_world *w, uint64_t records)
{
    while (w->failed == 0 && w->picture->failed == 0 && l->records < records && picture_log_next(l))
        picture_world_apply(w);
    picture_world_end(w);
}

static bool is_busier(const struct picture *p, uint32_t a, uint32_t b)
{
    return p->counts[a] > p->counts[b] || (p->counts[a] == p->counts[b] && a < b);
}

static int by_number(const void *a, const void *b)
{
    const struct picture_function *x = a, *y = b;
    return (x->number > y->number) - (x->number < y->number);
}

/* The busiest into p->functions, one insertion each; then by their numbers. */
static void rank_functions(struct picture *p)
{
    uint32_t max = p->options.functions_max;
    for (uint32_t f = 0; f < p->functions_max; f++) {
        if (p->counts[f] == 0)
            continue;
        uint32_t at = p->function_count;
        if (at == max) {
            p->other_functions++;
            if (is_busier(p, p->functions[at - 1].number, f))
                continue;
            at--;
        } else {
            p->function_count++;
        }
        for (; at > 0 && is_busier(p, f, p->functions[at - 1].number); at--)
            p->functions[at] = p->functions[at - 1];
        p->functions[at] = (struct picture_function){.number = f};
    }
    qsort(p->functions, p->function_count, sizeof p->functions[0], by_number);
    p->functions[p->function_count] = (struct picture_function){.number = SCHED_NONE};
}

static void find_domains(struct picture *p, const struct picture_world *w)
{
    for (uint32_t i = 0; i < p->function_count; i++) {
        struct picture_function *f = &p->functions[i];
        f->domain = domain_of(p, w->domains[f->number]);
        if (f->domain == p->domain_count)
            p->domains[p->domain_count++] = w->domains[f->number];
    }
    p->functions[p->function_count].domain = p->domain_count;
}

static int find_places(struct picture *p, const struct picture_world *w)
{
    uint32_t count = p->devices_max + w->log->config.nodes_max;
    for (uint32_t i = 0; i < count; i++) {
        if (!w->places[i].exists)
            continue;
        if (p->place_count == PICTURE_DEVICES_MAX) {
            p->places_left_out++;
            continue;
        }
        struct picture_place *m = &p->places[p->place_count];
        m->is_device = i < p->devices_max;
        m->number = m->is_device ? i : i - p->devices_max;
        m->columns = calloc(PICTURE_COLUMNS, sizeof *m->columns);
        if (m->columns == NULL)
            return -ENOMEM;
        p->place_count++;
    }
    return 0;
}

static uint64_t us_of(double seconds)
{
    return (uint64_t)llround(seconds * 1e6);
}

/* What was asked for, up to the log's end; the rest as far as the requests go, with a little around
 * them. */
static int find_window(struct picture *p, struct error *err)
{
    double whole_s = (double)(p->last_us - p->origin_us) / 1e6;
    bool has_requests = p->requests_seen > 0;
    uint64_t first_us = has_requests ? p->first_us : p->origin_us;
    uint64_t over_us = has_requests ? p->over_us : p->last_us;
    uint64_t lead_us = (uint64_t)((double)(over_us - first_us) * LEAD) + LEAD_US_MIN;
    if (p->options.from_s > whole_s)
        return error_set(err, -EINVAL, "%s ends after %.3f s: there is nothing from %.3f s on",
                         p->name, whole_s, p->options.from_s);
    p->begin_us = first_us - p->origin_us > lead_us ? first_us - lead_us : p->origin_us;
    p->end_us = over_us + lead_us < p->last_us ? over_us + lead_us : p->last_us;
    if (!isnan(p->options.from_s))
        p->begin_us = p->origin_us + us_of(p->options.from_s);
    if (!isnan(p->options.to_s) && p->options.to_s < whole_s)
        p->end_us = p->origin_us + us_of(p->options.to_s);
    else if (!isnan(p->options.to_s))
        p->end_us = p->last_us;
    if (p->end_us <= p->begin_us)
        p->end_us = p->begin_us + LEAD_US_MIN;
    return 0;
}

static void end_count(struct picture *p, const struct picture_log *l)
{
    p->origin_us = l->origin_us;
    p->last_us = l->now_us;
    p->records = l->records;
    p->events = l->events;
    p->plans = l->plans;
    p->is_full = l->is_full;
    memcpy(p->damage, l->damage, sizeof p->damage);
}

/* The window in absolute time is known with the first record, but for ends that are not asked for.
 */
static void open_window(struct picture *p, struct picture_log *l)
{
    p->origin_us = l->origin_us;
    p->begin_us = isnan(p->options.from_s) ? 0 : l->origin_us + us_of(p->options.from_s);
    p->end_us = isnan(p->options.to_s) ? UINT64_MAX : l->origin_us + us_of(p->options.to_s);
}

static int count(struct picture *p, struct picture_log *l, struct error *err)
{
    struct picture_world w;
    if (!picture_log_next(l))
        return error_set(err, -EINVAL, "%s holds no event yet%s%s", p->name,
                         l->damage[0] != '\0' ? ": " : "", l->damage);
    open_window(p, l);
    p->functions_max = l->config.functions_max;
    p->devices_max = l->config.devices_max;
    p->counts = calloc(p->functions_max, sizeof *p->counts);
    if (p->counts == NULL || picture_world_init(&w, l, p) < 0)
        return error_set(err, -ENOMEM, "no memory for the tables of %s", p->name);
    p->is_counting = true;
    p->first_us = UINT64_MAX;
    picture_world_apply(&w);
    read_all(l, &w, UINT64_MAX);
    end_count(p, l);
    rank_functions(p);
    find_domains(p, &w);
    int r = w.failed < 0 ? w.failed : find_places(p, &w);
    picture_world_free(&w);
    if (r < 0)
        return error_set(err, r, "no memory for the tables of %s", p->name);
    return find_window(p, err);
}

static int fill(struct picture *p, struct picture_log *l, struct error *err)
{
    struct picture_world w;
    p->is_counting = false;
    p->request_stride = 1 + p->requests_seen / PICTURE_REQUESTS_KEPT;
    p->requests_seen = 0;
    p->shares = calloc((size_t)PICTURE_DEVICES_MAX * (p->domain_count + 1) * PICTURE_COLUMNS,
                       sizeof *p->shares);
    p->loads = calloc(PICTURE_LOADS_KEPT, sizeof *p->loads);
    if (p->shares == NULL || p->loads == NULL || picture_world_init(&w, l, p) < 0)
        return error_set(err, -ENOMEM, "no memory for the picture of %s", p->name);
    read_all(l, &w, p->records);
    int r = w.failed < 0 ? w.failed : p->failed;
    picture_world_free(&w);
    return r < 0 ? error_set(err, r, "no memory for the picture of %s", p->name) : 0;
}

static int check_options(const struct picture_options *o, struct error *err)
{
    const double limit = 10.0 * 365 * 86400;
    bool from = !isnan(o->from_s), to = !isnan(o->to_s);
    if ((from && !(o->from_s >= 0 && o->from_s <= limit)) ||
        (to && !(o->to_s > 0 && o->to_s <= limit)))
        return error_set(err, -EINVAL, "the time shown is given in seconds since the log began");
    if (from && to && o->from_s >= o->to_s)
        return error_set(err, -EINVAL, "the time shown ends at %.3f s, before it begins at %.3f s",
                         o->to_s, o->from_s);
    return 0;
}

int picture_collect(struct picture *p, FILE *log, const char *name, const struct picture_options *o,
                    struct error *err)
{
    struct picture_log l;
    *p = (struct picture){.name = name, .options = *o};
    if (p->options.functions_max == 0)
        p->options.functions_max = PICTURE_FUNCTIONS;
    if (p->options.functions_max > PICTURE_FUNCTIONS_MAX)
        p->options.functions_max = PICTURE_FUNCTIONS_MAX;
    int r = check_options(o, err);
    for (int pass = 0; pass < 2 && r == 0; pass++) {
        r = picture_log_begin(&l, log, name, err);
        if (r == 0)
            r = pass == 0 ? count(p, &l, err) : fill(p, &l, err);
    }
    if (r < 0)
        picture_free(p);
    return r;
}

void picture_free(struct picture *p)
{
    free(p->counts);
    free(p->requests);
    free(p->spans);
    free(p->loads);
    free(p->shares);
    for (uint32_t i = 0; i < PICTURE_DEVICES_MAX; i++)
        free(p->places[i].columns);
    *p = (struct picture){0};
}
