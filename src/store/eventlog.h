/*
 * The record of what the core saw and decided: every event, and after each plan its actions. A log
 * read back through the core gives identical actions (`sllora sim --log FILE`), or the core is not
 * pure. Written in the background of the daemon's work, bounded in size; when it is full it says
 * so in its last record and the run goes on unrecorded.
 *
 *   struct eventlog_header, then records: a uint64_t tag (enum eventlog_tag | count << 8) followed
 *   by one struct sched_event, or by the plan's time and `count` struct sched_action
 */
#pragma once

#include "base/error.h"
#include "sched/sched.h"

#include <stdint.h>

#define EVENTLOG_MAGIC "SLLORAEV"
#define EVENTLOG_VERSION 2u
/* What the daemon plans at a time; a replay must offer the core the same room. */
#define EVENTLOG_ACTIONS_MAX 256u

struct eventlog_header {
    char magic[8];
    uint32_t version;
    uint32_t event_bytes;
    uint32_t action_bytes;
    uint32_t config_bytes;
    struct sched_config config;
};

enum eventlog_tag { EVENTLOG_EVENT = 1, EVENTLOG_PLAN = 2, EVENTLOG_FULL = 3 };

struct eventlog;

/* Replaces the file at `path`. */
int eventlog_open(struct eventlog **ret, const char *path, uint64_t bytes_max,
                  const struct sched_config *config, struct error *err);
void eventlog_close(struct eventlog *l);
void eventlog_event(struct eventlog *l, const struct sched_event *e);
void eventlog_plan(struct eventlog *l, uint64_t now_us, const struct sched_action *actions,
                   uint32_t count);
/* Hands what is buffered to the system; once a second. */
void eventlog_flush(struct eventlog *l);
