/* See eventlog.h. */
#include "store/eventlog.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct eventlog {
    FILE *file; /* NULL after it was full or the disk failed */
    uint64_t bytes;
    uint64_t bytes_max;
};

static void put(struct eventlog *l, const void *bytes, size_t count)
{
    if (l->file == NULL)
        return;
    if (fwrite(bytes, 1, count, l->file) != count) {
        /* A full disk must not stop the service; the log ends where it stands. */
        fclose(l->file);
        l->file = NULL;
        return;
    }
    l->bytes += count;
}

static void put_tag(struct eventlog *l, enum eventlog_tag tag, uint32_t count)
{
    uint64_t word = (uint64_t)tag | (uint64_t)count << 8;
    put(l, &word, sizeof word);
}

/* Ends the log when `more` bytes and the last record would not fit. */
static void make_room(struct eventlog *l, uint64_t more)
{
    if (l->file == NULL || l->bytes + more + sizeof(uint64_t) <= l->bytes_max)
        return;
    put_tag(l, EVENTLOG_FULL, 0);
    if (l->file != NULL)
        fclose(l->file);
    l->file = NULL;
}

int eventlog_open(struct eventlog **ret, const char *path, uint64_t bytes_max,
                  const struct sched_config *config, struct error *err)
{
    struct eventlog *l = calloc(1, sizeof *l);
    if (l == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    l->bytes_max = bytes_max;
    l->file = fopen(path, "we");
    if (l->file == NULL) {
        int r = error_set(err, -errno, "cannot write the event log %s: %s", path, strerror(errno));
        free(l);
        return r;
    }
    setvbuf(l->file, NULL, _IOFBF, 256 << 10);
    struct eventlog_header h = {.version = EVENTLOG_VERSION,
                                .event_bytes = sizeof(struct sched_event),
                                .action_bytes = sizeof(struct sched_action),
                                .config_bytes = sizeof(struct sched_config),
                                .config = *config};
    memcpy(h.magic, EVENTLOG_MAGIC, sizeof h.magic);
    put(l, &h, sizeof h);
    *ret = l;
    return 0;
}

void eventlog_close(struct eventlog *l)
{
    if (l == NULL)
        return;
    if (l->file != NULL)
        fclose(l->file);
    free(l);
}

void eventlog_event(struct eventlog *l, const struct sched_event *e)
{
    if (l == NULL)
        return;
    make_room(l, sizeof(uint64_t) + sizeof *e);
    put_tag(l, EVENTLOG_EVENT, 1);
    put(l, e, sizeof *e);
}

void eventlog_plan(struct eventlog *l, uint64_t now_us, const struct sched_action *actions,
                   uint32_t count)
{
    if (l == NULL)
        return;
    make_room(l, 2 * sizeof(uint64_t) + count * sizeof *actions);
    put_tag(l, EVENTLOG_PLAN, count);
    put(l, &now_us, sizeof now_us);
    put(l, actions, count * sizeof *actions);
}

void eventlog_flush(struct eventlog *l)
{
    if (l != NULL && l->file != NULL && fflush(l->file) != 0) {
        fclose(l->file);
        l->file = NULL;
    }
}
