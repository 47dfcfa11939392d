/*
 * The figures of the serverless core on the live system: one server after the other on the same
 * deployed functions, the same requests to each, this system's defaults in alternation with what
 * its switches give. The requests are sent by `sllora replay`, as anybody would.
 */
#include "cli/bench.h"
#include "cli/load_trace.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SHAPE "qwen2.5-0.5b"
#define ROUNDS_MAX 9u
#define FLAGS_MAX 12
/* Of the memory that a private backbone takes: one and a half fit. The least is for shapes so small
 * that processes are larger. */
#define BUDGET 1.5
#define BUDGET_BYTES_MIN 268435456.0
#define PROMPT_TOKENS "32"
#define NEW_TOKENS "16"
/* For a server that has just begun to look after what is deployed, where it does. */
#define SETTLE_S 5
#define DATA "serverless" /* where nothing else is deployed */

static const struct variant {
    const char *name;
    const char *flags[8];
    bool once; /* measured in the first round alone */
} variants[] = {
    {"sllora", {NULL}, false},
    {"baseline", {"--no-sharing", "--no-preload", "--keep-alive", "60", NULL}, false},
    {"no-sharing", {"--no-sharing", NULL}, true},
    {"no-preload", {"--no-preload", NULL}, true},
    {"no-offload", {"--no-offload", NULL}, true},
    {"batch-off", {"--batch", "off", NULL}, true},
    {"batch-fixed-4", {"--batch", "fixed:4", NULL}, true},
    {"keep-alive-60", {"--keep-alive", "60", NULL}, true},
};

#define VARIANTS (sizeof variants / sizeof variants[0])
enum { OURS, BASELINE };

/* What a run of requests is. */
struct load {
    const char *class;
    double rate, seconds;
    uint32_t seed;
};

/* --- a server, requests, figures --- */

static int replay(struct bench_server *s, const struct load *l, json_t **ret, struct error *err)
{
    char rate[32], seconds[32], seed[16];
    snprintf(rate, sizeof rate, "%.17g", l->rate);
    snprintf(seconds, sizeof seconds, "%.9g", l->seconds);
    snprintf(seed, sizeof seed, "%u", l->seed);
    const char *argv[] = {"replay",
                          l->class,
                          "--data",
                          s->data_dir,
                          "--rate",
                          rate,
                          "--duration",
                          seconds,
                          "--seed",
                          seed,
                          "--functions",
                          "f0,f1,f2,f3,f4,f5,f6,f7",
                          "--prompt-tokens",
                          PROMPT_TOKENS,
                          "--new-tokens",
                          NEW_TOKENS,
                          NULL};
    return bench_self(argv, ret, err);
}

/* Starts a server, has it settled, asks, stops it. */
static int run(const struct bench_options *o, const char *const *flags, const struct load *l,
               json_t **ret, struct error *err)
{
    struct bench_server s = {0};
    int r = bench_server_start(&s, o, flags, err);
    if (r < 0)
        return r;
    (void)bench_server_settle(&s, SETTLE_S);
    r = replay(&s, l, ret, err);
    bench_server_stop(&s);
    return r;
}

/* Deploys everything once; what one backbone takes. */
static int prepare(const struct bench_options *o, double *ret_backbone_bytes, struct error *err)
{
    char checkpoint[700];
    struct bench_server s = {0};
    json_t *f = NULL;
    int r = bench_checkpoint(o, o->shape != NULL ? o->shape : SHAPE, BENCH_FUNCTIONS, checkpoint,
                             sizeof checkpoint, err);
    if (r == 0)
        r = bench_server_start(&s, o, NULL, err);
    if (r < 0)
        return r;
    r = bench_deploy_all(&s, checkpoint, err);
    if (r == 0)
        r = bench_get(&s, "/admin/functions/f0", &f, err);
    *ret_backbone_bytes =
        json_number_value(json_object_get(json_object_get(f, "backbone"), "bytes"));
    json_decref(f);
    bench_server_stop(&s);
    return r;
}

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* --- against the switches --- */

static const char *const kept[] = {"ttft_ms_mean", "ttft_ms_p50",   "ttft_ms_p95",   "e2e_ms_mean",
                                   "gb_s",         "idle_gb_s",     "platform_gb_s", "device_s",
                                   "cost_usd",     "slo_attainment"};

#define KEPT (sizeof kept / sizeof kept[0])

struct measured {
    double values[VARIANTS][KEPT][ROUNDS_MAX];
    uint32_t rounds[VARIANTS];
    double lost[VARIANTS]; /* requests that got no answer */
    double requests;
};

static void keep(struct measured *m, size_t variant, const json_t *figures)
{
    for (size_t k = 0; k < KEPT; k++)
        m->values[variant][k][m->rounds[variant]] = number(figures, kept[k]);
    m->rounds[variant]++;
    m->lost[variant] += number(figures, "requests") - number(figures, "completed");
    m->requests = number(figures, "requests");
}

static double median(struct measured *m, size_t variant, const char *key)
{
    for (size_t k = 0; k < KEPT; k++)
        if (strcmp(kept[k], key) == 0)
            return bench_median(m->values[variant][k], m->rounds[variant]);
    return NAN;
}

static void report_variants(const struct bench_options *o, struct measured *m)
{
    for (size_t v = 0; v < VARIANTS; v++) {
        json_t *line = json_pack("{s:s, s:s, s:i, s:f, s:f}", "bench", "serverless", "variant",
                                 variants[v].name, "runs", (int)m->rounds[v], "requests",
                                 m->requests, "lost", m->lost[v]);
        for (size_t k = 0; k < KEPT; k++)
            json_object_set_new(line, kept[k], real(median(m, v, kept[k])));
        json_object_set_new(line, "total_gb_s",
                            real(median(m, v, "gb_s") + median(m, v, "platform_gb_s")));
        json_object_set_new(line, "ttft_p95_over_sllora",
                            real(median(m, v, "ttft_ms_p95") / median(m, OURS, "ttft_ms_p95")));
        json_object_set_new(line, "gb_s_over_sllora",
                            real(median(m, v, "gb_s") / median(m, OURS, "gb_s")));
        bench_report(o, line);
    }
}

static void report_goal(const struct bench_options *o, struct measured *m, const char *key,
                        double goal)
{
    double ours = median(m, OURS, key), base = median(m, BASELINE, key);
    bench_report(o, json_pack("{s:s, s:s, s:o, s:f, s:o, s:o, s:i}", "bench", "serverless",
                              "figure", key, "value", real(base / ours), "goal", goal, "ours",
                              real(ours), "baseline", real(base), "runs", (int)m->rounds[OURS]));
}

int bench_serverless(const struct bench_options *options, struct error *err)
{
    struct bench_options own = *options, *o = &own;
    static struct measured m;
    char budget[32];
    double bytes;
    own.data = DATA;
    uint32_t rounds = o->runs > 0 && o->runs < ROUNDS_MAX ? o->runs : 3;
    struct load l = {"bursty", o->rate > 0 ? o->rate : 0.1, o->seconds > 0 ? o->seconds : 300, 0};
    int r = prepare(o, &bytes, err);
    if (r < 0)
        return r;
    snprintf(budget, sizeof budget, "%.0f", fmax(BUDGET * bytes, BUDGET_BYTES_MIN));
    for (uint32_t round = 0; round < rounds; round++) {
        for (size_t v = 0; v < VARIANTS; v++) {
            const char *flags[FLAGS_MAX] = {"--memory", budget};
            json_t *figures = NULL;
            int count = 2;
            if (round > 0 && variants[v].once)
                continue;
            for (const char *const *f = variants[v].flags; *f != NULL; f++)
                flags[count++] = *f;
            l.seed = round + 1;
            fprintf(stderr, "bench serverless: round %u of %u, %s, %.0f s\n", round + 1, rounds,
                    variants[v].name, l.seconds);
            r = run(o, flags, &l, &figures, err);
            if (r < 0)
                return r;
            keep(&m, v, figures);
            json_decref(figures);
        }
    }
    report_variants(o, &m);
    report_goal(o, &m, "ttft_ms_p95", 7);
    report_goal(o, &m, "gb_s", 9);
    return 0;
}

/* --- objectives below capacity --- */

#define CAPACITY_SECONDS 4
#define CAPACITY_RATE 30
#define OFFERED 0.7
#define ATTAINED 0.99

#define DRAWS 20

/* A trace is drawn: the highest rate, from OFFERED on, at which no more than OFFERED is asked. */
static int offered_rate(const struct load *l, double capacity, double *ret, struct error *err)
{
    struct load_trace t = {.duration_s = l->seconds, .seed = l->seed};
    double most = OFFERED * capacity * l->seconds;
    int r = trace_class_parse(l->class, &t.class);
    *ret = t.rate = OFFERED * capacity;
    for (int i = 0; r == 0 && i < DRAWS; i++) {
        struct trace drawn = {0};
        r = load_trace_make(&t, BENCH_FUNCTIONS, &drawn, err);
        double count = (double)drawn.count;
        trace_free(&drawn);
        if (r == 0 && count <= most) {
            *ret = t.rate;
            return 0;
        }
        t.rate *= most / count;
    }
    return r < 0 ? r
                 : error_set(err, -ERANGE, "no %s trace of at most %.0f requests", l->class, most);
}

int bench_slo(const struct bench_options *options, struct error *err)
{
    struct bench_options own = *options, *o = &own;
    static const char *const classes[] = {"predictable", "normal", "bursty"};
    const char *flags[] = {NULL};
    json_t *figures = NULL;
    double bytes;
    own.data = DATA;
    struct load l = {"predictable", CAPACITY_RATE, CAPACITY_SECONDS, 1};
    int r = prepare(o, &bytes, err);
    if (r < 0)
        return r;
    fprintf(stderr, "bench slo: as many requests as can be\n");
    r = run(o, flags, &l, &figures, err);
    if (r < 0)
        return r;
    double capacity = number(figures, "completed") / number(figures, "duration_s");
    json_decref(figures);
    bench_report(o, json_pack("{s:s, s:s, s:f, s:f}", "bench", "slo", "figure", "capacity",
                              "requests_per_s", capacity, "tok_s", 16 * capacity));
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        l = (struct load){classes[i], o->rate, o->seconds > 0 ? o->seconds : 120, 1};
        r = l.rate > 0 ? 0 : offered_rate(&l, capacity, &l.rate, err);
        if (r < 0)
            return r;
        fprintf(stderr, "bench slo: %s, %.3g requests a second for %.0f s\n", l.class, l.rate,
                l.seconds);
        r = run(o, flags, &l, &figures, err);
        if (r < 0)
            return r;
        double requests = number(figures, "requests");
        bench_report(o, json_pack("{s:s, s:s, s:s, s:o, s:f, s:f, s:f, s:o, s:o, s:o, s:o}",
                                  "bench", "slo", "figure", "slo_attainment", "class", l.class,
                                  "value", real(number(figures, "slo_attainment")), "goal",
                                  ATTAINED, "load", requests / l.seconds / capacity, "requests",
                                  requests, "ttft_ms_p50", real(number(figures, "ttft_ms_p50")),
                                  "ttft_ms_p95", real(number(figures, "ttft_ms_p95")),
                                  "tpot_ms_p50", real(number(figures, "tpot_ms_p50")),
                                  "tpot_ms_p95", real(number(figures, "tpot_ms_p95"))));
        json_decref(figures);
    }
    return 0;
}

/* --- the simulator's truth --- */

static const char *const TRUTH_KEYS[] = {"ttft_ms_p50", "ttft_ms_p95", "device_s", "gb_s"};
#define TRUTH_COUNT (sizeof TRUTH_KEYS / sizeof TRUTH_KEYS[0])
#define TRUTH_WITHIN 0.15

/* What is compared, and with which profiles: the machine before a run and after it, which are the
 * same where one was given. */
struct truth {
    const struct bench_options *o;
    struct load load;
    char budget[32];
    char profiles[2][PATH_MAX];
};

/* The machine as it is now. */
static int calibrate(const struct bench_options *o, const char *path, struct error *err)
{
    json_t *profile = NULL;
    const char *shape = o->shape != NULL ? o->shape : SHAPE;
    const char *argv[] = {"bench", "calibrate", "--dir", o->dir, "--shape", shape, NULL};
    int r = bench_self(argv, &profile, err);
    if (r == 0 && json_dump_file(profile, path, JSON_REAL_PRECISION(9)) < 0)
        r = error_set(err, -EIO, "cannot write %s", path);
    json_decref(profile);
    return r;
}

static int simulate(const struct truth *t, const char *profile, double *ret, struct error *err)
{
    char rate[32], seconds[32], seed[16];
    json_t *figures = NULL;
    snprintf(rate, sizeof rate, "%.9g", t->load.rate);
    snprintf(seconds, sizeof seconds, "%.9g", t->load.seconds);
    snprintf(seed, sizeof seed, "%u", t->load.seed);
    const char *argv[] = {
        "sim",      "--trace",    t->load.class, "--profile",       profile,       "--rate",
        rate,       "--duration", seconds,       "--seed",          seed,          "--functions",
        "8",        "--owners",   "8",           "--isolation",     "owner",       "--devices",
        "1",        "--memory",   t->budget,     "--prompt-tokens", PROMPT_TOKENS, "--new-tokens",
        NEW_TOKENS, NULL};
    int r = bench_self(argv, &figures, err);
    for (size_t k = 0; r == 0 && k < TRUTH_COUNT; k++)
        ret[k] = number(figures, TRUTH_KEYS[k]);
    json_decref(figures);
    return r;
}

/* One trace on the live system and in the simulator. The machine is not the same from one minute to
 * the next: simulated is the mean of what it was before and after. */
static int compare(struct truth *t, double *ret_ratios, struct error *err)
{
    const char *flags[] = {"--memory", t->budget, "--no-prefix-cache", NULL};
    double before[TRUTH_COUNT], after[TRUTH_COUNT];
    json_t *live = NULL;
    fprintf(stderr, "bench truth: %s, %.3g requests a second for %.0f s\n", t->load.class,
            t->load.rate, t->load.seconds);
    int r = run(t->o, flags, &t->load, &live, err);
    if (r == 0)
        r = simulate(t, t->profiles[0], before, err);
    if (r == 0 && t->o->profile == NULL)
        r = calibrate(t->o, t->profiles[1], err);
    if (r == 0)
        r = simulate(t, t->profiles[1], after, err);
    for (size_t k = 0; r == 0 && k < TRUTH_COUNT; k++) {
        double seen = number(live, TRUTH_KEYS[k]), simulated = (before[k] + after[k]) / 2;
        ret_ratios[k] = simulated / seen;
        bench_report(t->o,
                     json_pack("{s:s, s:s, s:i, s:o, s:o, s:o}", "bench", "truth", "figure",
                               TRUTH_KEYS[k], "seed", (int)t->load.seed, "value",
                               real(ret_ratios[k]), "live", real(seen), "sim", real(simulated)));
    }
    json_decref(live);
    return r;
}

/* The next run begins with what the machine is after this one. */
static void swap_profiles(struct truth *t)
{
    char before[PATH_MAX];
    memcpy(before, t->profiles[0], sizeof before);
    memcpy(t->profiles[0], t->profiles[1], sizeof before);
    memcpy(t->profiles[1], before, sizeof before);
}

int bench_truth(const struct bench_options *options, struct error *err)
{
    struct bench_options own = *options, *o = &own;
    double ratios[TRUTH_COUNT][ROUNDS_MAX], one[TRUTH_COUNT], bytes;
    uint32_t runs = o->runs > 0 && o->runs < ROUNDS_MAX ? o->runs : 3;
    own.data = DATA;
    struct truth t = {
        .o = o,
        .load = {"normal", o->rate > 0 ? o->rate : 1, o->seconds > 0 ? o->seconds : 120, 1}};
    for (int i = 0; i < 2; i++)
        if (o->profile != NULL)
            snprintf(t.profiles[i], sizeof t.profiles[i], "%s", o->profile);
        else
            snprintf(t.profiles[i], sizeof t.profiles[i], "%s/truth-%d.json", o->dir, i);
    int r = prepare(o, &bytes, err);
    snprintf(t.budget, sizeof t.budget, "%.0f", fmax(BUDGET * bytes, BUDGET_BYTES_MIN));
    if (r == 0 && o->profile == NULL)
        r = calibrate(o, t.profiles[0], err);
    for (; r == 0 && t.load.seed <= runs; t.load.seed++) {
        r = compare(&t, one, err);
        for (size_t k = 0; r == 0 && k < TRUTH_COUNT; k++)
            ratios[k][t.load.seed - 1] = one[k];
        swap_profiles(&t);
    }
    for (size_t k = 0; r == 0 && k < TRUTH_COUNT; k++)
        bench_report(o, json_pack("{s:s, s:s, s:i, s:o, s:f}", "bench", "truth", "figure",
                                  TRUTH_KEYS[k], "runs", (int)runs, "value",
                                  real(bench_median(ratios[k], runs)), "within", TRUTH_WITHIN));
    return r;
}
