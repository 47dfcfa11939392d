/* Bytes as a trace: no file crashes the readers, is read without an end or makes a trace that is
 * not one, and what is refused is refused with a sentence that names the file. The first byte of an
 * input picks the options. */
#include "sim/trace_generate.h"
#include "sim/trace_read.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define REQUESTS_MAX 20000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct trace_options options_of(uint8_t pick)
{
    struct trace_options o;
    trace_options_default(&o);
    o.spread = (enum trace_spread)(pick % 3);
    o.functions = 1 + pick % 5;
    o.format = pick >= 128 ? (enum trace_format)(pick % TRACE_FORMAT_COUNT) : TRACE_FORMAT_ANY;
    if (pick & 8)
        o.skip_us = 30000000;
    if (pick & 16)
        o.limit_us = 60000000;
    if (pick & 32)
        o.speed = 3;
    if (pick & 64)
        o.prompt_max = o.answer_max = 100;
    o.requests_max = REQUESTS_MAX;
    return o;
}

static void check(const struct trace *t, const struct trace_options *o)
{
    assert(t->count > 0 && t->count <= REQUESTS_MAX);
    assert(t->functions > 0);
    uint64_t last_us = 0;
    for (size_t i = 0; i < t->count; i++) {
        const struct trace_request *q = &t->requests[i];
        assert(q->at_us >= last_us);
        assert(q->function < t->functions);
        assert(q->prompt_tokens > 0 && q->prompt_tokens <= TRACE_TOKENS_MAX);
        assert(q->new_tokens > 0 && q->new_tokens <= TRACE_TOKENS_MAX);
        assert(o->prompt_max == 0 || q->prompt_tokens <= o->prompt_max);
        last_us = q->at_us;
    }
    assert(t->span_us >= last_us);
    assert(o->limit_us == 0 || (double)t->span_us <= (double)o->limit_us / o->speed);
    trace_classify(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct trace_options o = options_of(data[0]);
    struct trace t;
    struct error err = {0};
    FILE *f = fmemopen((void *)(uintptr_t)(data + 1), size - 1, "r");
    if (f == NULL)
        abort();
    if (trace_read_file(f, "fuzz", &o, &t, &err) == 0) {
        check(&t, &o);
        trace_free(&t);
    } else {
        assert(err.code < 0);
        assert(strncmp(err.text, "fuzz", 4) == 0);
    }
    fclose(f);
    return 0;
}
