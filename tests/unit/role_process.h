/*
 * A process of sllora-worker as the daemon sees it: in its sandbox, at the other end of a channel.
 * Records are put together, sent, and received one by one.
 */
#pragma once

#include "unit/sandboxed.h"
#include "wire/wire.h"
#include "worker/roles.h"

/* What the child does: a role, on the channel that it was given. */
static inline int run_role(int (*role)(const struct role_options *o), uint32_t features)
{
    const struct role_options o = {.chan = 3, .features = features, .threads = 1};
    return role(&o);
}

struct process {
    struct sandbox_child child;
    int log;
    int chan;
    bool is_open; /* some of the message may be left */
    struct wire_cursor cursor;
    struct chan_message message;
    struct wire_out out; /* what is to be sent */
};

static inline struct process *process_start(const char *role)
{
    struct process *p = calloc(1, sizeof *p);
    struct error err = {0};
    int pair[2];
    assert_non_null(p);
    if (chan_pair(pair, &err) < 0 ||
        child_start(&p->child, &p->log, role, features_here(), &pair[1], 1, NULL, &err) < 0)
        fail_msg("%s", err.text);
    close(pair[1]);
    p->chan = pair[0];
    return p;
}

/* It has ended by itself, or does so now that its channel is closed. */
static inline void process_ends(struct process *p, int status)
{
    struct outcome o = {0};
    if (p->is_open)
        chan_message_clear(&p->message);
    close(p->chan);
    child_finish(&o, &p->child, p->log);
    if (o.code != CLD_EXITED || o.status != status)
        fail_msg("code %d status %d instead of %d: %s", o.code, o.status, status, o.log);
    free(p);
}

static inline void put(struct process *p, enum wire_type type, const void *fixed, int fd)
{
    assert_true(wire_put(&p->out, type, fixed, wire_fixed_bytes(type), NULL, 0, fd));
}

static inline void send_out(struct process *p)
{
    assert_int_equal(chan_send(p->chan, p->out.bytes, p->out.len, p->out.fds, p->out.fd_count, 0),
                     0);
    p->out.len = p->out.fd_count = 0;
}

/* The next record; false at the end of the channel. */
static inline bool receive(struct process *p, struct wire_record *ret)
{
    for (;;) {
        int n = p->is_open ? wire_next(&p->cursor, ret) : 0;
        assert_true(n >= 0);
        if (n > 0)
            return true;
        if (p->is_open)
            chan_message_clear(&p->message);
        p->is_open = false;
        struct pollfd ready = {.fd = p->chan, .events = POLLIN};
        if (poll(&ready, 1, CHILD_MS_MAX) != 1)
            fail_msg("no record came");
        if (chan_receive(p->chan, &p->message, 0) <= 0)
            return false;
        wire_begin(&p->cursor, &p->message);
        p->is_open = true;
    }
}

/* FAILED with a sentence; status 0: whichever. */
static inline void failed(struct process *p, uint32_t scope, uint64_t subject, uint32_t status,
                          const char *words)
{
    struct wire_record r;
    assert_true(receive(p, &r));
    assert_int_equal(r.type, WIRE_FAILED);
    const struct wire_failed *f = r.fixed;
    char *text = strndup((const char *)r.tail, r.tail_bytes);
    assert_non_null(text);
    if (f->scope != scope || f->subject != subject || (status != 0 && f->status != status) ||
        f->status == 0 || strstr(text, words) == NULL || text[0] == '\0')
        fail_msg("scope %u subject %llu status %u \"%s\", expected \"%s\"", f->scope,
                 (unsigned long long)f->subject, f->status, text, words);
    free(text);
}

static inline void nothing_more(struct process *p)
{
    struct wire_record r;
    if (receive(p, &r))
        fail_msg("a record of type %u came", r.type);
}
