/* Traces of a few lines, read from memory: what they hold, or with which words they are refused;
 * and the first lines of the formats. */
#pragma once

#include "sim/trace_read.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LLM "TIMESTAMP,ContextTokens,GeneratedTokens\n"
#define BURST "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
#define BURST_SESSIONS                                                                             \
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"         \
    "Log Type\n"
#define F2019 "HashOwner,HashApp,HashFunction,Trigger,1,2,3,4\n"
#define F2021 "app,func,end_timestamp,duration\n"
#define MOON(time, in, out)                                                                        \
    "{\"timestamp\": " time ", \"input_length\": " in ", \"output_length\": " out "}\n"
#define SWARM(time, id, in, out)                                                                   \
    "{\"timestamp\":" time ",\"adapter_id\":" id ",\"input_tokens\":" in ",\"output_tokens\":" out \
    "}\n"

#define TEN                                                                                        \
    LLM "2023-11-16 10:00:00,10,1\n2023-11-16 10:00:01,11,1\n2023-11-16 10:00:02,12,1\n"           \
        "2023-11-16 10:00:03,13,1\n2023-11-16 10:00:04,14,1\n2023-11-16 10:00:05,15,1\n"           \
        "2023-11-16 10:00:06,16,1\n2023-11-16 10:00:07,17,1\n2023-11-16 10:00:08,18,1\n"           \
        "2023-11-16 10:00:09,19,1\n"

static inline struct trace_options defaults(void)
{
    struct trace_options o;
    trace_options_default(&o);
    return o;
}

static inline int parse_bytes(const char *bytes, size_t len, const struct trace_options *o,
                              struct trace *ret, struct error *err)
{
    FILE *f = len > 0 ? fmemopen((void *)(uintptr_t)bytes, len, "r") : fopen("/dev/null", "r");
    assert_non_null(f);
    int r = trace_read_file(f, "sample.csv", o, ret, err);
    fclose(f);
    return r;
}

static inline struct trace parse(const char *text, const struct trace_options *o)
{
    struct trace t = {0};
    struct error err = {0};
    if (parse_bytes(text, strlen(text), o, &t, &err) < 0)
        fail_msg("%.200s: %s", text, err.text);
    uint64_t last_us = 0;
    for (size_t i = 0; i < t.count; i++) {
        assert_true(t.requests[i].at_us >= last_us);
        assert_true(t.requests[i].function < t.functions);
        assert_true(t.requests[i].prompt_tokens > 0 && t.requests[i].new_tokens > 0);
        last_us = t.requests[i].at_us;
    }
    assert_true(t.span_us >= last_us);
    return t;
}

/* Refused with all of these words (separated by '|'), and nothing written. */
static inline void refuse_bytes(const char *bytes, size_t len, const struct trace_options *o,
                                const char *words)
{
    struct trace t = {.count = 77};
    struct error err = {0};
    char list[256];
    int r = parse_bytes(bytes, len, o, &t, &err);
    snprintf(list, sizeof list, "%s", words);
    for (char *at = list, *word; (word = strsep(&at, "|")) != NULL;)
        if (r >= 0 || strstr(err.text, word) == NULL)
            fail_msg("%.300s: %d \"%s\", expected \"%s\"", bytes, r, err.text, word);
    assert_int_equal(t.count, 77);
    assert_null(t.requests);
}

static inline void refuse(const char *text, const char *words)
{
    struct trace_options o = defaults();
    refuse_bytes(text, strlen(text), &o, words);
}

static inline void is_request(const struct trace *t, size_t i, uint64_t at_us, uint32_t function,
                              uint32_t prompt_tokens, uint32_t new_tokens)
{
    const struct trace_request *q = &t->requests[i];
    if (i >= t->count || q->at_us != at_us || q->function != function ||
        q->prompt_tokens != prompt_tokens || q->new_tokens != new_tokens)
        fail_msg("request %zu of %zu: %llu us, function %u, %u, %u", i, t->count,
                 (unsigned long long)q->at_us, q->function, q->prompt_tokens, q->new_tokens);
}
