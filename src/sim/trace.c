/* See trace.h. */
#include "sim/trace.h"

#include "sim/trace_parts.h"

#include <stdlib.h>

static int order(const void *a, const void *b)
{
    const struct trace_request *x = a;
    const struct trace_request *y = b;
    if (x->at_us != y->at_us)
        return x->at_us < y->at_us ? -1 : 1;
    if (x->function != y->function)
        return x->function < y->function ? -1 : 1;
    if (x->prompt_tokens != y->prompt_tokens)
        return x->prompt_tokens < y->prompt_tokens ? -1 : 1;
    return (x->new_tokens > y->new_tokens) - (x->new_tokens < y->new_tokens);
}

void trace_sort(struct trace_request *requests, size_t count)
{
    if (count > 1)
        qsort(requests, count, sizeof *requests, order);
}

void trace_free(struct trace *t)
{
    free(t->requests);
    *t = (struct trace){0};
}
