/*
 * The scheduler core in seeded worlds: random deployments, requests, slow and failing loads, lost
 * workers, cancellations, removals. After every event the core's own invariants are checked, and
 * the world checks from outside that every request is answered exactly once, that memory stays
 * within the budget, that a worker serves one domain and that one worker has the turn at a time.
 *
 *   SLLORA_SEED=N runs one world; SLLORA_WORLDS=N that many.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "policy/batch.h"
#include "policy/keepalive.h"
#include "policy/offload.h"
#include "policy/route.h"
#include "sched/sched.h"

#define FUNCTIONS 24u
#define BACKBONES 4u
#define WORKERS 6u
#define REQUESTS 4096u
#define PENDING 8192u

static const struct sched_config config = {
    .functions_max = FUNCTIONS,
    .backbones_max = BACKBONES,
    .workers_max = WORKERS,
    .requests_max = 64,
    .function_waiting_max = 12,
    .worker_running_max = 4,
    .worker_slots_max = 3,
    .spawn_attempts_max = 2,
    .keep_alive_us = 50000,
    .turn_us = 2000,
    .budget_bytes = 1000,
    .worker_bytes = 60,
};

enum request_fate { UNSENT, OPEN, GONE, ANSWERED };

struct fake_worker {
    bool alive;
    bool ready;
    bool killed;
    bool has_turn;
    uint64_t life; /* tells late events of an earlier process apart */
    uint32_t backbone;
    struct route_domain domain;
    uint32_t slot_function[SCHED_SLOTS_MAX];
    uint32_t running;
};

struct later {
    uint64_t at_us;
    uint64_t order;
    uint64_t life;
    struct sched_event e;
};

struct world {
    struct rng rng;
    uint64_t now_us;
    struct sched *s;
    struct fake_worker workers[WORKERS];
    uint64_t lives;
    bool deployed[FUNCTIONS], removing[FUNCTIONS];
    uint32_t backbone_of[FUNCTIONS], isolation_of[FUNCTIONS];
    enum { COLD, LOADING, RESIDENT } backbones[BACKBONES];
    struct {
        enum request_fate fate;
        uint32_t function;
        uint32_t worker; /* UINT32_MAX: not submitted */
    } requests[REQUESTS];
    uint64_t request_count;
    struct later pending[PENDING];
    uint32_t pending_count;
    uint64_t order;
    uint32_t turn_worker;
    uint64_t timer_us;
};

static const uint64_t backbone_bytes[BACKBONES] = {300, 500, 400, 980};

static void later(struct world *w, uint64_t delay_us, uint64_t life, struct sched_event e)
{
    assert_true(w->pending_count < PENDING);
    w->pending[w->pending_count++] = (struct later){w->now_us + delay_us, w->order++, life, e};
}

static uint64_t soon(struct world *w, uint32_t max_us)
{
    return rng_below(&w->rng, max_us) + 1;
}

static void execute(struct world *w, const struct sched_action *a);

static void settle(struct world *w)
{
    struct sched_action actions[8];
    uint32_t n;
    do {
        n = sched_plan(w->s, w->now_us, actions, 8);
        for (uint32_t i = 0; i < n; i++)
            execute(w, &actions[i]);
        sched_check(w->s);
    } while (n == 8);
}

static void happen(struct world *w, struct sched_event e)
{
    e.now_us = w->now_us;
    sched_apply(w->s, &e);
    sched_check(w->s);
    if (rng_below(&w->rng, 3) > 0) /* several events before a plan are ordinary */
        settle(w);
}

static void end_worker(struct world *w, uint32_t index)
{
    struct fake_worker *k = &w->workers[index];
    k->alive = false;
    if (w->turn_worker == index)
        w->turn_worker = UINT32_MAX;
    for (uint64_t r = 1; r <= w->request_count; r++) {
        if (w->requests[r].worker == index)
            w->requests[r].worker = UINT32_MAX;
    }
    happen(w, (struct sched_event){.type = SCHED_WORKER_EXITED, .worker = index});
}

static void run_turn(struct world *w, uint32_t index, uint64_t turn_life)
{
    later(w, soon(w, 3000), turn_life,
          (struct sched_event){.type = SCHED_TURN_ENDED, .worker = index});
}

static void execute_worker(struct world *w, const struct sched_action *a)
{
    struct fake_worker *k = &w->workers[a->worker];
    if (a->type == SCHED_SPAWN) {
        assert_false(k->alive);
        assert_int_equal(w->backbones[a->backbone], RESIDENT);
        *k = (struct fake_worker){
            .alive = true, .life = ++w->lives, .backbone = a->backbone, .domain = a->domain};
        memset(k->slot_function, 0xff, sizeof k->slot_function);
        uint32_t type = rng_below(&w->rng, 12) == 0 ? SCHED_WORKER_EXITED : SCHED_WORKER_READY;
        later(w, soon(w, 4000), k->life, (struct sched_event){.type = type, .worker = a->worker});
        return;
    }
    assert_true(k->alive);
    switch (a->type) {
    case SCHED_BIND:
        assert_int_equal(k->slot_function[a->slot], UINT32_MAX);
        k->slot_function[a->slot] = a->function;
        later(w, soon(w, 500), k->life,
              (struct sched_event){.type = rng_below(&w->rng, 15) == 0 ? SCHED_BIND_FAILED
                                                                       : SCHED_WORKER_BOUND,
                                   .worker = a->worker,
                                   .function = a->function});
        break;
    case SCHED_UNBIND:
        assert_int_equal(k->slot_function[a->slot], a->function);
        k->slot_function[a->slot] = UINT32_MAX;
        break;
    case SCHED_GRANT:
        assert_int_equal(w->turn_worker, UINT32_MAX);
        w->turn_worker = a->worker;
        run_turn(w, a->worker, k->life);
        break;
    case SCHED_REVOKE:
        assert_int_equal(w->turn_worker, a->worker);
        break;
    case SCHED_CANCEL:
        assert_int_equal(w->requests[a->request].worker, a->worker);
        later(w, soon(w, 300), k->life,
              (struct sched_event){.type = SCHED_DONE, .request = a->request});
        break;
    default:
        assert_int_equal(a->type, SCHED_KILL);
        k->killed = true;
        later(w, soon(w, 800), k->life,
              (struct sched_event){.type = SCHED_WORKER_EXITED, .worker = a->worker});
    }
}

static void submit(struct world *w, const struct sched_action *a)
{
    struct fake_worker *k = &w->workers[a->worker];
    assert_true(k->alive);
    assert_int_equal(k->slot_function[a->slot], a->function);
    assert_int_equal(w->requests[a->request].function, a->function);
    assert_int_equal(w->requests[a->request].worker, UINT32_MAX);
    /* One domain: same backbone, and the isolation that the function asked for. */
    assert_int_equal(k->backbone, w->backbone_of[a->function]);
    assert_int_equal(k->domain.group >> 32, w->isolation_of[a->function]);
    w->requests[a->request].worker = a->worker;
    later(w, soon(w, 6000), k->life,
          (struct sched_event){.type = SCHED_DONE, .request = a->request});
}

static void execute(struct world *w, const struct sched_action *a)
{
    switch (a->type) {
    case SCHED_LOAD:
        assert_int_equal(w->backbones[a->backbone], COLD);
        w->backbones[a->backbone] = LOADING;
        later(w, soon(w, 20000), 0,
              (struct sched_event){.type = rng_below(&w->rng, 6) == 0 ? SCHED_IMAGE_FAILED
                                                                      : SCHED_IMAGE_LOADED,
                                   .backbone = a->backbone});
        break;
    case SCHED_DROP:
        assert_int_equal(w->backbones[a->backbone], RESIDENT);
        later(w, soon(w, 500), 0,
              (struct sched_event){.type = SCHED_IMAGE_DROPPED, .backbone = a->backbone});
        break;
    case SCHED_SUBMIT:
        submit(w, a);
        break;
    case SCHED_REFUSE:
        assert_true(w->requests[a->request].fate == OPEN || w->requests[a->request].fate == GONE);
        w->requests[a->request].fate = ANSWERED;
        break;
    case SCHED_FORGET:
        assert_true(w->removing[a->function]);
        w->deployed[a->function] = false;
        w->removing[a->function] = false;
        break;
    case SCHED_ARM_TIMER:
        w->timer_us = a->us;
        break;
    default:
        execute_worker(w, a);
    }
}

static bool is_stale(const struct world *w, const struct later *l)
{
    if (l->life == 0)
        return false;
    uint32_t index = l->e.worker;
    if (l->e.type == SCHED_DONE)
        index = w->requests[l->e.request].worker;
    return index >= WORKERS || !w->workers[index].alive || w->workers[index].life != l->life;
}

static void deliver(struct world *w, const struct later *l)
{
    struct sched_event e = l->e;
    if (is_stale(w, l))
        return;
    struct fake_worker *k = &w->workers[e.worker];
    switch (e.type) {
    case SCHED_WORKER_EXITED:
        end_worker(w, e.worker);
        return;
    case SCHED_WORKER_READY:
        k->ready = true;
        break;
    case SCHED_BIND_FAILED:
        for (uint32_t i = 0; i < SCHED_SLOTS_MAX; i++) {
            if (k->slot_function[i] == e.function)
                k->slot_function[i] = UINT32_MAX;
        }
        break;
    case SCHED_TURN_ENDED:
        assert_int_equal(w->turn_worker, e.worker);
        w->turn_worker = UINT32_MAX;
        break;
    case SCHED_DONE:
        if (w->requests[e.request].fate == OPEN || w->requests[e.request].fate == GONE)
            w->requests[e.request].fate = ANSWERED;
        w->requests[e.request].worker = UINT32_MAX;
        break;
    case SCHED_IMAGE_LOADED:
        w->backbones[e.backbone] = RESIDENT;
        break;
    case SCHED_IMAGE_FAILED:
    case SCHED_IMAGE_DROPPED:
        w->backbones[e.backbone] = COLD;
        break;
    default:
        break;
    }
    happen(w, e);
}

/* The earliest pending event, or NULL. */
static struct later *earliest(struct world *w)
{
    struct later *first = NULL;
    for (uint32_t i = 0; i < w->pending_count; i++) {
        struct later *l = &w->pending[i];
        if (first == NULL || l->at_us < first->at_us ||
            (l->at_us == first->at_us && l->order < first->order))
            first = l;
    }
    return first;
}

static bool advance(struct world *w)
{
    struct later *l = earliest(w);
    if (w->timer_us != UINT64_MAX && (l == NULL || w->timer_us < l->at_us)) {
        w->now_us = w->timer_us > w->now_us ? w->timer_us : w->now_us;
        w->timer_us = UINT64_MAX;
        happen(w, (struct sched_event){.type = SCHED_TICK});
        return true;
    }
    if (l == NULL)
        return false;
    struct later now = *l;
    *l = w->pending[--w->pending_count];
    w->now_us = now.at_us;
    deliver(w, &now);
    return true;
}

static void deploy(struct world *w)
{
    uint32_t f = rng_below(&w->rng, FUNCTIONS);
    if (w->deployed[f])
        return;
    w->deployed[f] = true;
    w->backbone_of[f] = rng_below(&w->rng, BACKBONES);
    w->isolation_of[f] = 1 + rng_below(&w->rng, 3);
    happen(w, (struct sched_event){.type = SCHED_DEPLOYED,
                                   .function = f,
                                   .backbone = w->backbone_of[f],
                                   .owner = rng_below(&w->rng, 3),
                                   .isolation = w->isolation_of[f],
                                   .bytes = backbone_bytes[w->backbone_of[f]]});
}

static void request(struct world *w)
{
    uint32_t f = rng_below(&w->rng, FUNCTIONS);
    if (!w->deployed[f] || w->removing[f] || w->request_count + 1 >= REQUESTS)
        return;
    uint64_t id = ++w->request_count;
    w->requests[id].fate = OPEN;
    w->requests[id].function = f;
    w->requests[id].worker = UINT32_MAX;
    happen(w, (struct sched_event){.type = SCHED_REQUEST, .request = id, .function = f});
}

static void leave(struct world *w)
{
    if (w->request_count == 0)
        return;
    uint64_t id = 1 + rng_below(&w->rng, (uint32_t)w->request_count);
    if (w->requests[id].fate != OPEN)
        return;
    w->requests[id].fate = GONE;
    happen(w, (struct sched_event){.type = SCHED_CLIENT_GONE, .request = id});
}

static void act(struct world *w)
{
    uint32_t dice = rng_below(&w->rng, 100);
    if (dice < 12) {
        deploy(w);
    } else if (dice < 75) {
        for (uint32_t n = 1 + rng_below(&w->rng, dice < 20 ? 30 : 2); n > 0; n--)
            request(w);
    } else if (dice < 85) {
        leave(w);
    } else if (dice < 90) {
        uint32_t f = rng_below(&w->rng, FUNCTIONS);
        if (w->deployed[f] && !w->removing[f]) {
            w->removing[f] = true;
            happen(w, (struct sched_event){.type = SCHED_REMOVED, .function = f});
        }
    } else if (dice < 95) {
        uint32_t k = rng_below(&w->rng, WORKERS);
        if (w->workers[k].alive)
            end_worker(w, k);
    }
    settle(w);
}

static void check_answered(const struct world *w)
{
    struct sched_counts c;
    sched_counts(w->s, &c);
    assert_int_equal(c.requests_waiting, 0);
    assert_int_equal(c.requests_running, 0);
    assert_int_equal(c.workers, 0);
    for (uint64_t r = 1; r <= w->request_count; r++)
        assert_true(w->requests[r].fate != OPEN);
}

static void run_world(uint64_t seed)
{
    struct world *w = calloc(1, sizeof *w);
    void *memory = aligned_alloc(16, sched_bytes(&config));
    assert_non_null(w);
    assert_non_null(memory);
    rng_seed(&w->rng, seed);
    w->s = sched_init(memory, &config);
    w->turn_worker = UINT32_MAX;
    w->timer_us = UINT64_MAX;
    for (int i = 0; i < 400; i++) {
        act(w);
        for (uint32_t n = rng_below(&w->rng, 12); n > 0 && advance(w); n--)
            ;
    }
    settle(w);
    /* Left alone, the world comes to rest: everything answered, everything scaled to zero. */
    for (int i = 0; i < 200000 && advance(w); i++)
        settle(w);
    check_answered(w);
    free(memory);
    free(w);
}

/* The world that runs; 0 outside of one. */
static uint64_t current_seed;

static void say_seed(int number)
{
    (void)number;
    char line[96];
    int n =
        snprintf(line, sizeof line, "this world alone: SLLORA_SEED=%llu build/tests/test_sched\n",
                 (unsigned long long)current_seed);
    if (current_seed != 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
        _exit(1);
}

static int after_worlds(void **state)
{
    (void)state;
    say_seed(0);
    return 0;
}

static void test_worlds(void **state)
{
    (void)state;
    const char *one = getenv("SLLORA_SEED");
    const char *many = getenv("SLLORA_WORLDS");
    uint64_t first = one != NULL ? strtoull(one, NULL, 10) : 1;
    uint64_t count = one != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : 200;
    signal(SIGABRT, say_seed);
    for (current_seed = first; current_seed < first + count; current_seed++)
        run_world(current_seed);
    current_seed = 0;
}

/* --- policies --- */

static void test_turns_are_fair(void **state)
{
    (void)state;
    const bool all[] = {true, true, true};
    const bool one[] = {false, true, false};
    const bool none[] = {false, false, false};
    assert_int_equal(batch_next_turn(all, 3, 0), 1);
    assert_int_equal(batch_next_turn(all, 3, 2), 0);
    assert_int_equal(batch_next_turn(one, 3, 1), 1);
    assert_int_equal(batch_next_turn(none, 3, 1), BATCH_NONE);
    assert_true(batch_turn_ends_us(10, 5, false) == UINT64_MAX);
    assert_true(batch_turn_ends_us(10, 5, true) == 15);
}

static void test_domains(void **state)
{
    (void)state;
    struct route_domain a = route_domain_of(ROUTE_OWNER, 1, 7, 0);
    assert_true(route_domain_equal(a, route_domain_of(ROUTE_OWNER, 2, 7, 0)));
    assert_false(route_domain_equal(a, route_domain_of(ROUTE_OWNER, 1, 8, 0)));
    assert_false(route_domain_equal(a, route_domain_of(ROUTE_OWNER, 1, 7, 1)));
    /* Function 7 alone is not owner 7. */
    assert_false(route_domain_equal(a, route_domain_of(ROUTE_FUNCTION, 7, 7, 0)));
    assert_false(route_domain_equal(a, route_domain_of(ROUTE_SHARED, 1, 7, 0)));
    assert_true(route_domain_equal(route_domain_of(ROUTE_SHARED, 1, 7, 0),
                                   route_domain_of(ROUTE_SHARED, 2, 9, 0)));
}

static void test_victims(void **state)
{
    (void)state;
    const struct offload_candidate c[] = {{false, 1}, {true, 9}, {true, 4}, {true, 4}};
    assert_int_equal(offload_victim(c, 4), 2);
    assert_int_equal(offload_victim(c, 1), OFFLOAD_NONE);
}

static void test_keepalive_never_wraps(void **state)
{
    (void)state;
    assert_true(keepalive_ends_us(5, 10) == 15);
    assert_true(keepalive_ends_us(UINT64_MAX - 3, 10) == UINT64_MAX);
}

static void test_admission(void **state)
{
    (void)state;
    struct route_load l = {.function_waiting_max = 2,
                           .requests_max = 5,
                           .backbone_bytes = 90,
                           .worker_bytes = 10,
                           .budget_bytes = 100};
    assert_int_equal(route_admit(&l), ROUTE_ACCEPT);
    l.function_waiting = 2;
    assert_int_equal(route_admit(&l), ROUTE_FUNCTION_QUEUE_FULL);
    l.requests = 5;
    assert_int_equal(route_admit(&l), ROUTE_SERVER_FULL);
    l.requests = l.function_waiting = 0;
    l.worker_bytes = 11;
    assert_int_equal(route_admit(&l), ROUTE_TOO_LARGE);
    l.backbone_bytes = UINT64_MAX;
    assert_int_equal(route_admit(&l), ROUTE_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns_are_fair), cmocka_unit_test(test_domains),
        cmocka_unit_test(test_victims),        cmocka_unit_test(test_keepalive_never_wraps),
        cmocka_unit_test(test_admission),      cmocka_unit_test_teardown(test_worlds, after_worlds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
