/* BurstGPT: requests to ChatGPT and GPT-4, of which the later files tell the session. */
#include "sim/trace_parts.h"

int trace_read_burstgpt(struct trace_reader *r, struct error *err)
{
    uint32_t time, request, response;
    int n = trace_need_column(r, "Timestamp", &time, err);
    n = n == 0 ? trace_need_column(r, "Request tokens", &request, err) : n;
    n = n == 0 ? trace_need_column(r, "Response tokens", &response, err) : n;
    if (n < 0)
        return n;
    int session = trace_column(r, "Session ID");
    if (session < 0 && r->options->spread == TRACE_SPREAD_SESSION)
        return trace_refuse(r, err,
                            "there is no column \"Session ID\" to spread requests by; spread them "
                            "in turns or by popularity");
    while (!r->window_is_behind && (n = trace_next_row(r, err)) > 0) {
        uint32_t prompt_tokens = 0, new_tokens = 0;
        uint64_t at_us = 0;
        n = trace_seconds(r, "Timestamp", r->columns[time], &at_us, err);
        n = n == 0 ? trace_tokens(r, "Request tokens", r->columns[request], &prompt_tokens, err)
                   : n;
        n = n == 0 ? trace_tokens(r, "Response tokens", r->columns[response], &new_tokens, err) : n;
        if (n < 0)
            return n;
        if (new_tokens == 0)
            continue;
        n = trace_place(r, at_us, err);
        const char *of = session >= 0 ? r->columns[session] : "";
        n = n > 0
                ? trace_add(r, at_us, trace_function_spread(r, of), prompt_tokens, new_tokens, err)
                : n;
        if (n < 0)
            return n;
    }
    return n < 0 ? n : 0;
}
