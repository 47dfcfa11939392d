/* See replay_result.h. */
#include "cli/replay_result.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- one request --- */

double result_ttft_ms(const struct trace_request *q, const struct driver_sample *s)
{
    return s->first_us > 0 ? (double)(s->first_us - q->at_us) / 1e3 : NAN;
}

double result_tpot_ms(const struct trace_request *q, const struct driver_sample *s)
{
    (void)q;
    if (s->outcome != DRIVER_DONE || s->tokens < 2 || s->first_us == 0)
        return NAN;
    return (double)(s->last_us - s->first_us) / 1e3 / (s->tokens - 1);
}

double result_e2e_ms(const struct trace_request *q, const struct driver_sample *s)
{
    return s->outcome == DRIVER_DONE ? (double)(s->end_us - q->at_us) / 1e3 : NAN;
}

static double late_ms(const struct trace_request *q, const struct driver_sample *s)
{
    return s->sent_us > 0 ? (double)(s->sent_us - q->at_us) / 1e3 : NAN;
}

/* --- figures --- */

static void count_code(struct result_figures *f, const struct driver_sample *s)
{
    static const char *const words[] = {
        [DRIVER_NOCONNECT] = "connect",
        [DRIVER_CUT] = "cut",
        [DRIVER_TIMEOUT] = "timeout",
        [DRIVER_BROKEN] = "broken",
    };
    struct result_code code = {.count = 1};
    if (s->outcome < DRIVER_NOCONNECT)
        snprintf(code.word, sizeof code.word, "%u", s->status);
    else
        snprintf(code.word, sizeof code.word, "%s", words[s->outcome]);
    for (size_t i = 0; i < f->code_count; i++) {
        if (strcmp(f->codes[i].word, code.word) == 0) {
            f->codes[i].count++;
            return;
        }
    }
    if (f->code_count == RESULT_CODES_MAX - 1) /* the last place is for what is left */
        snprintf(code.word, sizeof code.word, "other");
    if (f->code_count == RESULT_CODES_MAX)
        f->codes[RESULT_CODES_MAX - 1].count++;
    else
        f->codes[f->code_count++] = code;
}

static void count(struct result_figures *f, const struct driver_sample *s)
{
    f->requests++;
    f->waited += s->waited;
    if (s->outcome == DRIVER_UNSENT || s->outcome == DRIVER_RUNNING) {
        f->unfinished++;
        return;
    }
    count_code(f, s);
    if (s->outcome == DRIVER_DONE) {
        f->completed++;
        f->tokens += s->tokens;
    } else if (s->outcome == DRIVER_REFUSED) {
        f->refused++;
    } else {
        f->failed++;
    }
}

typedef double latency_fn(const struct trace_request *q, const struct driver_sample *s);

struct selection {
    const struct result *r;
    const size_t *indices;
    size_t count;
    double *values; /* [count], to work in */
};

/* One kind of latency over the requests; counts those within the objective. */
static struct stats_summary summarise(const struct selection *s, latency_fn *latency,
                                      double objective_ms, size_t *ret_within)
{
    size_t n = 0;
    size_t within = 0;
    for (size_t i = 0; i < s->count; i++) {
        size_t at = s->indices[i];
        double ms = latency(&s->r->trace->requests[at], &s->r->run->samples[at]);
        if (isnan(ms))
            continue;
        within += ms <= objective_ms;
        s->values[n++] = ms;
    }
    *ret_within = within;
    return stats_summarise(s->values, n);
}

int result_figures(const struct result *r, const size_t *indices, size_t request_count,
                   struct result_figures *ret)
{
    struct result_figures f = {0};
    struct selection s = {.r = r, .indices = indices, .count = request_count};
    size_t in_ttft, in_tpot, any;
    size_t untimed = 0; /* completed with one token, which is late for nobody */
    s.values = calloc(request_count > 0 ? request_count : 1, sizeof *s.values);
    if (s.values == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < request_count; i++) {
        const struct driver_sample *sample = &r->run->samples[indices[i]];
        count(&f, sample);
        untimed += sample->outcome == DRIVER_DONE && sample->tokens < 2;
    }
    f.ttft_ms = summarise(&s, result_ttft_ms, r->slo_ttft_ms, &in_ttft);
    f.tpot_ms = summarise(&s, result_tpot_ms, r->slo_tpot_ms, &in_tpot);
    f.e2e_ms = summarise(&s, result_e2e_ms, INFINITY, &any);
    f.late_ms = summarise(&s, late_ms, INFINITY, &any);
    bool has_tpot = f.requests > 0 && !isnan(r->slo_tpot_ms);
    f.slo_attainment = f.requests > 0 ? (double)in_ttft / (double)f.requests : NAN;
    f.slo_tpot_attainment = has_tpot ? (double)(in_tpot + untimed) / (double)f.requests : NAN;
    free(s.values);
    *ret = f;
    return 0;
}

void result_group(const struct result *r, size_t *ret_indices, size_t *ret_begin)
{
    uint32_t names = r->names->count;
    for (uint32_t i = 0; i <= names; i++)
        ret_begin[i] = 0;
    for (size_t i = 0; i < r->run->due; i++)
        ret_begin[r->trace->requests[i].function % names + 1]++;
    for (uint32_t i = 0; i < names; i++)
        ret_begin[i + 1] += ret_begin[i];
    /* Each group's begin serves as its end while it fills, and is put back after. */
    for (size_t i = 0; i < r->run->due; i++)
        ret_indices[ret_begin[r->trace->requests[i].function % names]++] = i;
    for (uint32_t i = names; i > 0; i--)
        ret_begin[i] = ret_begin[i - 1];
    ret_begin[0] = 0;
}

static double mean_cov(const struct trace *t)
{
    double *covs = calloc(t->functions, sizeof *covs);
    double sum = 0;
    size_t n = 0;
    if (covs == NULL || trace_cov(t, covs) < 0) {
        free(covs);
        return NAN;
    }
    for (size_t i = 0; i < t->count; i++) {
        double cov = covs[t->requests[i].function];
        sum += isnan(cov) ? 0 : cov;
        n += !isnan(cov);
    }
    free(covs);
    return n > 0 ? sum / (double)n : NAN;
}

int result_finish(struct result *r)
{
    r->cov = mean_cov(r->trace);
    if (r->class == TRACE_UNKNOWN)
        r->class = trace_classify(r->trace);
    size_t *indices = calloc(r->run->due > 0 ? r->run->due : 1, sizeof *indices);
    if (indices == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < r->run->due; i++)
        indices[i] = i;
    int n = result_figures(r, indices, r->run->due, &r->figures);
    free(indices);
    return n;
}

double result_duration_s(const struct result *r)
{
    return (double)r->run->duration_us / 1e6;
}

double result_tok_s(const struct result *r)
{
    return (double)r->figures.tokens / result_duration_s(r);
}

double result_ce(const struct result *r)
{
    double spent = r->figures.e2e_ms.mean / 1e3 * r->usage.cost_usd;
    return r->usage.known && spent > 0 ? 1 / spent : NAN;
}

uint32_t result_functions(const struct result *r)
{
    return r->trace->functions < r->names->count ? r->trace->functions : r->names->count;
}

const char *result_name(const struct result *r, char ret[RESULT_NAME_BYTES])
{
    const char *class = trace_class_name(r->class);
    bool generated = strcmp(r->trace_name, class) == 0;
    char cov[32] = "";
    if (!isnan(r->cov))
        snprintf(cov, sizeof cov, ", CoV %.2f", r->cov);
    if (generated)
        snprintf(ret, RESULT_NAME_BYTES, "%s%s", class, cov);
    else
        snprintf(ret, RESULT_NAME_BYTES, "%.800s (%s%s)", r->trace_name, class, cov);
    return ret;
}

/* --- JSON --- */

static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static void set_summary(json_t *o, const char *name, const struct stats_summary *s)
{
    const struct {
        const char *word;
        double value;
    } parts[] = {{"mean", s->mean}, {"p50", s->p50}, {"p95", s->p95}, {"p99", s->p99}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s", name, parts[i].word);
        json_object_set_new(o, key, real(parts[i].value));
    }
}

static void set_usage(json_t *o, const struct result *r)
{
    const struct server_usage *u = &r->usage;
    json_object_set_new(o, "gb_s",
                        real(u->known ? (u->active_byte_s + u->idle_byte_s) / 1e9 : NAN));
    json_object_set_new(o, "cost_usd", real(u->known ? u->cost_usd : NAN));
    json_object_set_new(o, "ce", real(result_ce(r)));
    json_object_set_new(o, "idle_gb_s", real(u->known ? u->idle_byte_s / 1e9 : NAN));
    json_object_set_new(o, "platform_gb_s", real(u->known ? u->platform_byte_s / 1e9 : NAN));
    json_object_set_new(o, "device_s", real(u->known ? u->device_s : NAN));
}

json_t *result_json(const struct result *r)
{
    const struct result_figures *f = &r->figures;
    json_t *codes = json_object();
    for (size_t i = 0; i < f->code_count; i++)
        json_object_set_new(codes, f->codes[i].word, json_integer((json_int_t)f->codes[i].count));
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:o, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:b}", "trace",
                  r->trace_name, "format", r->trace->name, "class", trace_class_name(r->class),
                  "cov", real(r->cov), "functions", (int)result_functions(r), "requests",
                  (json_int_t)f->requests, "completed", (json_int_t)f->completed, "refused",
                  (json_int_t)f->refused, "failed", (json_int_t)f->failed, "unfinished",
                  (json_int_t)f->unfinished, "waited", (json_int_t)f->waited, "codes", codes,
                  "duration_s", real(result_duration_s(r)), "stopped", r->run->stopped);
    set_summary(o, "ttft_ms", &f->ttft_ms);
    set_summary(o, "tpot_ms", &f->tpot_ms);
    set_summary(o, "e2e_ms", &f->e2e_ms);
    json_object_set_new(o, "slo_ttft_ms", real(r->slo_ttft_ms));
    json_object_set_new(o, "slo_attainment", real(f->slo_attainment));
    json_object_set_new(o, "slo_tpot_ms", real(r->slo_tpot_ms));
    json_object_set_new(o, "slo_tpot_attainment", real(f->slo_tpot_attainment));
    json_object_set_new(o, "tok_s", real(result_tok_s(r)));
    json_object_set_new(o, "late_ms_p99", real(f->late_ms.p99));
    set_usage(o, r);
    return o;
}

/* --- for people --- */

static void print_summary(const char *name, const struct stats_summary *s)
{
    if (s->count == 0)
        printf("  %-6s %10s %10s %10s %10s\n", name, "-", "-", "-", "-");
    else
        printf("  %-6s %10.1f %10.1f %10.1f %10.1f\n", name, s->mean, s->p50, s->p95, s->p99);
}

static void print_codes(const struct result_figures *f)
{
    const char *before = " (";
    for (size_t i = 0; i < f->code_count; i++) {
        if (strcmp(f->codes[i].word, "200") == 0)
            continue;
        printf("%s%zu x %s", before, f->codes[i].count, f->codes[i].word);
        before = ", ";
    }
    if (before[0] == ',')
        putchar(')');
}

static void print_counts(const struct result *r)
{
    const struct result_figures *f = &r->figures;
    char name[RESULT_NAME_BYTES];
    printf("%s: %u functions, %zu requests in %.1f s%s\n", result_name(r, name),
           result_functions(r), f->requests, result_duration_s(r),
           r->run->stopped ? ", then stopped" : "");
    printf("%zu completed, %zu refused, %zu failed", f->completed, f->refused, f->failed);
    if (f->unfinished > 0)
        printf(", %zu unfinished", f->unfinished);
    print_codes(f);
    printf("; %.1f tokens/s\n", result_tok_s(r));
    if (r->run->complaint[0] != '\0')
        printf("the first that failed: %s\n", r->run->complaint);
}

static void print_usage(const struct result *r)
{
    const struct server_usage *u = &r->usage;
    if (!u->known)
        return;
    printf("used %.3f GB s (%.3f idle), the platform %.3f GB s; %.2f s of compute; $%.6f",
           (u->active_byte_s + u->idle_byte_s) / 1e9, u->idle_byte_s / 1e9,
           u->platform_byte_s / 1e9, u->device_s, u->cost_usd);
    if (!isnan(result_ce(r)))
        printf("; CE %.4g", result_ce(r));
    putchar('\n');
}

void result_print(const struct result *r)
{
    const struct result_figures *f = &r->figures;
    print_counts(r);
    printf("  %-6s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p95", "p99");
    print_summary("TTFT", &f->ttft_ms);
    print_summary("TPOT", &f->tpot_ms);
    print_summary("E2E", &f->e2e_ms);
    if (!isnan(f->slo_attainment))
        printf("first token within %g ms: %.1f %% of all requests\n", r->slo_ttft_ms,
               100 * f->slo_attainment);
    if (!isnan(f->slo_tpot_attainment))
        printf("tokens within %g ms of each other: %.1f %% of all requests\n", r->slo_tpot_ms,
               100 * f->slo_tpot_attainment);
    if (f->late_ms.count > 0)
        printf("sent late by %.2f ms (p99); %zu requests waited for a connection\n", f->late_ms.p99,
               f->waited);
    print_usage(r);
}
