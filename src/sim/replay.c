/* See replay.h. */
#include "sim/replay.h"

#include "store/eventlog.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACTIONS_MAX EVENTLOG_ACTIONS_MAX

struct replay {
    FILE *file;
    void *memory;
    struct sched *sched;
    struct sched_action done[ACTIONS_MAX];
    struct sched_action now[ACTIONS_MAX];
};

static int read_header(struct replay *r, const char *path, struct error *err)
{
    struct eventlog_header h;
    if (fread(&h, sizeof h, 1, r->file) != 1 || memcmp(h.magic, EVENTLOG_MAGIC, 8) != 0)
        return error_set(err, -EINVAL, "%s is no event log", path);
    if (h.version != EVENTLOG_VERSION || h.event_bytes != sizeof(struct sched_event) ||
        h.action_bytes != sizeof(struct sched_action) ||
        h.config_bytes != sizeof(struct sched_config))
        return error_set(err, -EINVAL, "%s was written by another version; use that one", path);
    size_t bytes = sched_bytes(&h.config);
    if (bytes == 0 || bytes > (size_t)4 << 30)
        return error_set(err, -EINVAL, "%s holds limits that are out of range", path);
    r->memory = aligned_alloc(16, bytes);
    if (r->memory == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r->sched = sched_init(r->memory, &h.config);
    return 0;
}

static bool event_is_sane(const struct sched_event *e)
{
    return e->type > 0 && e->type < SCHED_EVENT_COUNT;
}

static void describe(const struct sched_action *a, char *to, size_t bytes)
{
    snprintf(to, bytes, "%s function=%d worker=%d backbone=%d request=%llx us=%llu",
             sched_action_name(a->type), (int)a->function, (int)a->worker, (int)a->backbone,
             (unsigned long long)a->request, (unsigned long long)a->us);
}

static void compare(struct replay *r, uint32_t done, uint32_t now, struct replay_result *ret)
{
    uint32_t both = done < now ? done : now;
    uint32_t at = 0;
    while (at < both && memcmp(&r->done[at], &r->now[at], sizeof r->done[at]) == 0)
        at++;
    if (at == both && done == now)
        return;
    char then[112] = "nothing", today[112] = "nothing";
    if (at < done)
        describe(&r->done[at], then, sizeof then);
    if (at < now)
        describe(&r->now[at], today, sizeof today);
    snprintf(ret->difference, sizeof ret->difference, "then %s, now %s", then, today);
    ret->identical = false;
    ret->differing_plan = ret->plans;
}

/* One record: 1, 0 at the end or in the middle of the last one, -errno. */
static int replay_record(struct replay *r, struct replay_result *ret, struct error *err)
{
    uint64_t word, now_us;
    bool more;
    struct sched_event e;
    if (fread(&word, sizeof word, 1, r->file) != 1)
        return 0;
    uint64_t count = word >> 8;
    switch (word & 0xff) {
    case EVENTLOG_EVENT:
        if (fread(&e, sizeof e, 1, r->file) != 1)
            return 0;
        if (!event_is_sane(&e))
            return error_set(err, -EINVAL, "event %llu of the log is damaged",
                             (unsigned long long)ret->events + 1);
        sched_apply(r->sched, &e);
        ret->events++;
        return 1;
    case EVENTLOG_PLAN:
        if (count > ACTIONS_MAX)
            return error_set(err, -EINVAL, "the log is damaged: a plan of %llu actions",
                             (unsigned long long)count);
        if (fread(&now_us, sizeof now_us, 1, r->file) != 1 ||
            fread(r->done, sizeof r->done[0], count, r->file) != count)
            return 0;
        ret->plans++;
        ret->actions += count;
        compare(r, (uint32_t)count, sched_plan(r->sched, now_us, r->now, ACTIONS_MAX, &more), ret);
        return ret->identical;
    case EVENTLOG_FULL:
        ret->complete = false;
        return 0;
    default:
        return error_set(err, -EINVAL, "the log is damaged after %llu events",
                         (unsigned long long)ret->events);
    }
}

int replay_log(const char *path, struct replay_result *ret, struct error *err)
{
    struct replay *r = calloc(1, sizeof *r);
    if (r == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    struct replay_result result = {.complete = true, .identical = true};
    int n;
    r->file = fopen(path, "re");
    if (r->file == NULL)
        n = error_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    else
        n = read_header(r, path, err);
    if (n == 0) {
        do {
            n = replay_record(r, &result, err);
        } while (n > 0);
    }
    if (n == 0)
        *ret = result;
    if (r->file != NULL)
        fclose(r->file);
    free(r->memory);
    free(r);
    return n;
}
