/* The loop, requests and results. See world.h and world_state.h. */
#include "sim/world_state.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* With requests and nothing happening to them for so long, the policy has forgotten them. */
#define STUCK_US (UINT64_C(24) * 3600 * 1000000)

/* --- time, memory --- */

void world_at(struct world *w, uint64_t at_us, enum world_kind kind, uint32_t index,
              uint32_t detail, uint32_t life)
{
    int r =
        heap_put(&w->heap,
                 (struct heap_event){
                     .at_us = at_us, .kind = kind, .index = index, .detail = detail, .life = life});
    if (r < 0)
        w->failed = r;
}

static void place_advance(struct world_place *p, uint64_t now_us)
{
    p->byte_us += (double)p->used * (double)(now_us - p->at_us);
    p->at_us = now_us;
}

void world_charge(struct world *w, uint32_t place, uint64_t bytes)
{
    struct world_place *p = &w->places[place];
    place_advance(p, w->now_us);
    assert(bytes <= p->budget - p->used);
    p->used += bytes;
}

void world_release(struct world *w, uint32_t place, uint64_t bytes)
{
    struct world_place *p = &w->places[place];
    place_advance(p, w->now_us);
    assert(bytes <= p->used);
    p->used -= bytes;
}

/* --- requests --- */

struct world_request *world_request_of(struct world *w, uint64_t id)
{
    struct world_request *r = &w->requests[(uint32_t)id - 1];
    assert(r->id == id);
    return r;
}

static int grow_requests(struct world *w)
{
    uint32_t count = w->request_count > 0 ? 2 * w->request_count : 1024;
    struct world_request *all = realloc(w->requests, count * sizeof *all);
    if (all == NULL)
        return -ENOMEM;
    for (uint32_t i = w->request_count; i < count; i++)
        all[i] = (struct world_request){.id = i + 1, .next = i + 1 < count ? i + 1 : SCHED_NONE};
    w->request_free = w->request_count;
    w->requests = all;
    w->request_count = count;
    return 0;
}

static void arrive(struct world *w)
{
    const struct trace_request *t = &w->o->trace->requests[w->next];
    if (w->request_free == SCHED_NONE && grow_requests(w) < 0) {
        w->failed = -ENOMEM;
        return;
    }
    uint32_t slot = w->request_free;
    struct world_request *r = &w->requests[slot];
    w->request_free = r->next;
    *r = (struct world_request){.id = r->id + (UINT64_C(1) << 32),
                                .arrived_us = w->now_us,
                                .index = w->next++,
                                .prompt = t->prompt_tokens > 0 ? t->prompt_tokens : 1,
                                .new_tokens = t->new_tokens > 0 ? t->new_tokens : 1,
                                .worker = SCHED_NONE};
    r->context = r->prompt_left = r->prompt;
    r->left = r->new_tokens;
    w->live++;
    world_apply(w, (struct sched_event){.type = SCHED_REQUEST,
                                        .request = r->id,
                                        .function = t->function,
                                        .tokens = r->prompt,
                                        .more_tokens = w->new_tokens_max});
}

static void take_receipt(struct world *w, const struct sched_action *a, bool is_cut,
                         struct world_sample *m)
{
    const struct sched_receipt *t = &a->receipt;
    struct world_totals *s = &w->totals;
    const struct world_function *f = &w->o->functions[a->function];
    double more_ms = (double)w->profile->request_us / 1e3;
    bool is_whole = t->completed && !is_cut;
    m->outcome = is_whole ? WORLD_COMPLETED : WORLD_FAILED;
    m->was_cold = t->load_us + t->start_us + t->bind_us > 0;
    m->ttft_ms = (float)((double)t->first_us / 1e3 + more_ms);
    m->e2e_ms = (float)((double)t->total_us / 1e3 + more_ms);
    m->met = t->first_us > 0 && t->first_us + w->profile->request_us <= f->slo_ttft_us;
    m->new_tokens = t->new_tokens;
    const uint64_t waits[WORLD_WAITS] = {t->load_us, t->start_us, t->bind_us, t->queue_us};
    for (int i = 0; i < WORLD_WAITS; i++)
        m->wait_ms[i] = (float)((double)waits[i] / 1e3);
    s->own_byte_s += t->own_byte_s;
    s->backbone_byte_s += t->backbone_byte_s;
    s->completed += is_whole;
    s->failed += !is_whole;
    s->cold += is_whole && m->was_cold;
    s->met += is_whole && m->met;
    if (!is_whole)
        return;
    s->tokens_new += t->new_tokens;
    s->ttft_ms_sum += (double)m->ttft_ms;
    w->last_us = w->now_us;
}

/* It is over for the policy: RECEIPT or REFUSE. */
static void answer(struct world *w, const struct sched_action *a)
{
    struct world_request *r = world_request_of(w, a->request);
    struct world_sample m = {.function = a->function, .outcome = WORLD_REFUSED};
    assert(w->live > 0);
    if (a->type == SCHED_RECEIPT)
        take_receipt(w, a, r->is_cut, &m);
    else
        w->totals.refused++;
    if (w->samples != NULL)
        w->samples[r->index] = m;
    r->next = w->request_free;
    w->request_free = (uint32_t)(r - w->requests);
    w->live--;
}

/* --- the policy --- */

static void execute(struct world *w, const struct sched_action *a)
{
    switch (a->type) {
    case SCHED_LOAD:
        world_load(w, a);
        break;
    case SCHED_DROP:
        world_drop(w, a->copy);
        break;
    case SCHED_SPAWN:
        world_spawn(w, a);
        break;
    case SCHED_REFUSE:
    case SCHED_RECEIPT:
        answer(w, a);
        break;
    case SCHED_IDLE_BILL:
        w->totals.idle_byte_s += a->byte_s;
        break;
    case SCHED_FORGET:
        break;
    case SCHED_ARM_TIMER:
        w->timer_us = a->us;
        break;
    default:
        world_worker_act(w, a);
    }
}

void world_apply(struct world *w, struct sched_event e)
{
    e.now_us = w->now_us;
    w->totals.events++;
    w->policy.apply(w->policy.state, &e);
    if (w->o->checks && w->policy.check != NULL)
        w->policy.check(w->policy.state);
}

static void plan(struct world *w)
{
    struct sched_action actions[WORLD_ACTIONS];
    bool more;
    do {
        uint32_t n = w->policy.plan(w->policy.state, w->now_us, actions, WORLD_ACTIONS, &more);
        w->totals.actions += n;
        for (uint32_t i = 0; i < n; i++)
            execute(w, &actions[i]);
        if (w->o->checks && w->policy.check != NULL)
            w->policy.check(w->policy.state);
    } while (more);
}

static void core_apply(void *state, const struct sched_event *e)
{
    sched_apply(state, e);
}

static uint32_t core_plan(void *state, uint64_t now_us, struct sched_action *actions, uint32_t max,
                          bool *ret_more)
{
    return sched_plan(state, now_us, actions, max, ret_more);
}

static void core_check(const void *state)
{
    sched_check(state);
}

/* --- beginning --- */

struct sched_config world_config(const struct profile *p, uint32_t devices, uint32_t function_count)
{
    uint32_t workers = 16 * devices + 64, copies = 64 * devices + 4 * function_count + 256;
    return (struct sched_config){
        .workers_max = workers < 1u << 16 ? workers : 1u << 16,
        .copies_max = copies < 1u << 20 ? copies : 1u << 20,
        .requests_max = 1u << 16,
        .function_waiting_max = 1u << 12,
        .owner_live_max = 1u << 16,
        .domain_workers_max = devices,
        .worker_running_max = p->is_gpu ? 256 : 128,
        .worker_slots_max = SCHED_SLOTS_MAX,
        .spawn_attempts_max = 3,
        .step_rows_max = p->step_rows,
        .batching = SCHED_BATCH_ADAPTIVE,
        .keep_alive_us = SCHED_KEEP_ALIVE_AUTO,
        .turn_us = 20000,
        .plan_period_us = 1000000,
        .batch_window_us = 100000,
        .slo_ttft_us = 2500000,
        .slo_tpot_us = 200000,
        .kv_step_bytes = p->kv_step_bytes,
        .kv_worker_bytes_max = p->device_bytes,
        .price_bytes = 1e12,
    };
}

struct sched_config world_sched_config(const struct world_options *o)
{
    struct sched_config c = o->sched;
    uint32_t owners = 1;
    for (uint32_t i = 0; i < o->function_count; i++)
        owners = o->functions[i].owner >= owners ? o->functions[i].owner + 1 : owners;
    c.devices_max = o->devices;
    c.nodes_max = (o->devices + o->profile->node_devices - 1) / o->profile->node_devices;
    c.functions_max = o->function_count;
    c.backbones_max = o->profile->backbone_count;
    c.owners_max = owners;
    return c;
}

uint64_t world_device_bytes(const struct world_options *o)
{
    return o->device_bytes > 0 ? o->device_bytes : o->profile->device_bytes;
}

static int check_options(const struct world_options *o, struct error *err)
{
    uint64_t memory = world_device_bytes(o), step = o->sched.kv_step_bytes;
    if (o->devices == 0 || o->function_count == 0)
        return error_set(err, -EINVAL, "a world has at least one device and one function");
    for (uint32_t i = 0; i < o->function_count; i++) {
        const struct world_function *f = &o->functions[i];
        if (f->backbone >= o->profile->backbone_count)
            return error_set(err, -EINVAL, "function %u is on backbone %u; the profile has %u", i,
                             f->backbone, o->profile->backbone_count);
        uint64_t least = o->profile->backbones[f->backbone].bytes +
                         o->profile->backbones[f->backbone].work_bytes + f->adapter_bytes +
                         o->worker_bytes + step;
        if (least > memory)
            return error_set(err, -EINVAL,
                             "%s with a process takes %.3g GB, a device has %.3g: give it more "
                             "(--memory)",
                             o->profile->backbones[f->backbone].name, (double)least / 1e9,
                             (double)memory / 1e9);
    }
    if (o->sched.kv_worker_bytes_max < step)
        return error_set(
            err, -EINVAL,
            "a process has KV memory by %.4g bytes at a time: of at most %.4g (--kv) it "
            "has none",
            (double)step, (double)o->sched.kv_worker_bytes_max);
    if (o->trace->functions > o->function_count)
        return error_set(err, -EINVAL, "the trace is of %u functions, the world has %u",
                         o->trace->functions, o->function_count);
    return 0;
}

static int open_policy(struct world *w, struct error *err)
{
    if (w->o->policy != NULL) {
        w->policy = *w->o->policy;
        return 0;
    }
    size_t bytes = sched_bytes(&w->config);
    if (bytes == 0)
        return error_set(err, -EINVAL, "the scheduler has no configuration of this size");
    w->core = aligned_alloc(16, bytes);
    if (w->core == NULL)
        return error_set(err, -ENOMEM, "out of memory: the scheduler's tables take %zu bytes",
                         bytes);
    w->policy = (struct world_policy){.state = sched_init(w->core, &w->config),
                                      .apply = core_apply,
                                      .plan = core_plan,
                                      .check = core_check};
    return 0;
}

static int open_tables(struct world *w, struct error *err)
{
    const struct sched_config *c = &w->config;
    uint32_t places = c->devices_max + c->nodes_max;
    w->workers = calloc(c->workers_max, sizeof *w->workers);
    w->copies = calloc(c->copies_max, sizeof *w->copies);
    w->places = calloc(places, sizeof *w->places);
    w->links = calloc(places, sizeof *w->links);
    if (!w->o->keeps_no_samples)
        w->samples = calloc(w->o->trace->count + 1, sizeof *w->samples);
    if (w->workers == NULL || w->copies == NULL || w->places == NULL || w->links == NULL ||
        (w->samples == NULL && !w->o->keeps_no_samples))
        return error_set(err, -ENOMEM, "out of memory");
    double factor = w->o->load_factor > 0 ? w->o->load_factor : 1;
    for (uint32_t i = 0; i < places; i++) {
        bool is_device = i < c->devices_max;
        w->places[i] = (struct world_place){.budget = is_device ? world_device_bytes(w->o)
                                                                : w->profile->host_bytes,
                                            .at_us = WORLD_BEGIN_US,
                                            .turn_worker = SCHED_NONE};
        w->links[i] = (struct world_link){
            .us_byte = factor * (is_device ? w->profile->link_us_byte : w->profile->disk_us_byte),
            .at_us = WORLD_BEGIN_US,
            .head = SCHED_NONE};
    }
    return 0;
}

static void tell_machine(struct world *w)
{
    const struct profile *p = w->profile;
    for (uint32_t n = 0; n < w->config.nodes_max; n++)
        world_apply(w, (struct sched_event){.type = SCHED_NODE, .node = n, .bytes = p->host_bytes});
    for (uint32_t d = 0; d < w->config.devices_max; d++)
        world_apply(w, (struct sched_event){.type = SCHED_DEVICE,
                                            .device = d,
                                            .node = d / p->node_devices,
                                            .bytes = w->places[d].budget,
                                            .more_bytes = w->o->worker_bytes,
                                            .us = w->o->spawn_us});
    for (uint32_t b = 0; b < p->backbone_count; b++) {
        const struct profile_backbone *m = &p->backbones[b];
        const struct profile_step *s = &m->steps[w->o->engine];
        struct cost_step step = s->linear;
        const double disk = w->links[w->config.devices_max].us_byte, link = w->links[0].us_byte;
        step.step_us += s->lora_us;
        world_apply(
            w, (struct sched_event){.type = SCHED_BACKBONE,
                                    .backbone = b,
                                    .bytes = m->bytes,
                                    .more_bytes = m->kv_token_bytes,
                                    .work_bytes = m->work_bytes,
                                    .step = step,
                                    .us = (uint64_t)((double)m->bytes * disk) + p->load_us,
                                    .more_us = (uint64_t)((double)m->bytes * link) + p->load_us});
    }
    for (uint32_t f = 0; f < w->o->function_count; f++) {
        const struct world_function *g = &w->o->functions[f];
        world_apply(w, (struct sched_event){.type = SCHED_DEPLOYED,
                                            .function = f,
                                            .backbone = g->backbone,
                                            .owner = g->owner,
                                            .isolation = g->isolation,
                                            .bytes = g->adapter_bytes,
                                            .us = g->is_refused_late ? g->slo_ttft_us : 0,
                                            .more_us = g->slo_tpot_us});
    }
}

static void arm_loss(struct world *w)
{
    double mean_us = w->o->faults.worker_loss_s * 1e6;
    if (mean_us > 0) /* uniform from 0 to twice the mean: without a library's logarithm */
        world_at(w, w->now_us + 1 + (uint64_t)(2 * mean_us * rng_unit(&w->rng)), WORLD_LOSS, 0, 0,
                 0);
}

/* --- running --- */

static uint32_t life_of(const struct world *w, const struct heap_event *e)
{
    if (e->kind == WORLD_LINK || e->kind == WORLD_LOSS)
        return e->life;
    if (e->kind == WORLD_LOADED || e->kind == WORLD_DROPPED)
        return w->copies[e->index].life;
    return w->workers[e->index].alive ? w->workers[e->index].life : e->life + 1;
}

static void happen(struct world *w, const struct heap_event *e)
{
    if (life_of(w, e) != e->life)
        return;
    switch ((enum world_kind)e->kind) {
    case WORLD_READY:
        world_ready_event(w, e->index);
        break;
    case WORLD_BOUND:
        world_bound_event(w, e->index, e->detail);
        break;
    case WORLD_EXITED:
        world_exited_event(w, e->index);
        break;
    case WORLD_RESIZED:
        world_resized_event(w, e->index);
        break;
    case WORLD_SEGMENT:
        world_segment_event(w, e->index, e->detail);
        break;
    case WORLD_LINK:
        world_link_event(w, e->index, e->detail);
        break;
    case WORLD_LOADED:
        world_loaded_event(w, e->index);
        break;
    case WORLD_DROPPED:
        world_dropped_event(w, e->index);
        break;
    case WORLD_LOSS:
        world_loss_event(w);
        arm_loss(w);
        break;
    }
}

/* Device and host memory that passed until then. */
static void measure_memory(struct world *w, uint64_t at_us, double *ret_device, double *ret_host)
{
    *ret_device = *ret_host = 0;
    for (uint32_t i = 0; i < w->config.devices_max + w->config.nodes_max; i++) {
        struct world_place *p = &w->places[i];
        if (at_us > p->at_us)
            place_advance(p, at_us);
        *(i < w->config.devices_max ? ret_device : ret_host) += p->byte_us / 1e6;
    }
}

/* What passes before the trace is nobody's affair: what is billed begins here. */
static void begin_trace(struct world *w)
{
    struct world_totals *s = &w->totals;
    if (w->has_begun)
        return;
    w->has_begun = true;
    measure_memory(w, w->now_us, &w->device_before, &w->host_before);
    s->idle_byte_s = 0;
}

/* One moment: what is due first. 1, 0 at the end, -errno. */
static int step(struct world *w, struct error *err)
{
    const struct trace *t = w->o->trace;
    uint64_t begin_us = WORLD_BEGIN_US + w->o->lead_us;
    uint64_t event_us = heap_next_us(&w->heap);
    uint64_t arrival_us = w->next < t->count ? begin_us + t->requests[w->next].at_us : UINT64_MAX;
    uint64_t at_us = event_us < arrival_us ? event_us : arrival_us;
    at_us = w->timer_us < at_us ? w->timer_us : at_us;
    if (w->next == t->count && w->live == 0 && at_us > w->end_us)
        return 0;
    if (w->live > 0 &&
        (at_us == UINT64_MAX || (w->next == t->count && at_us > w->end_us + STUCK_US)))
        return error_set(err, -EDEADLK, "%u requests wait and nothing happens to them", w->live);
    w->now_us = at_us > w->now_us ? at_us : w->now_us;
    if (at_us == event_us) {
        struct heap_event e = heap_take(&w->heap);
        happen(w, &e);
    } else if (at_us == arrival_us) {
        begin_trace(w);
        arrive(w);
    } else {
        w->timer_us = UINT64_MAX;
        world_apply(w, (struct sched_event){.type = SCHED_TICK});
    }
    plan(w);
    return w->failed < 0 ? error_set(err, w->failed, "out of memory") : 1;
}

static void close_totals(struct world *w)
{
    struct world_totals *s = &w->totals;
    uint64_t end_us = w->last_us > w->end_us ? w->last_us : w->end_us;
    begin_trace(w); /* of no requests */
    s->requests = w->o->trace->count;
    s->span_s = (double)(end_us - WORLD_BEGIN_US - w->o->lead_us) / 1e6;
    measure_memory(w, end_us, &s->device_byte_s, &s->host_byte_s);
    s->device_byte_s -= w->device_before;
    s->host_byte_s -= w->host_before;
    s->active_byte_s = s->own_byte_s + s->backbone_byte_s;
    s->platform_byte_s = s->device_byte_s - s->active_byte_s - s->idle_byte_s;
    s->device_s = (double)w->device_us / 1e6;
    s->batch_mean = w->decode_steps > 0 ? w->decode_sequences / w->decode_steps : 0;
}

static int run(struct world *w, struct error *err)
{
    w->config = world_sched_config(w->o);
    int r = open_policy(w, err);
    if (r == 0)
        r = open_tables(w, err);
    if (r < 0)
        return r;
    rng_seed(&w->rng, w->o->faults.seed);
    w->now_us = WORLD_BEGIN_US;
    w->timer_us = UINT64_MAX;
    w->request_free = SCHED_NONE;
    w->end_us = WORLD_BEGIN_US + w->o->lead_us + w->o->trace->span_us;
    for (size_t i = 0; i < w->o->trace->count; i++)
        if (w->o->trace->requests[i].new_tokens > w->new_tokens_max)
            w->new_tokens_max = w->o->trace->requests[i].new_tokens;
    tell_machine(w);
    arm_loss(w);
    plan(w);
    while ((r = step(w, err)) > 0)
        ;
    if (r == 0)
        close_totals(w);
    return r;
}

int world_run(const struct world_options *o, struct world_result *ret, struct error *err)
{
    int r = check_options(o, err);
    if (r < 0)
        return r;
    struct world *w = calloc(1, sizeof *w);
    if (w == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    w->o = o;
    w->profile = o->profile;
    r = run(w, err);
    if (r == 0) {
        *ret = (struct world_result){w->totals, w->samples, o->trace->count};
        w->samples = NULL;
    }
    heap_free(&w->heap);
    free(w->core);
    free(w->workers);
    free(w->copies);
    free(w->places);
    free(w->links);
    free(w->requests);
    free(w->samples);
    free(w);
    return r;
}

void world_result_free(struct world_result *r)
{
    free(r->samples);
    *r = (struct world_result){0};
}
