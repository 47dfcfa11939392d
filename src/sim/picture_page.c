/*
 * The page around the drawing: how to read it, and its numbers in a table, since a bar cannot be
 * quoted. Means are over the requests that were kept; the drawing says when that is not all of
 * them. See picture_parts.h.
 */
#include "sim/picture_parts.h"

static const char *const how_to_read[] = {
    "Everything stands on one axis of time, so what happened at the same moment is below each "
    "other. The whole picture is made of the scheduler core's event log: what the core was told "
    "and what it asked for. What a request waited for is what its receipt says; a request without "
    "a receipt (refused, or not over when the log ends) counts as queued until it ran. Hold the "
    "pointer over a request or a load for its numbers.",
    "A colour is an isolation domain: functions that may share a process. Grey is nobody's: time "
    "spent waiting, a spare process that has seen no tenant, a backbone that all share.",
    "A turn is the right to compute on a device. Where several domains are busy they take turns, "
    "and a column shows which part of its time each of them had.",
    "Memory is charged from the decision that asks for it to the event that says it is gone, as "
    "the scheduler does it; the budget is what it may use.",
};

static void put_style(struct markup *out)
{
    markup_put(out, "<style>\nbody{margin:0 auto;padding:16px;max-width:1000px;background:#fff;"
                    "color:#1b1f24;font:15px/1.5 system-ui,sans-serif}svg{width:100%;height:auto}"
                    ".scroll{overflow-x:auto}p{max-width:46rem}"
                    "table{border-collapse:collapse;font-size:13px}"
                    "th,td{padding:4px 10px;text-align:right;border-bottom:1px solid #8884}"
                    "th:first-child,td:first-child{text-align:left;white-space:nowrap}\n"
                    "@media screen and (prefers-color-scheme:dark){body{background:#16191e;"
                    "color:#e4e7eb}}\n</style>\n");
}

static void put_row(struct markup *out, const struct picture *p, const struct picture_lanes *l,
                    const struct picture_lane *lane)
{
    const struct picture_function *f = &p->functions[lane->function];
    double parts[PICTURE_PARTS] = {0}, device_us = 0, count = lane->count > 0 ? lane->count : 1;
    uint64_t tokens_in = 0, tokens_cached = 0, tokens_out = 0;
    char name[64];
    for (uint32_t i = lane->first; i < lane->first + lane->count; i++) {
        const struct picture_request *r = &p->requests[l->order[i]];
        for (uint32_t k = 0; k < PICTURE_PARTS; k++)
            parts[k] += (double)r->part_us[k];
        device_us += (double)r->device_us;
        tokens_in += r->prompt_tokens;
        tokens_cached += r->cached_tokens;
        tokens_out += r->new_tokens;
    }
    picture_name_lane(p, lane->function, name);
    markup_printf(out, "<tr><td>%s</td><td>%llu</td>", name, (unsigned long long)f->requests);
    for (uint32_t e = 0; e < PICTURE_ENDS; e++)
        markup_printf(out, "<td>%llu</td>", (unsigned long long)f->ends[e]);
    for (uint32_t k = 0; k < PICTURE_PARTS; k++)
        markup_printf(out, "<td>%.1f</td>", parts[k] / count / 1e3);
    markup_printf(out, "<td>%.1f</td><td>%llu</td><td>%llu</td><td>%llu</td></tr>\n",
                  device_us / count / 1e3, (unsigned long long)tokens_in,
                  (unsigned long long)tokens_cached, (unsigned long long)tokens_out);
}

static void put_table(struct markup *out, const struct picture *p, const struct picture_lanes *l)
{
    static const char *const columns[] = {
        "function", "requests", "completed", "client left",    "process lost", "refused",
        "not over", "load, ms", "process",   "bind",           "queue",        "first token",
        "the rest", "device",   "tokens in", "of them cached", "tokens out"};
    markup_put(out, "<h2>Requests of the time shown</h2>\n<p>Times are means over a function's "
                    "requests, in milliseconds, and add up to the whole of a request; device is "
                    "the compute that its receipt names. Tokens are sums.</p>\n"
                    "<div class=\"scroll\"><table><thead><tr>");
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++)
        markup_printf(out, "<th>%s</th>", columns[i]);
    markup_put(out, "</tr></thead><tbody>\n");
    for (uint32_t i = 0; i < l->lane_count; i++)
        put_row(out, p, l, &l->lanes[i]);
    markup_put(out, "</tbody></table></div>\n");
}

void picture_page(struct markup *out, const struct picture *p, const struct picture_lanes *l)
{
    markup_put(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                    "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    markup_text(out, p->name);
    markup_put(out, "</title>\n");
    put_style(out);
    markup_put(out, "</head>\n<body>\n<div class=\"scroll\">");
    picture_draw(out, p, l, false);
    markup_put(out, "</div>\n<h2>How to read it</h2>\n");
    for (size_t i = 0; i < sizeof how_to_read / sizeof how_to_read[0]; i++) {
        markup_put(out, "<p>");
        markup_text(out, how_to_read[i]);
        markup_put(out, "</p>\n");
    }
    put_table(out, p, l);
    markup_put(out, "</body>\n</html>\n");
}
