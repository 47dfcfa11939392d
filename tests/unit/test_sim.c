/* The simulated world by hand: what the constants of a profile foretell is what comes out, nothing
 * is lost or counted twice, each system's file does what it says, and figures are what they are
 * called. */
#include "unit/seeded.h"

#include "sim/capacity.h"
#include "sim/trace_generate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define S UINT64_C(1000000)
/* Round numbers: a disk of 1 GB/s, a link of 10, a backbone of 2 GB, steps of 10 ms. */
static struct profile profile(void)
{
    return (struct profile){
        .name = "test",
        .device_bytes = 10000000000,
        .worker_bytes = 100000000,
        .node_devices = 2,
        .host_bytes = 50000000000,
        .kv_step_bytes = 100000000,
        .step_rows = 1000,
        .disk_us_byte = 1e-3,
        .link_us_byte = 1e-4,
        .load_us = 10000,
        .container_us = S,
        .library_us = S / 2,
        .context_us = 20000,
        .kernels_us = 200000,
        .module_us = 3000,
        .fork_us = 5000,
        .bind_us = 2000,
        .attach_us = 40000,
        .end_us = 4000,
        .turn_us = 1000,
        .request_us = 500,
        .adapter_bytes = 10000000,
        .always_on_usd_hour = 2,
        .vcpus = 8,
        .is_gpu = 1,
        .backbone_count = 1,
        .backbones[0] = {.name = "b",
                         .bytes = 2000000000,
                         .kv_token_bytes = 100000,
                         .work_bytes = 50000000,
                         .steps = {{{10000, 100, 1000}, 10, 500}, {{20000, 200, 2000}, 10, 0}}},
    };
}

static bool is_near(double a, double b, double part)
{
    return fabs(a - b) <= part * fmax(fabs(a), fabs(b));
}

/* --- a world of one function --- */

#define PROMPT 50u
#define ANSWER 11u
#define FIRST_MS (1 + 10 + 0.1 * PROMPT + 0.5) /* a turn begins, a step with its prompt */
/* Ten steps of one row, over PROMPT tokens, one more each time. */
#define DECODE_MS (10 * (10 + 1 + 0.5) + 0.01 * (10 * PROMPT + 45))

struct scene {
    struct profile profile;
    struct world_function functions[8];
    struct trace_request requests[64];
    struct trace trace;
    struct world_options options;
    struct world_result result;
};

static void scene_begin(struct scene *c, uint32_t functions, uint32_t devices)
{
    *c = (struct scene){.profile = profile()};
    for (uint32_t i = 0; i < functions; i++)
        c->functions[i] =
            (struct world_function){.owner = i, .isolation = ROUTE_FUNCTION, .slo_ttft_us = 500000};
    c->trace = (struct trace){.requests = c->requests, .functions = functions, .span_us = 20 * S};
    c->options = (struct world_options){.profile = &c->profile,
                                        .sched = world_config(&c->profile, devices, functions),
                                        .devices = devices,
                                        .functions = c->functions,
                                        .function_count = functions,
                                        .worker_bytes = c->profile.worker_bytes,
                                        .spawn_us = 28000,
                                        .bind_us = c->profile.bind_us,
                                        .trace = &c->trace,
                                        .checks = true};
    c->options.sched.no_preload = 1;
    c->options.sched.keep_alive_us = 60 * S;
}

static void ask(struct scene *c, uint64_t at_us, uint32_t function, uint32_t prompt,
                uint32_t answer)
{
    assert_true(c->trace.count < 64);
    c->requests[c->trace.count++] = (struct trace_request){at_us, function, prompt, answer};
}

static const struct world_totals *scene_run(struct scene *c)
{
    struct error err = {0};
    if (world_run(&c->options, &c->result, &err) < 0)
        fail_msg("%s", err.text);
    return &c->result.totals;
}

static void scene_end(struct scene *c)
{
    world_result_free(&c->result);
}

static void is_ms(double is, double foretold)
{
    if (fabs(is - foretold) > 0.01)
        fail_msg("%.3f ms, foretold were %.3f", is, foretold);
}

static void test_cold_and_warm(void **state)
{
    (void)state;
    struct scene c;
    scene_begin(&c, 1, 1);
    ask(&c, 0, 0, PROMPT, ANSWER);
    ask(&c, 5 * S, 0, PROMPT, ANSWER);
    const struct world_totals *t = scene_run(&c);
    const struct world_sample *cold = &c.result.samples[0], *warm = &c.result.samples[1];
    assert_int_equal(t->completed, 2);
    assert_int_equal(t->cold, 1);
    assert_int_equal(t->met, 1);
    /* 2 GB from the disk, a process, a bind; then as a warm one */
    is_ms((double)cold->ttft_ms, 2000 + 10 + 28 + 2 + FIRST_MS + 0.5);
    is_ms((double)cold->wait_ms[WORLD_WAIT_LOAD], 2010);
    is_ms((double)cold->wait_ms[WORLD_WAIT_START], 28);
    is_ms((double)cold->wait_ms[WORLD_WAIT_BIND], 2);
    is_ms((double)warm->ttft_ms, FIRST_MS + 0.5);
    is_ms((double)warm->e2e_ms, FIRST_MS + DECODE_MS + 0.5);
    assert_true(cold->was_cold && !cold->met && !warm->was_cold && warm->met);
    is_ms(1e3 * t->device_s, 2 * (FIRST_MS - 1 + DECODE_MS));
    assert_int_equal(t->tokens_new, 2 * ANSWER);
    scene_end(&c);
}

/* The second asks when the first backbone is half there: two loads share the disk from then on, or
 * one backbone is shared. */
static void test_shared_or_private(void **state)
{
    (void)state;
    for (int is_private = 0; is_private < 2; is_private++) {
        struct scene c;
        scene_begin(&c, 2, 1);
        c.options.sched.no_sharing = (uint32_t)is_private;
        ask(&c, 0, 0, PROMPT, 1);
        ask(&c, S, 1, PROMPT, 1);
        const struct world_totals *t = scene_run(&c);
        is_ms((double)c.result.samples[0].wait_ms[WORLD_WAIT_LOAD], is_private ? 3010 : 2010);
        is_ms((double)c.result.samples[1].wait_ms[WORLD_WAIT_LOAD], is_private ? 3010 : 1010);
        double backbones = (is_private ? 2 : 1) * 2e9;
        assert_true(t->device_byte_s > 15 * backbones &&
                    t->device_byte_s < 20.1 * (backbones + 1e9));
        scene_end(&c);
    }
}

/* What is asked for together is computed together. */
static void test_batch(void **state)
{
    (void)state;
    struct scene c;
    scene_begin(&c, 1, 1);
    for (int i = 0; i < 4; i++)
        ask(&c, 0, 0, PROMPT, ANSWER);
    const struct world_totals *t = scene_run(&c);
    assert_int_equal(t->batch_peak, 4);
    is_ms(t->batch_mean, 4);
    for (int i = 0; i < 4; i++)
        is_ms((double)c.result.samples[i].ttft_ms, 2040.5 + 1 + 10 + 4 * 0.1 * PROMPT + 0.5);
    is_ms(1e3 * t->device_s, 10.5 + 20 + 10 * (10 + 4 + 0.5) + 4 * 0.01 * (10 * PROMPT + 45));
    scene_end(&c);
}

/* A static batch is padded to its longest prompt and whole with its longest answer. */
static void test_static_batch(void **state)
{
    (void)state;
    struct scene c;
    scene_begin(&c, 1, 1);
    c.options.batch = WORLD_STATIC;
    c.options.sched.batching = SCHED_BATCH_STATIC;
    c.options.sched.batch_fixed = 2;
    ask(&c, 0, 0, 20, 3);
    ask(&c, 0, 0, 50, 11);
    const struct world_totals *t = scene_run(&c);
    const struct world_sample *m = c.result.samples;
    assert_int_equal(t->completed, 2);
    is_ms((double)m[0].e2e_ms, (double)m[1].e2e_ms);
    is_ms((double)m[0].ttft_ms, (double)m[1].ttft_ms);
    assert_int_equal(t->tokens_new, 14);
    is_ms(1e3 * t->device_s,
          10.5 + 0.1 * 2 * 50 + 10 * (10 + 2 + 0.5) + 0.01 * (10 * (20 + 50) + 2 * 45));
    scene_end(&c);
}

/* Answers that the granted memory does not hold: the latest gives way, nobody is lost. */
static void test_short_of_memory(void **state)
{
    (void)state;
    struct scene c;
    scene_begin(&c, 1, 1);
    c.options.sched.kv_worker_bytes_max = 100000000; /* 1,000 tokens */
    for (int i = 0; i < 4; i++)
        ask(&c, 0, 0, 200, 400);
    ask(&c, 0, 0, 600, 700); /* never fits */
    const struct world_totals *t = scene_run(&c);
    assert_int_equal(t->completed, 4);
    assert_int_equal(t->failed, 1);
    assert_int_equal(c.result.samples[4].outcome, WORLD_FAILED);
    scene_end(&c);
}

/* A failed load is tried again; a dead process fails what it ran and is started again. */
static void test_faults(void **state)
{
    (void)state;
    struct scene c;
    scene_begin(&c, 2, 2);
    c.options.faults = (struct world_faults){.seed = 3, .worker_loss_s = 2, .load_failures = 0.3};
    for (uint32_t i = 0; i < 40; i++)
        ask(&c, i * S / 2, i % 2, PROMPT, ANSWER);
    const struct world_totals *t = scene_run(&c);
    assert_int_equal(t->completed + t->refused + t->failed, 40);
    assert_true(t->completed > 10 && t->cold > 1);
    scene_end(&c);
}

static void test_refused_options(void **state)
{
    (void)state;
    struct scene c;
    struct error err = {0};
    scene_begin(&c, 1, 1);
    ask(&c, 0, 0, PROMPT, 1);
    c.functions[0].backbone = 1;
    assert_true(world_run(&c.options, &c.result, &err) < 0);
    assert_non_null(strstr(err.text, "function 0 is on backbone 1; the profile has 1"));
    c.functions[0].backbone = 0;
    c.options.device_bytes = 2000000000;
    assert_true(world_run(&c.options, &c.result, &err) < 0);
    assert_non_null(strstr(err.text, "--memory"));
    c.options.device_bytes = 0;
    c.options.sched.kv_worker_bytes_max = 99999999;
    assert_true(world_run(&c.options, &c.result, &err) < 0);
    assert_non_null(strstr(err.text, "--kv"));
    c.options.sched.kv_worker_bytes_max = 100000000;
    c.trace.functions = 2;
    assert_true(world_run(&c.options, &c.result, &err) < 0);
    assert_non_null(strstr(err.text, "the trace is of 2 functions, the world has 1"));
    c.options.devices = 0;
    assert_true(world_run(&c.options, &c.result, &err) < 0);
    assert_non_null(strstr(err.text, "at least one device"));
}

/* --- drawn worlds --- */

/* The core, with its actions counted. */
struct counted {
    struct sched *core;
    void *memory;
    uint64_t receipts, refusals, device_us;
    uint32_t device_loads; /* of backbones */
    uint32_t devices_max;
};

static void counted_apply(void *state, const struct sched_event *e)
{
    sched_apply(((struct counted *)state)->core, e);
}

static uint32_t counted_plan(void *state, uint64_t now_us, struct sched_action *actions,
                             uint32_t max, bool *ret_more)
{
    struct counted *c = state;
    uint32_t n = sched_plan(c->core, now_us, actions, max, ret_more);
    for (uint32_t i = 0; i < n; i++) {
        const struct sched_action *a = &actions[i];
        bool is_device = a->type == SCHED_LOAD && a->place < c->devices_max;
        bool is_backbone = a->type == SCHED_LOAD && a->function == SCHED_NONE;
        c->receipts += a->type == SCHED_RECEIPT;
        c->refusals += a->type == SCHED_REFUSE;
        c->device_us += a->type == SCHED_RECEIPT ? a->receipt.device_us : 0;
        c->device_loads += is_backbone && is_device;
    }
    return n;
}

static void counted_check(const void *state)
{
    sched_check(((const struct counted *)state)->core);
}

static struct world_policy counted_open(struct counted *c, const struct world_options *o)
{
    const struct sched_config config = world_sched_config(o);
    *c = (struct counted){.devices_max = o->devices};
    c->memory = aligned_alloc(16, sched_bytes(&config));
    assert_non_null(c->memory);
    c->core = sched_init(c->memory, &config);
    return (struct world_policy){c, counted_apply, counted_plan, counted_check};
}

static struct world_options draw_options(struct seeded *s, struct scene *c, struct trace *t)
{
    uint32_t functions = 1 + seeded_pick(s, 8), devices = 1 + seeded_pick(s, 4);
    struct trace_generate_options g;
    struct error err = {0};
    scene_begin(c, functions, devices);
    trace_generate_default(&g);
    g.class = TRACE_PREDICTABLE + seeded_pick(s, 3);
    g.functions = functions;
    g.requests_per_s = 0.2 + 4 * rng_unit(&s->rng);
    g.duration_us = 60 * S;
    g.seed = s->seed;
    if (trace_generate(&g, t, &err) < 0)
        fail_msg("%s", err.text);
    struct world_options o = c->options;
    o.trace = t;
    o.batch = seeded_one_in(s, 3) ? WORLD_STATIC : WORLD_CONTINUOUS;
    o.engine = (enum profile_engine)seeded_pick(s, PROFILE_ENGINES);
    if (o.batch == WORLD_STATIC) {
        o.sched.batching = SCHED_BATCH_STATIC;
        o.sched.batch_fixed = 1 + seeded_pick(s, 8);
    }
    o.sched.no_preload = seeded_pick(s, 2);
    o.sched.no_sharing = seeded_one_in(s, 4);
    o.sched.no_offload = seeded_one_in(s, 4);
    o.sched.keep_alive_us = seeded_pick(s, 2) ? SCHED_KEEP_ALIVE_AUTO : seeded_pick(s, 20) * S;
    for (uint32_t i = 0; i < functions; i++) {
        c->functions[i].adapter_bytes = seeded_pick(s, 2) * 10000000u;
        c->functions[i].isolation = ROUTE_FUNCTION + seeded_pick(s, 3);
        c->functions[i].owner = seeded_pick(s, 3);
        c->functions[i].is_refused_late = seeded_one_in(s, 4);
    }
    if (seeded_one_in(s, 3))
        o.faults = (struct world_faults){s->seed, 10, 0.1};
    return o;
}

static void check_sums(struct seeded *s, const struct world_options *o,
                       const struct world_result *r, const struct counted *k)
{
    const struct world_totals *t = &r->totals;
    uint64_t outcomes[4] = {0}, met = 0;
    for (size_t i = 0; i < r->count; i++) {
        outcomes[r->samples[i].outcome]++;
        met += r->samples[i].outcome == WORLD_COMPLETED && r->samples[i].met;
    }
    assert_seeded(s, t->requests == o->trace->count && r->count == t->requests);
    assert_seeded(s, t->completed + t->refused + t->failed == t->requests);
    assert_seeded(s, outcomes[WORLD_OPEN] == 0 && outcomes[WORLD_COMPLETED] == t->completed);
    assert_seeded(s, outcomes[WORLD_REFUSED] == t->refused && met == t->met);
    assert_seeded(s, k->receipts == t->completed + t->failed && k->refusals == t->refused);
    assert_seeded(s, t->device_s <= o->devices * t->span_s * 1.001);
    assert_seeded(s, t->device_byte_s <= 10e9 * o->devices * t->span_s * 1.001);
    assert_seeded(s, t->platform_byte_s > -1e-6 * t->device_byte_s);
    assert_seeded(s, is_near(t->own_byte_s + t->backbone_byte_s, t->active_byte_s, 1e-9));
    /* Each moment of computing is somebody's: of a dead process's, nobody's. */
    double receipts_s = (double)k->device_us / 1e6;
    if (o->faults.worker_loss_s > 0)
        assert_seeded(s, receipts_s <= t->device_s * 1.001 + 0.001);
    else
        assert_seeded(s, is_near(receipts_s, t->device_s, 0.001) || t->device_s < 0.01);
}

static void test_drawn_worlds(void **state)
{
    (void)state;
    for (struct seeded s = seeded_cases(40); seeded_next(&s);) {
        struct scene c;
        struct trace t;
        struct counted k;
        struct world_result a, b;
        struct error err = {0};
        struct world_options o = draw_options(&s, &c, &t);
        struct world_policy policy = counted_open(&k, &o);
        o.policy = &policy;
        if (world_run(&o, &a, &err) < 0)
            fail_msg("seed %llu: %s", (unsigned long long)s.seed, err.text);
        check_sums(&s, &o, &a, &k);
        o.policy = NULL; /* the same by the world's own core, to the last bit */
        assert_seeded(&s, world_run(&o, &b, &err) == 0);
        assert_seeded(&s, memcmp(&a.totals, &b.totals, sizeof a.totals) == 0);
        for (size_t i = 0; i < a.count; i++)
            assert_seeded(&s, a.samples[i].outcome == b.samples[i].outcome &&
                                  !(a.samples[i].e2e_ms < b.samples[i].e2e_ms) &&
                                  !(a.samples[i].e2e_ms > b.samples[i].e2e_ms));
        world_result_free(&a);
        world_result_free(&b);
        free(k.memory);
        trace_free(&t);
    }
}

/* --- what each system's file says --- */

/* Three functions ask once each, at the same moment. */
static struct counted setup_run(const char *name, uint32_t devices, struct scene *c)
{
    const struct system *system = system_find(name);
    assert_non_null(system);
    scene_begin(c, 3, devices);
    for (uint32_t i = 0; i < 3; i++) {
        c->functions[i].adapter_bytes = c->profile.adapter_bytes;
        ask(c, 0, i, PROMPT, ANSWER);
    }
    c->options.sched.no_preload = 0;
    struct system_setup s = {.world = c->options, .functions = c->functions};
    const struct system_options o = {.profile = &c->profile,
                                     .trace = &c->trace,
                                     .functions = c->functions,
                                     .function_count = 3,
                                     .devices = devices};
    s.world.bind_us = c->profile.bind_us;
    system->set_up(&s, &o);
    assert_false(s.is_always_on);
    assert_int_equal(s.billing, FIGURES_SERVERLESS);
    c->options = s.world;
    struct counted k;
    struct world_policy policy = counted_open(&k, &c->options);
    c->options.policy = &policy;
    assert_int_equal(scene_run(c)->completed, 3);
    c->options.policy = NULL;
    free(k.memory);
    return k;
}

static void test_systems_serverless(void **state)
{
    (void)state;
    static const char *const names[] = {"sllora", "sllora-shared", "serverlesslora",
                                        "serverlessllm", "instainfer"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct scene c;
        bool takes_all = strcmp(names[i], "serverlessllm") == 0; /* a device each */
        struct counted k = setup_run(names[i], takes_all ? 4 : 1, &c);
        bool is_private = strstr(names[i], "llm") != NULL || strstr(names[i], "insta") != NULL;
        bool is_ours = strncmp(names[i], "sllora", 6) == 0;
        if (is_private != (c.options.sched.no_sharing == 1) ||
            is_ours != (c.options.engine == PROFILE_PAGED) ||
            is_ours != (c.options.batch == WORLD_CONTINUOUS) ||
            c.options.spawn_us != (is_ours ? 28000 : 1720000))
            fail_msg("%s: not what it models", names[i]);
        if (k.device_loads != (is_private ? 3 : 1))
            fail_msg("%s: %u loads of backbones to devices", names[i], k.device_loads);
        if (takes_all)
            assert_true(c.options.worker_bytes + 2e9 + 2e9 > 10e9);
        if (strcmp(names[i], "sllora-shared") == 0)
            assert_int_equal(c.functions[0].isolation, ROUTE_SHARED);
        scene_end(&c);
    }
}

static struct figures run_system(const char *name, struct scene *c, uint32_t devices)
{
    struct figures f;
    struct error err = {0};
    const struct system_options o = {.profile = &c->profile,
                                     .trace = &c->trace,
                                     .functions = c->functions,
                                     .function_count = c->trace.functions,
                                     .devices = devices,
                                     .checks = true};
    if (system_run(system_find(name), &o, &f, &err) < 0)
        fail_msg("%s", err.text);
    return f;
}

/* Up before the first request, for ever and whatever comes, at a price by the hour. */
static void test_systems_always_on(void **state)
{
    (void)state;
    struct scene c;
    scene_begin(&c, 2, 4);
    for (uint32_t i = 0; i < 2; i++)
        c.functions[i].adapter_bytes = c.profile.adapter_bytes;
    ask(&c, 0, 0, PROMPT, ANSWER);
    ask(&c, 10 * S, 1, PROMPT, ANSWER);
    struct figures vllm = run_system("vllm", &c, 4);
    struct figures dlora = run_system("dlora", &c, 4);
    struct figures slora = run_system("slora", &c, 4);
    is_ms(vllm.ttft_ms.max, FIRST_MS + 0.5);
    is_ms(vllm.e2e_ms.max, FIRST_MS + DECODE_MS + 0.5);
    assert_int_equal(vllm.devices, 1);
    assert_int_equal(vllm.cold, 0);
    assert_true(is_near(vllm.cost_usd, 2 * 20.0 / 3600, 0.01));
    /* An adapter of 10 MB over a link of 10 GB/s. */
    is_ms(slora.ttft_ms.max, FIRST_MS + 0.5 + 1);
    /* Merged after the prompt: a third of the weights read and written, then no low-rank products.
     */
    is_ms(dlora.ttft_ms.max, FIRST_MS + 0.5);
    is_ms(dlora.e2e_ms.max, FIRST_MS + DECODE_MS + 0.5 + 2.0 / 3 * 10 - 10 * 0.5);
}

/* What a system does not have is not passed over. */
static void test_systems_refuse(void **state)
{
    (void)state;
    struct scene c;
    struct figures f;
    scene_begin(&c, 2, 4);
    ask(&c, 0, 0, PROMPT, 1);
    const struct system_options plain = {.profile = &c.profile,
                                         .trace = &c.trace,
                                         .functions = c.functions,
                                         .function_count = 2,
                                         .devices = 4};
    struct system_options all[8];
    for (size_t i = 0; i < 8; i++)
        all[i] = plain;
    all[0].without.sharing = true;
    all[1].keep_alive_us = S;
    all[2].price_bytes = 1e12;
    all[3].isolation = ROUTE_OWNER;
    all[4].kv_bytes = 500000000;
    all[5].faults.worker_loss_s = 1;
    all[6].batch_fixed = 3;
    all[7].batch_adaptive = true;
    for (size_t i = 0; i < 8; i++) {
        struct error err = {0};
        if (system_run(&system_vllm, &all[i], &f, &err) == 0 ||
            strstr(err.text, "vllm: it is always on and has") == NULL)
            fail_msg("option %zu: \"%s\"", i, err.text);
    }
    struct error err = {0};
    assert_true(system_run(&system_instainfer, &all[7], &f, &err) < 0);
    assert_non_null(strstr(err.text, "static"));
    assert_true(system_run(&system_instainfer, &all[2], &f, &err) < 0);
    assert_non_null(strstr(err.text, "fixed keep-alive"));
    assert_null(system_find("nobody"));
}

/* --- figures --- */

static void test_figures(void **state)
{
    (void)state;
    struct scene c;
    scene_begin(&c, 1, 3);
    struct world_sample m[4] = {
        {.outcome = WORLD_COMPLETED, .new_tokens = 11, .ttft_ms = 100, .e2e_ms = 300, .met = true},
        {.outcome = WORLD_COMPLETED, .new_tokens = 1, .ttft_ms = 300, .e2e_ms = 300},
        {.outcome = WORLD_REFUSED},
        {.outcome = WORLD_FAILED, .ttft_ms = 9e6f},
    };
    m[1].was_cold = true;
    m[1].wait_ms[WORLD_WAIT_LOAD] = 50;
    const double gib = PRICE_GB_BYTES;
    struct world_result r = {.samples = m, .count = 4};
    r.totals = (struct world_totals){.requests = 4,
                                     .completed = 2,
                                     .refused = 1,
                                     .failed = 1,
                                     .met = 1,
                                     .cold = 1,
                                     .tokens_new = 12,
                                     .span_s = 3600,
                                     .active_byte_s = 1000 * gib,
                                     .idle_byte_s = 2000 * gib,
                                     .platform_byte_s = 4000 * gib,
                                     .device_byte_s = 7000 * gib,
                                     .host_byte_s = 5e9,
                                     .device_s = 100};
    struct figures f;
    assert_int_equal(figures_of(&c.options, &r, FIGURES_SERVERLESS, &f), 0);
    is_ms(f.ttft_ms.mean, 200);
    is_ms(f.ttft_ms.p50, 200);
    is_ms(f.tpot_ms.mean, 20);
    is_ms(f.e2e_ms.max, 300);
    is_ms(f.cold_ttft_ms, 300);
    is_ms(f.wait_ms[WORLD_WAIT_LOAD], 25);
    is_ms(f.slo_attainment, 0.25);
    is_ms(f.host_gb_s, 5);
    double billed = 1000 * 1.5 * 2e-5 + 2000 * 0.25 * 2e-5 + 100 * 8 * 2e-5 + 2 * 0.0075 * 2e-5;
    assert_true(is_near(f.billed_usd, billed, 1e-9));
    assert_true(is_near(f.cost_usd, billed + 4000 * 0.25 * 2e-5, 1e-9));
    assert_true(is_near(f.cost_usd_per_1k, 500 * f.cost_usd, 1e-9));
    assert_true(is_near(f.ce, 1 / (0.3 * f.cost_usd), 1e-9));
    assert_true(is_near(f.tok_s, 12.0 / 3600, 1e-9));
    assert_int_equal(figures_of(&c.options, &r, FIGURES_ALWAYS_ON, &f), 0);
    assert_true(is_near(f.cost_usd, 3 * 2, 1e-9) && f.devices == 3);
    /* Of nothing there is nothing, not a number that looks like one. */
    r = (struct world_result){.samples = m, .count = 0};
    assert_int_equal(figures_of(&c.options, &r, FIGURES_SERVERLESS, &f), 0);
    json_t *o = figures_json(&f);
    assert_true(json_is_null(json_object_get(o, "ttft_ms_mean")));
    assert_true(json_is_null(json_object_get(o, "slo_attainment")));
    json_decref(o);
}

/* Every figure of a mean is one: none is left as the first run had it. */
static void test_figures_mean(void **state)
{
    (void)state;
    struct scene c;
    struct figures both[2];
    for (int i = 0; i < 2; i++) {
        scene_begin(&c, 2, 2);
        for (uint32_t k = 0; k < 12 + 5 * (uint32_t)i; k++)
            ask(&c, k * S * (1 + (uint64_t)i), k % 2, PROMPT + 10 * (uint32_t)i,
                ANSWER + 3 * (uint32_t)i);
        for (uint32_t k = 0; k < 2; k++)
            c.functions[k].adapter_bytes = c.profile.adapter_bytes;
        both[i] = run_system("serverlesslora", &c, 2);
    }
    struct figures mean = figures_mean(both, 2);
    json_t *a = figures_json(&both[0]), *b = figures_json(&both[1]), *m = figures_json(&mean);
    const char *key;
    json_t *value;
    size_t differing = 0;
    json_object_foreach(m, key, value)
    {
        double x = json_number_value(json_object_get(a, key));
        double y = json_number_value(json_object_get(b, key)), z = json_number_value(value);
        differing += !is_near(x, y, 1e-12);
        if (json_is_integer(value) ? fabs(z - (x + y) / 2) > 0.5 : !is_near(z, (x + y) / 2, 1e-9))
            fail_msg("%s: %g and %g make %g", key, x, y, z);
    }
    assert_true(differing > 20);
    json_decref(a);
    json_decref(b);
    json_decref(m);
}

/* --- capacity --- */

static void test_capacity(void **state)
{
    (void)state;
    struct scene c;
    struct trace t;
    struct trace_generate_options g;
    struct error err = {0};
    static const uint32_t devices[] = {1, 2, 4, 8};
    struct capacity_point points[4];
    scene_begin(&c, 8, 1);
    trace_generate_default(&g);
    g.class = TRACE_NORMAL;
    g.functions = 8;
    g.requests_per_s = 25;
    g.duration_us = 60 * S;
    assert_int_equal(trace_generate(&g, &t, &err), 0);
    for (uint32_t i = 0; i < 8; i++)
        c.functions[i].is_refused_late = true;
    const struct system_options o = {
        .profile = &c.profile, .trace = &t, .functions = c.functions, .function_count = 8};
    if (capacity_run(&system_sllora, &o, devices, 4, points, &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(points[i].devices, devices[i]);
        if (i > 0 && points[i].figures.completed < points[i - 1].figures.completed)
            fail_msg("%u devices complete %llu, %u only %llu", devices[i - 1],
                     (unsigned long long)points[i - 1].figures.completed, devices[i],
                     (unsigned long long)points[i].figures.completed);
    }
    assert_true(points[0].figures.refused > points[3].figures.refused);
    trace_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cold_and_warm),
        cmocka_unit_test(test_shared_or_private),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_static_batch),
        cmocka_unit_test(test_short_of_memory),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_refused_options),
        cmocka_unit_test(test_drawn_worlds),
        cmocka_unit_test(test_systems_serverless),
        cmocka_unit_test(test_systems_always_on),
        cmocka_unit_test(test_systems_refuse),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_figures_mean),
        cmocka_unit_test(test_capacity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
