/* Which format a file has, and its way from a path to a trace. See trace_read.h. */
#include "sim/trace_read.h"

#include "sim/trace_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const format_names[TRACE_FORMAT_COUNT] = {
    [TRACE_FORMAT_ANY] = "any",
    [TRACE_FORMAT_AZURE_LLM] = "azure-llm",
    [TRACE_FORMAT_AZURE_2019] = "azure-functions-2019",
    [TRACE_FORMAT_AZURE_2021] = "azure-functions-2021",
    [TRACE_FORMAT_BURSTGPT] = "burstgpt",
    [TRACE_FORMAT_MOONCAKE] = "mooncake",
    [TRACE_FORMAT_SWARMLORA] = "swarmlora",
};

const char *trace_format_name(enum trace_format format)
{
    return format < TRACE_FORMAT_COUNT ? format_names[format] : "unknown";
}

int trace_format_parse(const char *name, enum trace_format *ret)
{
    for (int i = 0; i < TRACE_FORMAT_COUNT; i++) {
        if (strcmp(name, format_names[i]) == 0) {
            *ret = (enum trace_format)i;
            return 0;
        }
    }
    return -EINVAL;
}

void trace_options_default(struct trace_options *o)
{
    *o = (struct trace_options){
        .functions = 1,
        .zipf = 1,
        .prompt = {.mu = 6.63, .sigma = 0.99, .min = 1, .max = 4142},
        .answer = {.mu = 5.02, .sigma = 0.86, .min = 1, .max = 601},
        .speed = 1,
        .requests_max = 8u << 20,
    };
}

static bool is_law(const struct draw_length *l)
{
    return l->min <= l->max && l->max <= TRACE_TOKENS_MAX && l->sigma >= 0 && l->sigma <= 10 &&
           l->mu >= -10 && l->mu <= 20;
}

static int check_options(const struct trace_options *o, struct error *err)
{
    if (o->functions < 1 || o->functions > TRACE_FUNCTIONS_MAX)
        return error_set(err, -EINVAL, "requests can be spread over 1 to %u functions, not %u",
                         TRACE_FUNCTIONS_MAX, o->functions);
    if (!(o->zipf >= 0 && o->zipf <= 10))
        return error_set(err, -EINVAL, "the exponent of popularity must be from 0 to 10, not %g",
                         o->zipf);
    if (!(o->speed >= 1e-3 && o->speed <= 1e6))
        return error_set(err, -EINVAL, "the speed must be from 0.001 to 1000000, not %g", o->speed);
    if (o->skip_us > TRACE_SPAN_US_MAX || o->limit_us > TRACE_SPAN_US_MAX)
        return error_set(err, -EINVAL, "a window ends within ten years");
    if (!is_law(&o->prompt) || !is_law(&o->answer))
        return error_set(err, -EINVAL, "lengths must be from 0 to %u tokens", TRACE_TOKENS_MAX);
    if (o->requests_max < 1 || o->requests_max > TRACE_REQUESTS_MAX)
        return error_set(err, -EINVAL, "at most %u requests are supported", TRACE_REQUESTS_MAX);
    return 0;
}

static bool is_json(const struct trace_reader *r)
{
    return r->line.data[0] == '{' || r->line.data[0] == '[';
}

static int recognise(const struct trace_reader *r, enum trace_format *ret, struct error *err)
{
    *ret = TRACE_FORMAT_ANY;
    if (is_json(r))
        return trace_jsonl_format(r, ret, err);
    if (trace_column(r, "ContextTokens") >= 0)
        *ret = TRACE_FORMAT_AZURE_LLM;
    else if (trace_column(r, "HashFunction") >= 0 && trace_column(r, "1") >= 0)
        *ret = TRACE_FORMAT_AZURE_2019;
    else if (trace_column(r, "func") >= 0 && trace_column(r, "end_timestamp") >= 0)
        *ret = TRACE_FORMAT_AZURE_2021;
    else if (trace_column(r, "Request tokens") >= 0)
        *ret = TRACE_FORMAT_BURSTGPT;
    return 0;
}

static int read_rows(struct trace_reader *r, enum trace_format format, struct error *err)
{
    switch (format) {
    case TRACE_FORMAT_AZURE_LLM:
        return trace_read_azure_llm(r, err);
    case TRACE_FORMAT_AZURE_2019:
        return trace_read_azure_2019(r, err);
    case TRACE_FORMAT_AZURE_2021:
        return trace_read_azure_2021(r, err);
    case TRACE_FORMAT_BURSTGPT:
        return trace_read_burstgpt(r, err);
    case TRACE_FORMAT_MOONCAKE:
    case TRACE_FORMAT_SWARMLORA:
        return trace_read_jsonl(r, format, err);
    default:
        return trace_refuse(r, err,
                            "this is the first line of no known trace; known are Azure LLM "
                            "inference, Azure Functions 2019 and 2021, BurstGPT, Mooncake and "
                            "SwarmLoRA, each with the names of its columns or keys");
    }
}

static int check_spread(const struct trace_reader *r, enum trace_format format, struct error *err)
{
    if (r->options->spread != TRACE_SPREAD_SESSION ||
        (format != TRACE_FORMAT_AZURE_LLM && format != TRACE_FORMAT_MOONCAKE))
        return 0;
    return error_set(err, -EINVAL,
                     "%s: the format %s has no sessions to spread requests by; spread them in "
                     "turns or by popularity",
                     r->name, trace_format_name(format));
}

static int read_all(struct trace_reader *r, struct trace *ret, struct error *err)
{
    const struct trace_options *o = r->options;
    int n = trace_next_line(r, err);
    if (n == 0)
        return error_set(err, -EINVAL, "%s is empty", r->name);
    if (n > 0)
        n = is_json(r) ? 0 : trace_split(r, err);
    if (n < 0)
        return n;
    r->header_count = r->column_count;
    enum trace_format format = o->format;
    if (format == TRACE_FORMAT_ANY)
        n = recognise(r, &format, err);
    n = n == 0 ? check_spread(r, format, err) : n;
    n = n == 0 ? read_rows(r, format, err) : n;
    struct trace trace;
    n = n == 0 ? trace_finish(r, &trace, err) : n;
    if (n < 0)
        return n;
    snprintf(trace.name, sizeof trace.name, "%s", trace_format_name(format));
    *ret = trace;
    return 0;
}

int trace_read_file(FILE *file, const char *name, const struct trace_options *o, struct trace *ret,
                    struct error *err)
{
    int n = check_options(o, err);
    if (n < 0)
        return n;
    struct trace_reader *r = calloc(1, sizeof *r);
    if (r == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r->options = o;
    r->name = name;
    r->file = file;
    buf_init(&r->line, TRACE_LINE_BYTES_MAX);
    if (o->spread == TRACE_SPREAD_ZIPF) {
        r->shares = calloc(o->functions, sizeof *r->shares);
        if (r->shares != NULL)
            draw_zipf_sums(o->zipf, o->functions, r->shares);
        else
            n = error_set(err, -ENOMEM, "out of memory");
    }
    n = n == 0 ? read_all(r, ret, err) : n;
    trace_rows_free(r);
    buf_free(&r->line);
    free(r);
    return n;
}

int trace_read(const char *path, const struct trace_options *o, struct trace *ret,
               struct error *err)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return error_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    int n = trace_read_file(file, path, o, ret, err);
    fclose(file);
    return n;
}
