/*
 * The worker: serves one domain on one backbone. It runs engine steps only while it holds the turn,
 * reads its channel between steps, and sends what a step brought in one message. Its life:
 *
 *   lock the sandbox → ATTACH: map the backbone → READY → BIND, SUBMIT, GRANT ... → killed
 *
 * On a GPU its driver is opened in the midst of the lock; the process is no zygote's copy, for what
 * a driver has opened is of no use to copies.
 *
 * The first BIND fixes the domain; a BIND for another one ends the process.
 */
#include "base/clock.h"
#include "worker/roles.h"
#include "worker/session.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <sys/socket.h>

#define IDLE_TRIM_MS 100

static int dispatch(struct session *s, struct wire_cursor *c, const struct wire_record *r,
                    struct error *err)
{
    switch (r->type) {
    case WIRE_ATTACH:
        return session_attach(s, r->fixed, wire_take_fd(c, r, 0), wire_take_fd(c, r, 1), err);
    case WIRE_BIND:
        return session_bind(s, r->fixed, wire_take_fd(c, r, 0), err);
    case WIRE_UNBIND:
        session_unbind(s, r->fixed);
        return 0;
    case WIRE_SUBMIT:
        return session_submit(s, r, wire_take_fd(c, r, 0), err);
    case WIRE_CANCEL:
        session_cancel(s, ((const struct wire_request *)r->fixed)->request);
        return 0;
    case WIRE_RESIZE:
        session_resize(s, r->fixed);
        return 0;
    case WIRE_GRANT:
        session_take_turn(s, r->fixed);
        return 0;
    case WIRE_REVOKE:
        if (s->turn.held && s->turn.number == ((const struct wire_turn *)r->fixed)->turn)
            s->turn.revoked = true;
        return 0;
    default:
        return error_set(err, -EPROTO, "a record of type %d is not for a worker", (int)r->type);
    }
}

/* Takes one message if there is one; blocks only when `wait`. 0 at the end of the channel. */
static int receive(struct session *s, bool wait, struct error *err)
{
    static struct chan_message message;
    int n = chan_receive(s->chan, &message, wait ? 0 : MSG_DONTWAIT);
    if (n == -EAGAIN)
        return 1;
    if (n <= 0)
        return n;
    struct wire_cursor c;
    struct wire_record r;
    wire_begin(&c, &message);
    while ((n = wire_next(&c, &r)) > 0) {
        int result = dispatch(s, &c, &r, err);
        if (result < 0) {
            chan_message_clear(&message);
            return result;
        }
    }
    chan_message_clear(&message);
    return n < 0 ? error_set(err, n, "the daemon sent bytes that are no record") : 1;
}

/* Sleeps until the daemon speaks; what an idle worker does not need goes back to the system. */
static void wait_for_daemon(struct session *s)
{
    struct pollfd p = {.fd = s->chan, .events = POLLIN};
    if (!s->untrimmed)
        return;
    if (poll(&p, 1, IDLE_TRIM_MS) == 0) {
        engine_trim(s->engine);
        malloc_trim(0);
        s->untrimmed = false;
    }
}

static int run(struct session *s, struct error *err)
{
    for (;;) {
        bool work = s->turn.held && s->engine != NULL && engine_has_work(s->engine);
        if (s->turn.held && (!work || s->turn.revoked || s->turn.stalled))
            session_end_turn(s);
        work = work && s->turn.held;
        if (!work) {
            session_send(s);
            wait_for_daemon(s);
        }
        int r = receive(s, !work, err);
        if (r <= 0)
            return r;
        if (s->turn.held && engine_has_work(s->engine) && !s->turn.revoked) {
            r = session_step(s, err);
            if (r < 0)
                return r;
            if (engine_has_work(s->engine))
                session_send(s);
        }
    }
}

int worker_serve(struct session *s, int chan, uint32_t threads, uint64_t sandbox_us)
{
    struct error err = {0};
    s->chan = chan;
    s->threads = threads;
    s->sandbox_us = sandbox_us;
    if (run(s, &err) == 0)
        return 0;
    session_send(s);
    return role_fail(chan, &err);
}

static int lock_with_gpu(const struct role_options *o, struct session *s, struct error *err)
{
    struct sandbox_device *device = NULL;
    int r = role_lock_begin(o, SANDBOX_WORKER, &device, err);
    if (r == 0)
        r = engine_gpu_open(&s->gpu, o->gpu, err);
    return r < 0 ? r : role_lock_with(o, SANDBOX_WORKER, WORKER_THREADS_MAX, NULL, 0, device, err);
}

int role_worker(const struct role_options *o)
{
    static struct session session;
    struct error err = {0};
    session_init(&session);
    int r = o->has_gpu ? lock_with_gpu(o, &session, &err)
                       : role_lock(o, SANDBOX_WORKER, WORKER_THREADS_MAX, NULL, 0, &err);
    if (r < 0)
        return role_fail(o->chan, &err);
    return worker_serve(&session, o->chan, o->threads, clock_now_us() - o->began_us);
}
