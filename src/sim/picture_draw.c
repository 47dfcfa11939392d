/*
 * The drawing: title, one axis of time, the panels below each other, what was left out. The one
 * decision: a colour is a domain wherever it stands, and what belongs to nobody is grey; so a grey
 * stretch of a request is waiting and a coloured one is work. See picture_parts.h.
 */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "sim/axis.h"
#include "sim/marks.h"
#include "sim/picture_parts.h"

#define SHEET_WIDTH 952.0
#define BODY_BYTES_MAX (32u << 20)
#define LABELS_X 9
#define COLOURS 8u /* of marks.h */
#define LETTER 5.7 /* width of one in a key */

/* --- what panels share --- */

double picture_tenths(double v)
{
    return round(v * 10) / 10;
}

double picture_x(const struct picture *p, uint64_t at_us)
{
    return picture_tenths(PICTURE_MARGIN + picture_column(p, at_us));
}

void picture_put_label(struct picture_sheet *s, const char *class, double x, double y,
                       const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    markup_printf(s->out, "<text class=\"%s\" x=\"%g\" y=\"%g\">", class, picture_tenths(x),
                  picture_tenths(y));
    markup_text(s->out, text);
    markup_put(s->out, "</text>\n");
}

void picture_put_heading(struct picture_sheet *s, const char *name, const char *what)
{
    s->y += 26;
    markup_printf(s->out, "<path class=\"g\" d=\"M8,%gH%g\"/>\n", picture_tenths(s->y - 15),
                  SHEET_WIDTH - 8);
    picture_put_label(s, "n", 8, s->y, "%s", name);
    picture_put_label(s, "t", PICTURE_MARGIN, s->y, "%s", what);
    s->y += 20;
    s->key_x = PICTURE_MARGIN;
}

void picture_put_key(struct picture_sheet *s, const char *class, const char *name)
{
    double y = s->y - 7;
    markup_printf(s->out, "<path class=\"%s\" d=\"M%g,%gh16\"/>", class, picture_tenths(s->key_x),
                  picture_tenths(y));
    picture_put_label(s, "t", s->key_x + 21, y + 3.5, "%s", name);
    s->key_x += 36 + LETTER * (double)strlen(name);
}

const char *picture_colour(const struct picture *p, uint32_t domain, char ret[8])
{
    if (domain >= p->domain_count)
        return "so";
    snprintf(ret, 8, "s%u", domain % COLOURS);
    return ret;
}

void picture_name_lane(const struct picture *p, uint32_t function, char ret[64])
{
    const struct picture_function *f = &p->functions[function];
    if (function == p->function_count) {
        snprintf(ret, 64, "%llu other functions", (unsigned long long)p->other_functions);
        return;
    }
    uint64_t group = p->domains[f->domain].group;
    if (group >> 32 == ROUTE_OWNER)
        snprintf(ret, 64, "function %u, owner %u", f->number, (uint32_t)group);
    else
        snprintf(ret, 64, "function %u%s", f->number,
                 group >> 32 == ROUTE_SHARED ? ", shared" : "");
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double picture_first_s(const struct picture *p, const struct picture_lanes *l,
                       const struct picture_lane *lane)
{
    double *all = calloc((size_t)lane->count + 1, sizeof *all);
    size_t count = 0;
    for (uint32_t i = lane->first; all != NULL && i < lane->first + lane->count; i++) {
        const struct picture_request *r = &p->requests[l->order[i]];
        if (r->has_first)
            all[count++] = (double)(picture_request_us(r) - r->part_us[PICTURE_REST]) / 1e6;
    }
    double median = -1;
    if (count > 0) {
        qsort(all, count, sizeof *all, compare);
        median = (all[(count - 1) / 2] + all[count / 2]) / 2;
    }
    free(all);
    return median;
}

/* --- the frame --- */

static void put_style(struct markup *out)
{
    static const char light[] =
        ".paper{fill:#fff}.t,.c{fill:#59636e}.n,.h,.a{fill:#1b1f24}.g{stroke:#e4e7eb}"
        ".w2,.hp,.e1{stroke:#1b1f24}.w1,.w4{stroke:#929ca7}.w3,.w5{stroke:#ccd2d8}"
        ".so{color:#77818c}.bg{fill:#e9ecef}.e2,.e3{stroke:#c4161c}.bad{fill:#c4161c}"
        ".k0{fill:#414d5b}.k1{fill:#7d8b99}.k2{fill:#adb8c2}.k3{fill:#dbe1e6}"
        ".q0{stroke:#414d5b}.q1{stroke:#7d8b99}.q2{stroke:#adb8c2}.q3{stroke:#dbe1e6}";
    static const char dark[] =
        ".paper{fill:#16191e}.t,.c{fill:#9aa4af}.n,.h,.a{fill:#e4e7eb}.g{stroke:#2c323a}"
        ".w2,.hp,.e1{stroke:#e4e7eb}.w1,.w4{stroke:#7d8792}.w3,.w5{stroke:#49515b}"
        ".so{color:#8d97a2}.bg{fill:#2a3037}.e2,.e3{stroke:#ff6b6b}.bad{fill:#ff6b6b}"
        ".k0{fill:#46515c}.k1{fill:#6d7a87}.k2{fill:#98a5b1}.k3{fill:#cdd6de}"
        ".q0{stroke:#46515c}.q1{stroke:#6d7a87}.q2{stroke:#98a5b1}.q3{stroke:#cdd6de}";
    markup_put(out, "<style>\n");
    marks_style(out);
    markup_put(out, light);
    markup_put(out, "\n@media screen and (prefers-color-scheme:dark){");
    markup_put(out, dark);
    markup_put(out,
               "}\n"
               "text{font:10.5px system-ui,-apple-system,\"Segoe UI\",\"DejaVu Sans\",sans-serif}"
               ".h{font-size:16px;font-weight:600}.n{font-size:12px;font-weight:600}"
               ".c{text-anchor:middle}.end{text-anchor:end}\n"
               "path{fill:none}.b{stroke-width:5}.p{stroke-width:7}.i{stroke-width:2}"
               ".w0{stroke:url(#hatch)}.g,.hp{stroke-width:1}"
               ".f{stroke:currentColor;stroke-opacity:.5}.r{stroke:currentColor}"
               ".u{fill:currentColor}.k0,.k1,.k2,.k3{stroke:none}"
               ".e{stroke-width:1.5}.lim{stroke:#c4161c;stroke-width:1;stroke-dasharray:4 3}\n"
               "</style>\n<defs><pattern id=\"hatch\" width=\"4\" height=\"4\" "
               "patternUnits=\"userSpaceOnUse\"><rect class=\"bg\" width=\"4\" height=\"4\"/>"
               "<path class=\"hp\" d=\"M-1,1l2-2M0,4l4-4M3,5l2-2\"/></pattern></defs>\n");
}

/* Lines across all panels, and what they are called above and below. */
static void put_axis(struct picture_sheet *s, double top, double bottom)
{
    const struct picture *p = s->p;
    struct axis axis;
    struct axis_range range;
    axis_range_init(&range);
    axis_range_add(&range, picture_seconds(p, p->begin_us), false);
    axis_range_add(&range, picture_seconds(p, p->end_us), false);
    axis_fit(&axis, &range, false, AXIS_TIGHT, 8);
    markup_put(s->out, "<path class=\"g\" d=\"");
    for (size_t i = 0; i < axis.tick_count; i++)
        markup_printf(s->out, "M%g,%gV%g",
                      picture_tenths(PICTURE_MARGIN +
                                     PICTURE_COLUMNS * axis_place(&axis, axis.ticks[i].value)),
                      picture_tenths(top + 6), picture_tenths(bottom));
    markup_put(s->out, "\"/>\n");
    for (size_t i = 0; i < 2 * axis.tick_count; i++) {
        const struct axis_tick *tick = &axis.ticks[i / 2];
        double x = PICTURE_MARGIN + PICTURE_COLUMNS * axis_place(&axis, tick->value);
        picture_put_label(s, "c", x, i % 2 == 0 ? top : bottom + 14, "%s s", tick->label);
    }
    picture_put_label(s, "t", LABELS_X, bottom + 14, "since the log began");
}

/* --- title and notes --- */

static void put_title(struct picture_sheet *s)
{
    const struct picture *p = s->p;
    uint64_t requests = 0, done = 0, devices = 0;
    for (uint32_t i = 0; i <= p->function_count; i++) {
        requests += p->functions[i].requests;
        done += p->functions[i].ends[PICTURE_DONE];
    }
    for (uint32_t i = 0; i < p->place_count; i++)
        devices += p->places[i].is_device;
    uint64_t functions = p->function_count + p->other_functions;
    s->y = 26;
    picture_put_label(
        s, "h", 8, s->y, "%llu function%s on %llu device%s: %llu request%s, %llu completed",
        (unsigned long long)functions, functions == 1 ? "" : "s", (unsigned long long)devices,
        devices == 1 ? "" : "s", (unsigned long long)requests, requests == 1 ? "" : "s",
        (unsigned long long)done);
    s->y += 18;
    picture_put_label(s, "t", 8, s->y,
                      "%.2f to %.2f s of a recorded run (%llu events, %llu plans). A colour is an "
                      "isolation domain%s; grey is nobody's.",
                      picture_seconds(p, p->begin_us), picture_seconds(p, p->end_us),
                      (unsigned long long)p->events, (unsigned long long)p->plans,
                      p->domain_count > COLOURS ? ", one of several" : ", everywhere");
    if (p->damage[0] != '\0') {
        s->y += 16;
        picture_put_label(s, "bad", 8, s->y, "Drawn up to where the log is whole: %s.", p->damage);
    }
    if (p->is_full) {
        s->y += 16;
        picture_put_label(s, "bad", 8, s->y,
                          "The log was full before the run ended: drawn up to there.");
    }
}

static void put_note(struct picture_sheet *s, uint64_t count, const char *what)
{
    if (count == 0)
        return;
    s->y += 15;
    picture_put_label(s, "t", 8, s->y, "Not drawn: %llu %s.", (unsigned long long)count, what);
}

static void put_notes(struct picture_sheet *s)
{
    const struct picture *p = s->p;
    put_note(s, p->requests_seen - s->lanes->drawn, "requests for which there was no room");
    put_note(s, p->workers_left_out, "processes of higher numbers");
    put_note(s, p->spans_left_out, "changes of processes");
    put_note(s, p->loads_seen - p->load_count, "loads");
    put_note(s, p->places_left_out, "devices and hosts");
}

void picture_draw(struct markup *out, const struct picture *p, const struct picture_lanes *l,
                  bool is_alone)
{
    struct markup body;
    markup_init(&body, BODY_BYTES_MAX);
    struct picture_sheet s = {.out = &body, .p = p, .lanes = l};
    put_title(&s);
    double top = s.y += 22;
    picture_panel_requests(&s);
    picture_panel_processes(&s);
    picture_panel_turns(&s);
    picture_panel_loads(&s);
    picture_panel_memory(&s);
    double bottom = s.y += 4;
    s.y += 18;
    put_notes(&s);
    double height = ceil(s.y + 8);
    markup_printf(out, "<svg%s viewBox=\"0 0 %g %g\"",
                  is_alone ? " xmlns=\"http://www.w3.org/2000/svg\"" : "", SHEET_WIDTH, height);
    if (is_alone)
        markup_printf(out, " width=\"%g\" height=\"%g\"", SHEET_WIDTH, height);
    markup_put(out, " role=\"img\">\n<title>A run of the serverless core, from its event log"
                    "</title>\n");
    put_style(out);
    markup_printf(out, "<rect class=\"paper\" width=\"%g\" height=\"%g\"/>\n", SHEET_WIDTH, height);
    s.out = out;
    put_axis(&s, top, bottom);
    if (body.failed < 0)
        markup_fail(out, body.failed);
    else if (body.text.len > 0)
        markup_put(out, body.text.data);
    markup_put(out, "</svg>\n");
    markup_free(&body);
}
