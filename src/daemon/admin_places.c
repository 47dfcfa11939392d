/* The memories that the daemon serves from, as the admin socket shows them: the device's, and with
 * a GPU the host's below it. */
#include "daemon/daemon.h"

#include "base/clock.h"

#include <stdio.h>

const char *place_name(const struct daemon *d, uint32_t place, char to[PLACE_NAME_BYTES])
{
    if (place == host_place(d))
        snprintf(to, PLACE_NAME_BYTES, "host");
    else if (d->config.has_gpu)
        snprintf(to, PLACE_NAME_BYTES, "gpu:%u", d->config.gpu);
    else
        snprintf(to, PLACE_NAME_BYTES, "cpu");
    return to;
}

static void add_copies(const struct daemon *d, uint32_t place, struct place_bytes *b)
{
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++) {
        struct sched_copy_view c;
        sched_copy_view(d->sched, i, &c);
        if (c.state != SCHED_COPY_NONE && c.place == place)
            *(c.backbone != SCHED_NONE ? &b->backbones : &b->adapters) += c.bytes;
    }
}

static void add_workers(const struct daemon *d, struct place_bytes *b)
{
    for (uint32_t i = 0; i < d->config.sched.workers_max; i++) {
        struct sched_worker_view w;
        sched_worker_view(d->sched, i, &w);
        if (!w.exists)
            continue;
        b->processes += w.bytes - w.kv_bytes;
        b->kv += w.kv_bytes;
    }
}

void place_look(const struct daemon *d, uint32_t place, struct place_bytes *ret)
{
    bool is_host = place == host_place(d);
    struct place_bytes b = {.budget = is_host ? d->config.memory_bytes : device_budget_bytes(d)};
    add_copies(d, place, &b);
    if (!is_host)
        add_workers(d, &b);
    b.used = b.backbones + b.adapters + b.processes + b.kv;
    *ret = b;
}

/* Memory by what it holds. */
static json_t *memory_json(const struct place_bytes *b)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "backbones", (json_int_t)b->backbones, "adapters",
                     (json_int_t)b->adapters, "processes", (json_int_t)b->processes, "kv",
                     (json_int_t)b->kv);
}

json_t *device_json(const struct daemon *d)
{
    struct sched_device_view v;
    struct place_bytes b;
    char name[PLACE_NAME_BYTES];
    sched_device_view(d->sched, clock_now_us(), 0, &v);
    place_look(d, 0, &b);
    json_t *turn = v.turn_worker != SCHED_NONE && d->workers[v.turn_worker].proc != NULL
                       ? json_integer(proc_pid(d->workers[v.turn_worker].proc))
                       : json_null();
    return json_pack("{s:s, s:s, s:s?, s:I, s:I, s:o, s:i, s:o, s:f, s:o, s:f}", "name",
                     place_name(d, 0, name), "kind", d->config.has_gpu ? "gpu" : "cpu", "model",
                     d->config.has_gpu ? d->gpu.name : NULL, "budget_bytes",
                     (json_int_t)v.budget_bytes, "used_bytes", (json_int_t)v.used_bytes, "memory",
                     memory_json(&b), "workers", (int)v.workers, "turn_pid", turn, "contention",
                     v.contention, "backlog_ms", json_real(v.backlog_us / 1e3), "device_s",
                     (double)v.device_us / 1e6);
}

json_t *host_json(const struct daemon *d)
{
    struct place_bytes b;
    if (!d->config.has_gpu)
        return NULL;
    place_look(d, host_place(d), &b);
    return json_pack("{s:s, s:I, s:I, s:o}", "name", "host", "budget_bytes", (json_int_t)b.budget,
                     "used_bytes", (json_int_t)b.used, "memory", memory_json(&b));
}
