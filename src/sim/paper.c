/*
 * See paper.h. What the paper gives: functions, backbones, GPUs, hours, classes by the CoV of the
 * times between requests, objectives, prompts of GSM8K. What it does not give, and what stands in
 * its place:
 *
 * - arrival rates: 0.18 requests a second over 8 equally busy functions, with which the published
 *   system's bill comes near the paper's (row 9). CoVs within the classes: 0.7, 2 and 4.5.
 * - lengths: those of GSM8K's 1,319 test questions and answers (openai/grade-school-math), in
 *   tokens by a rule of thumb for Llama's tokenizer (a digit, a sign, a word of up to six letters):
 *   63 and 130 on average, log-normal. Answers end at 60 tokens: the paper's E2E - TTFT of 2.4 s
 *   (row 9) leaves no time for more, even on an engine with captured graphs. At the speed that
 *   others measured of one without they would be half as long, and every other system much faster
 *   beside it: so this choice is in the published system's favour.
 * - several traces of each class, drawn by the seed; figures are means over them.
 */
#include "sim/paper_parts.h"

#include "sim/trace_generate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES 16u
#define FUNCTIONS 8u
#define REQUESTS_PER_S 0.18
#define ANSWER_TOKENS_MAX 60u
#define SLO_7B_US 2500000u
#define SLO_13B_US 4000000u

#define S UINT64_C(1000000)

static const struct draw_length prompts = {.mu = 4.078, .sigma = 0.366, .min = 16, .max = 256};
static const struct draw_length answers = {
    .mu = 4.781, .sigma = 0.417, .min = 16, .max = ANSWER_TOKENS_MAX};

static const struct {
    enum trace_class class;
    double cov;
} classes[PAPER_CLASSES] = {
    {TRACE_PREDICTABLE, 0.7},
    {TRACE_NORMAL, 2.0},
    {TRACE_BURSTY, 4.5},
};

const char *const paper_class_names[PAPER_CLASSES] = {"predictable", "normal", "bursty"};
const char *const paper_ablation_names[PAPER_ABLATIONS] = {"none", "no-sharing", "no-preload",
                                                           "no-offload", "no-batching"};

/* One kind of run. */
struct experiment {
    const char *part;
    const struct system *system;
    uint32_t class; /* of classes[] */
    enum paper_ablation ablation;
    uint32_t devices, functions;
    double requests_per_s;
    uint64_t duration_us;
    bool only_7b;
    uint32_t engines;   /* of always-on systems, each backbone; 0: as few as will do */
    double price_bytes; /* 0: the system's */
};

static int make_trace(const struct paper *p, const struct experiment *e, uint32_t number,
                      struct trace *ret, struct error *err)
{
    struct trace_generate_options g;
    trace_generate_default(&g);
    g.class = classes[e->class].class;
    g.cov = classes[e->class].cov;
    g.requests_per_s = e->requests_per_s;
    g.functions = e->functions;
    g.duration_us = e->duration_us;
    g.seed = p->o->seed + number;
    g.prompt = prompts;
    g.answer = answers;
    return trace_generate(&g, ret, err);
}

static void make_functions(const struct paper *p, const struct experiment *e,
                           struct world_function *f)
{
    for (uint32_t i = 0; i < e->functions; i++) {
        bool is_7b = e->only_7b || i % 2 == 0;
        f[i] = (struct world_function){.backbone = p->backbones[!is_7b],
                                       .adapter_bytes = p->o->profile->adapter_bytes,
                                       .slo_ttft_us = is_7b ? SLO_7B_US : SLO_13B_US};
    }
}

bool paper_is_ours(const struct system *s)
{
    return strncmp(s->name, "sllora", 6) == 0;
}

static int run_one(const struct paper *p, const struct experiment *e, uint32_t number,
                   struct figures *ret, struct error *err)
{
    struct world_function functions[64];
    struct trace t;
    int r = make_trace(p, e, number, &t, err);
    if (r < 0)
        return r;
    make_functions(p, e, functions);
    const struct system_options o = {.profile = p->o->profile,
                                     .trace = &t,
                                     .functions = functions,
                                     .function_count = e->functions,
                                     .devices = e->devices,
                                     .engines = e->engines,
                                     .price_bytes = e->price_bytes > 0         ? e->price_bytes
                                                    : paper_is_ours(e->system) ? SYSTEM_GPU_HOLD
                                                                               : 0,
                                     .without = {.sharing = e->ablation == PAPER_NO_SHARING,
                                                 .preload = e->ablation == PAPER_NO_PRELOAD,
                                                 .offload = e->ablation == PAPER_NO_OFFLOAD,
                                                 .batching = e->ablation == PAPER_NO_BATCHING}};
    r = system_run(e->system, &o, ret, err);
    trace_free(&t);
    return r;
}

static void tell(const struct paper *p, const struct experiment *e, const struct figures *f)
{
    if (p->o->line == NULL)
        return;
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:f}", "part", e->part, "system",
                          e->system->name, "class", paper_class_names[e->class], "ablation",
                          paper_ablation_names[e->ablation], "devices", (int)e->devices,
                          "functions", (int)e->functions, "requests_per_s", e->requests_per_s);
    json_t *numbers = figures_json(f);
    if (o != NULL && numbers != NULL) {
        if (e->price_bytes > 0)
            json_object_set_new(o, "price_bytes", json_real(e->price_bytes));
        json_object_update(o, numbers);
        p->o->line(p->o->context, o);
    }
    json_decref(o);
    json_decref(numbers);
}

/* The mean over the traces. */
static int run(const struct paper *p, const struct experiment *e, struct figures *ret,
               struct error *err)
{
    struct figures all[PAPER_TRACES_MAX];
    uint32_t count = p->o->traces;
    for (uint32_t i = 0; i < count; i++) {
        int r = run_one(p, e, i, &all[i], err);
        if (r < 0)
            return r;
    }
    *ret = figures_mean(all, count);
    tell(p, e, ret);
    return 0;
}

/* --- the parts --- */

static struct experiment whole(const struct paper *p, const struct system *s, uint32_t class)
{
    return (struct experiment){.part = "main",
                               .system = s,
                               .class = class,
                               .devices = DEVICES,
                               .functions = FUNCTIONS,
                               .requests_per_s = REQUESTS_PER_S,
                               .duration_us = (uint64_t)(p->o->hours * 3600e6)};
}

static int run_whole(struct paper *p, struct error *err)
{
    int r = 0;
    for (size_t s = 0; s < p->system_count; s++)
        for (uint32_t c = 0; c < PAPER_CLASSES && r == 0; c++) {
            struct experiment e = whole(p, p->systems[s], c);
            r = run(p, &e, &p->whole[s][c], err);
            p->requests[c] = (size_t)p->whole[s][c].requests;
        }
    return r;
}

static int run_ablations(struct paper *p, struct error *err)
{
    int r = 0;
    for (uint32_t a = 0; a < PAPER_ABLATIONS; a++)
        for (uint32_t c = 0; c < PAPER_CLASSES; c++) {
            struct experiment e = whole(p, &system_published, c);
            e.part = "ablation";
            e.ablation = a;
            if (r == 0)
                r = run(p, &e, &p->published[a][c], err);
            e.system = &system_sllora;
            if (r == 0)
                r = run(p, &e, &p->ours[a][c], err);
        }
    return r;
}

/* Everything that the two GPUs can do: more comes than they bear. */
static int run_peak(struct paper *p, struct error *err)
{
    int r = 0;
    for (size_t s = 0; s < p->system_count && r == 0; s++) {
        struct experiment e = whole(p, p->systems[s], 0);
        e.part = "peak";
        e.devices = 2;
        e.functions = 4;
        e.only_7b = true;
        e.engines = 2;
        e.requests_per_s = 20;
        e.duration_us = p->o->hours < 1 ? (uint64_t)(p->o->hours * 100e6) : 100 * S;
        r = run(p, &e, &p->peak[s], err);
    }
    return r;
}

static void sweep_begin(struct paper_sweep *w, const struct system *const *systems, size_t count,
                        const double *x, size_t steps)
{
    w->system_count = count;
    w->step_count = steps;
    memcpy(w->systems, systems, count * sizeof systems[0]);
    memcpy(w->x, x, steps * sizeof x[0]);
}

static int sweep_run(struct paper *p, struct paper_sweep *w,
                     struct experiment *(*step)(struct experiment *e, double x),
                     const struct experiment *base, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < w->step_count; i++)
        for (size_t s = 0; s < w->system_count && r == 0; s++) {
            struct experiment e = *base;
            e.system = w->systems[s];
            r = run(p, step(&e, w->x[i]), &w->figures[s][i], err);
        }
    return r;
}

static struct experiment *step_devices(struct experiment *e, double x)
{
    e->devices = (uint32_t)x;
    return e;
}

/* As many functions as devices, and work for them in proportion. */
static struct experiment *step_all(struct experiment *e, double x)
{
    e->devices = (uint32_t)x;
    e->functions = (uint32_t)x;
    e->requests_per_s = 0.25 * x;
    return e;
}

static struct experiment *step_load(struct experiment *e, double x)
{
    e->requests_per_s = x;
    /* As many requests at any load, within limits. */
    double us = 2000e6 / x;
    us = us < 600e6 ? 600e6 : us;
    e->duration_us = us < (double)e->duration_us ? (uint64_t)us : e->duration_us;
    return e;
}

static struct experiment *step_price(struct experiment *e, double x)
{
    e->price_bytes = x;
    return e;
}

static int run_sweeps(struct paper *p, struct error *err)
{
    static const double devices[] = {2, 4, 8, 16};
    static const double loads[] = {0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4, 8};
    static const double prices[PAPER_PRICES] = {1e11, 1e12, 3e12, 1e13, SYSTEM_GPU_HOLD, 1e14};
    static const struct system *const scaled[] = {&system_published, &system_serverlessllm,
                                                  &system_sllora, &system_sllora_shared};
    static const struct system *const loaded[] = {&system_vllm, &system_published, &system_sllora,
                                                  &system_sllora_shared};
    static const struct system *const priced[] = {&system_sllora, &system_sllora_shared};
    struct experiment e = whole(p, NULL, 0);
    sweep_begin(&p->strong, scaled, 4, devices, 4);
    sweep_begin(&p->weak, scaled, 4, devices, 4);
    sweep_begin(&p->load, loaded, 4, loads, 9);
    e.part = "strong";
    e.requests_per_s = 4;
    e.duration_us = e.duration_us < 600 * S ? e.duration_us : 600 * S;
    int r = sweep_run(p, &p->strong, step_devices, &e, err);
    e.part = "weak";
    if (r == 0)
        r = sweep_run(p, &p->weak, step_all, &e, err);
    e = whole(p, NULL, 0);
    e.part = "load";
    if (r == 0)
        r = sweep_run(p, &p->load, step_load, &e, err);
    for (uint32_t c = 0; c < PAPER_CLASSES && r == 0; c++) {
        sweep_begin(&p->price[c], priced, 2, prices, PAPER_PRICES);
        e = whole(p, NULL, c);
        e.part = "price";
        r = sweep_run(p, &p->price[c], step_price, &e, err);
    }
    return r;
}

/* --- the whole --- */

static size_t index_of(const struct paper *p, const char *name)
{
    size_t s = 0;
    while (strcmp(p->systems[s]->name, name) != 0)
        s++;
    return s;
}

const struct figures *paper_whole(const struct paper *p, const char *name, uint32_t class)
{
    return &p->whole[index_of(p, name)][class];
}

const struct figures *paper_peak(const struct paper *p, const char *name)
{
    return &p->peak[index_of(p, name)];
}

static int find_backbones(struct paper *p, struct error *err)
{
    static const char *const names[2] = {"llama2-7b", "llama2-13b"};
    const struct profile *f = p->o->profile;
    for (int i = 0; i < 2; i++) {
        uint32_t b = 0;
        while (b < f->backbone_count && strcmp(f->backbones[b].name, names[i]) != 0)
            b++;
        if (b == f->backbone_count)
            return error_set(err, -EINVAL,
                             "the profile %s has no backbone %s, which the paper's set-up is of",
                             f->name, names[i]);
        p->backbones[i] = b;
    }
    return 0;
}

void paper_default(struct paper_options *o, const struct profile *profile)
{
    *o = (struct paper_options){.profile = profile, .seed = 1, .traces = 3, .hours = PAPER_HOURS};
}

int paper_run(const struct paper_options *o, struct error *err)
{
    if (o->traces == 0 || o->traces > PAPER_TRACES_MAX)
        return error_set(err, -EINVAL, "1 to %u traces of each class", PAPER_TRACES_MAX);
    if (!(o->hours >= PAPER_HOURS_MIN && o->hours <= PAPER_HOURS_MAX))
        return error_set(err, -EINVAL, "the evaluation is of %g to %g hours, not of %g",
                         PAPER_HOURS_MIN, PAPER_HOURS_MAX, o->hours);
    struct paper *p = calloc(1, sizeof *p);
    if (p == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    p->o = o;
    for (; system_at(p->system_count) != NULL; p->system_count++)
        p->systems[p->system_count] = system_at(p->system_count);
    int r = find_backbones(p, err);
    if (r == 0)
        r = run_whole(p, err);
    if (r == 0)
        r = run_ablations(p, err);
    if (r == 0)
        r = run_peak(p, err);
    if (r == 0)
        r = run_sweeps(p, err);
    if (r == 0 && o->report_dir != NULL)
        r = paper_page(p, err);
    free(p);
    return r;
}
