/*
 * An event log as records that can be trusted to name only what can be: the one decision is that
 * everything behind the first damage is unknown, so reading stops there and says why. See
 * picture_parts.h.
 */
#include "sim/picture_parts.h"

#include <errno.h>
#include <string.h>

#include "store/eventlog.h"

/* Nothing runs longer; a time beyond it is no time. */
#define LOG_SPAN_US (UINT64_C(10) * 365 * 86400 * 1000000)

/* What a record names. */
enum {
    NAMES_NODE = 1,
    NAMES_DEVICE = 2,
    NAMES_BACKBONE = 4,
    NAMES_OWNER = 8,
    NAMES_FUNCTION = 16,
    NAMES_WORKER = 32,
    NAMES_COPY = 64,
    MAY_NAME_COPY = 128, /* or SCHED_NONE */
    NAMES_SLOT = 256,
};

static const uint16_t event_names[SCHED_EVENT_COUNT] = {
    [SCHED_NODE] = NAMES_NODE,
    [SCHED_DEVICE] = NAMES_DEVICE | NAMES_NODE,
    [SCHED_BACKBONE] = NAMES_BACKBONE,
    [SCHED_OWNER] = NAMES_OWNER,
    [SCHED_DEPLOYED] = NAMES_FUNCTION | NAMES_BACKBONE | NAMES_OWNER,
    [SCHED_REMOVED] = NAMES_FUNCTION,
    [SCHED_REQUEST] = NAMES_FUNCTION,
    [SCHED_TURN_ENDED] = NAMES_WORKER,
    [SCHED_WORKER_READY] = NAMES_WORKER,
    [SCHED_WORKER_BOUND] = NAMES_WORKER | NAMES_FUNCTION,
    [SCHED_BIND_FAILED] = NAMES_WORKER | NAMES_FUNCTION,
    [SCHED_WORKER_RESIZED] = NAMES_WORKER,
    [SCHED_WORKER_EXITED] = NAMES_WORKER,
    [SCHED_COPY_LOADED] = NAMES_COPY,
    [SCHED_COPY_FAILED] = NAMES_COPY,
    [SCHED_COPY_DROPPED] = NAMES_COPY,
};

static const uint16_t action_names[SCHED_ACTION_COUNT] = {
    [SCHED_LOAD] = NAMES_COPY,
    [SCHED_DROP] = NAMES_COPY,
    [SCHED_SPAWN] = NAMES_WORKER | NAMES_DEVICE | NAMES_BACKBONE | NAMES_COPY,
    [SCHED_BIND] = NAMES_WORKER | NAMES_FUNCTION | NAMES_SLOT | MAY_NAME_COPY,
    [SCHED_UNBIND] = NAMES_WORKER | NAMES_SLOT,
    [SCHED_RESIZE] = NAMES_WORKER,
    [SCHED_SUBMIT] = NAMES_WORKER,
    [SCHED_CANCEL] = NAMES_WORKER,
    [SCHED_GRANT] = NAMES_WORKER | NAMES_DEVICE,
    [SCHED_REVOKE] = NAMES_WORKER,
    [SCHED_KILL] = NAMES_WORKER,
    [SCHED_REFUSE] = NAMES_FUNCTION,
    [SCHED_RECEIPT] = NAMES_FUNCTION,
};

static bool event_is_sane(const struct sched_config *c, const struct sched_event *e)
{
    if (e->type == 0 || e->type >= SCHED_EVENT_COUNT)
        return false;
    uint32_t names = event_names[e->type];
    return (!(names & NAMES_NODE) || e->node < c->nodes_max) &&
           (!(names & NAMES_DEVICE) || e->device < c->devices_max) &&
           (!(names & NAMES_BACKBONE) || e->backbone < c->backbones_max) &&
           (!(names & NAMES_OWNER) || e->owner < c->owners_max) &&
           (!(names & NAMES_FUNCTION) || e->function < c->functions_max) &&
           (!(names & NAMES_WORKER) || e->worker < c->workers_max) &&
           (!(names & NAMES_COPY) || e->copy < c->copies_max) &&
           (e->type != SCHED_DEPLOYED ||
            (e->isolation >= ROUTE_FUNCTION && e->isolation <= ROUTE_SHARED));
}

static bool load_is_sane(const struct sched_config *c, const struct sched_action *a)
{
    bool is_backbone = a->backbone < c->backbones_max && a->function == SCHED_NONE;
    bool is_adapter = a->function < c->functions_max && a->backbone == SCHED_NONE;
    return (is_backbone || is_adapter) && a->place < c->devices_max + c->nodes_max &&
           (a->host_copy < c->copies_max || a->host_copy == SCHED_NONE) && a->host_copy != a->copy;
}

static bool action_is_sane(const struct sched_config *c, const struct sched_action *a)
{
    if (a->type == 0 || a->type >= SCHED_ACTION_COUNT || a->reason >= SCHED_REASON_COUNT)
        return false;
    uint32_t names = action_names[a->type];
    return (!(names & NAMES_DEVICE) || a->device < c->devices_max) &&
           (!(names & NAMES_BACKBONE) || a->backbone < c->backbones_max) &&
           (!(names & NAMES_FUNCTION) || a->function < c->functions_max) &&
           (!(names & NAMES_WORKER) || a->worker < c->workers_max) &&
           (!(names & NAMES_SLOT) || a->slot < c->worker_slots_max) &&
           (!(names & NAMES_COPY) || a->copy < c->copies_max) &&
           (!(names & MAY_NAME_COPY) || a->copy < c->copies_max || a->copy == SCHED_NONE) &&
           (a->type != SCHED_LOAD || load_is_sane(c, a));
}

int picture_log_begin(struct picture_log *l, FILE *file, const char *name, struct error *err)
{
    struct eventlog_header h;
    *l = (struct picture_log){.file = file, .name = name};
    if (fseeko(file, 0, SEEK_SET) < 0)
        return error_set(err, -errno, "%s cannot be read twice: name a file", name);
    if (fread(&h, sizeof h, 1, file) != 1 || memcmp(h.magic, EVENTLOG_MAGIC, sizeof h.magic) != 0)
        return error_set(err, -EINVAL, "%s is no event log", name);
    if (h.version != EVENTLOG_VERSION || h.event_bytes != sizeof(struct sched_event) ||
        h.action_bytes != sizeof(struct sched_action) ||
        h.config_bytes != sizeof(struct sched_config))
        return error_set(err, -EINVAL, "%s was written by another version; use that one", name);
    if (sched_bytes(&h.config) == 0)
        return error_set(err, -EINVAL, "%s holds limits that are out of range", name);
    l->config = h.config;
    return 0;
}

static bool damaged(struct picture_log *l, const char *why)
{
    snprintf(l->damage, sizeof l->damage, "after %llu events and %llu plans %s",
             (unsigned long long)l->events, (unsigned long long)l->plans, why);
    return false;
}

/* As every log does whose server was killed, or writes it yet. */

static bool cut(struct picture_log *l)
{
    return damaged(l, ferror(l->file) ? "it cannot be read" : "it ends in the middle of a record");
}

/* A clock that goes back stands still, as it does for the core. */
static bool take_time(struct picture_log *l, uint64_t now_us)
{
    if (l->events + l->plans == 0)
        l->origin_us = l->now_us = now_us;
    if (now_us > l->now_us && now_us - l->origin_us > LOG_SPAN_US)
        return damaged(l, "there is a time years away");
    l->now_us = now_us > l->now_us ? now_us : l->now_us;
    return true;
}

static bool next_action(struct picture_log *l)
{
    if (fread(&l->action, sizeof l->action, 1, l->file) != 1)
        return cut(l);
    if (!action_is_sane(&l->config, &l->action))
        return damaged(l, "there is an action that is none");
    l->left--;
    l->is_event = false;
    l->records++;
    return true;
}

static bool next_event(struct picture_log *l)
{
    if (fread(&l->event, sizeof l->event, 1, l->file) != 1)
        return cut(l);
    if (!event_is_sane(&l->config, &l->event))
        return damaged(l, "there is an event that is none");
    if (!take_time(l, l->event.now_us))
        return false;
    l->events++;
    l->is_event = true;
    l->records++;
    return true;
}

/* A plan without actions is no record of ours. */
bool picture_log_next(struct picture_log *l)
{
    uint64_t word, now_us;
    if (l->damage[0] != '\0')
        return false;
    while (l->left == 0) {
        size_t got = fread(&word, 1, sizeof word, l->file);
        if (got == 0 && !ferror(l->file))
            return false;
        if (got != sizeof word)
            return cut(l);
        if (word == (EVENTLOG_EVENT | UINT64_C(1) << 8))
            return next_event(l);
        l->is_full = word == EVENTLOG_FULL;
        if (l->is_full)
            return false;
        if ((word & 0xff) != EVENTLOG_PLAN || word >> 8 > EVENTLOG_ACTIONS_MAX)
            return damaged(l, "there is a record of no kind");
        if (fread(&now_us, sizeof now_us, 1, l->file) != 1)
            return cut(l);
        if (!take_time(l, now_us))
            return false;
        l->plans++;
        l->left = word >> 8;
    }
    return next_action(l);
}
