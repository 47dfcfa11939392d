/*
 * Published traces as requests over time. The format is recognised by the first line:
 *
 *   azure-llm             CSV   TIMESTAMP, ContextTokens, GeneratedTokens (Azure 2023, 2024)
 *   azure-functions-2019  CSV   HashOwner, HashApp, HashFunction, Trigger, 1 ... 1440: counts a
 *                               minute, which are spread over their minute
 *   azure-functions-2021  CSV   app, func, end_timestamp, duration: arrival is end less duration
 *   burstgpt              CSV   Timestamp, [Session ID, Elapsed time,] Model, Request tokens,
 *                               Response tokens, ...; a response of 0 tokens failed and is left out
 *   mooncake              JSONL timestamp (ms), input_length, output_length
 *   swarmlora             JSONL timestamp (s), adapter_id, input_tokens, output_tokens
 *
 * A trace begins with its first request (2019: with its first minute), whatever its clock says
 * there. Rows in the order of time may be up to TRACE_DISORDER_US late, as logs of several machines
 * are, and are sorted; more is refused. The 2021 file is in the order of ends and is always sorted,
 * for which it is held as a whole. Where a format names functions, they are numbered in the order
 * of their first request in the window; where it names none, the options say how requests are
 * spread. What is drawn (2019's times, lengths, functions by popularity) depends on the seed and
 * the place in the file alone, so that a window shows the requests that the whole has there.
 *
 * A file that is not what it should be is refused with its name, the line and how to mend it.
 */
#pragma once

#include "sim/draw.h"
#include "sim/trace.h"

#include <stdio.h>

#define TRACE_DISORDER_US 1000000u
#define TRACE_FUNCTIONS_MAX (1u << 17)
#define TRACE_REQUESTS_MAX (64u << 20) /* 1.5 GiB */
#define TRACE_TOKENS_MAX 10000000u     /* of one prompt, of one answer */

enum trace_format {
    TRACE_FORMAT_ANY, /* recognised by the first line */
    TRACE_FORMAT_AZURE_LLM,
    TRACE_FORMAT_AZURE_2019,
    TRACE_FORMAT_AZURE_2021,
    TRACE_FORMAT_BURSTGPT,
    TRACE_FORMAT_MOONCAKE,
    TRACE_FORMAT_SWARMLORA,
    TRACE_FORMAT_COUNT
};

enum trace_spread {
    TRACE_SPREAD_ROUND_ROBIN,
    TRACE_SPREAD_ZIPF,    /* drawn, the first function is the most popular */
    TRACE_SPREAD_SESSION, /* a session's requests go to one function; those of none in turns */
};

struct trace_options {
    enum trace_format format;
    /* Where the format names no functions: */
    uint32_t functions; /* at least 1 */
    enum trace_spread spread;
    double zipf; /* exponent */
    /* Where it has no lengths: */
    struct draw_length prompt, answer;
    uint64_t seed;
    /* The window, in the trace's time; limit 0: to its end. */
    uint64_t skip_us, limit_us;
    double speed;                    /* 2: twice as fast; after the window is cut */
    uint32_t prompt_max, answer_max; /* longer ones are cut to this; 0: as they are */
    uint64_t requests_max;           /* more are refused; at most TRACE_REQUESTS_MAX */
};

/* One function, any format, all of it, at most 8 million requests; lengths of Azure's conversations
 * in 2023 (log-normal, up to their 99th percentile). */
void trace_options_default(struct trace_options *o);

int trace_read(const char *path, const struct trace_options *o, struct trace *ret,
               struct error *err);
/* Likewise from an open file, which stays the caller's; `name` is for errors. */
int trace_read_file(FILE *file, const char *name, const struct trace_options *o, struct trace *ret,
                    struct error *err);

const char *trace_format_name(enum trace_format format);
/* 0 or -EINVAL */
int trace_format_parse(const char *name, enum trace_format *ret);
