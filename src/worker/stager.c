/*
 * The stager: fills memory that the daemon made with adapter images, compares their digests and
 * seals it; one after the other, one process for all adapters. It never reads what it copied: an
 * adapter is parsed by the workers that map it.
 */
#include "base/clock.h"
#include "worker/roles.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Records as they come, several of them in a message. */
struct inbox {
    int chan;
    bool is_open; /* some of the message may be left */
    struct wire_cursor cursor;
    struct chan_message message;
};

/* 1, or 0 at the end of the channel, or -EBADMSG. */
static int next_record(struct inbox *in, struct wire_record *ret)
{
    for (;;) {
        int n = in->is_open ? wire_next(&in->cursor, ret) : 0;
        if (n != 0)
            return n;
        if (in->is_open)
            chan_message_clear(&in->message);
        in->is_open = false;
        if (chan_receive(in->chan, &in->message, 0) <= 0)
            return 0;
        wire_begin(&in->cursor, &in->message);
        in->is_open = true;
    }
}

/* What came with one LOAD. */
struct order {
    struct wire_load load;
    int image;  /* the file */
    int target; /* the memory to fill */
};

/* Waits for the next TARGET and LOAD. 0 at the end of the channel. */
static int receive_order(struct inbox *in, struct order *ret, struct error *err)
{
    struct wire_record r;
    *ret = (struct order){.image = -1, .target = -1};
    int n = next_record(in, &r);
    if (n == 0)
        return 0;
    if (n == 1 && r.type == WIRE_TARGET) {
        ret->target = wire_take_fd(&in->cursor, &r, 0);
        n = next_record(in, &r);
    }
    if (n == 1 && r.type == WIRE_LOAD) {
        memcpy(&ret->load, r.fixed, sizeof ret->load);
        ret->image = wire_take_fd(&in->cursor, &r, 0);
    }
    if (ret->image < 0 || ret->target < 0)
        return error_set(err, -EPROTO, "a stager takes TARGET and LOAD only");
    return 1;
}

static int fill(const struct role_options *o, const struct order *order, struct error *err)
{
    struct share *s = NULL;
    uint64_t began_us = clock_now_us();
    int r = share_adopt(&s, order->target, order->load.bytes, err);
    if (r == 0)
        r = share_fill(s, order->image, &order->load.digest, NULL, NULL, err);
    if (r == 0)
        r = share_seal(s, err);
    if (r == 0)
        role_loaded(o, &order->load, s, clock_now_us() - began_us, -1);
    share_free(s);
    return r;
}

/* What is wrong with one is said, and the next is taken. */
static int serve(const struct role_options *o, struct inbox *in, struct error *err)
{
    struct order order;
    int r;
    while ((r = receive_order(in, &order, err)) > 0) {
        struct error reason = {0};
        int status = fill(o, &order, &reason);
        close(order.image);
        close(order.target);
        if (status == 0)
            continue;
        struct wire_failed failed = {
            .scope = WIRE_FAILED_SLOT, .subject = order.load.number, .status = (uint32_t)-status};
        role_send(o->chan, WIRE_FAILED, &failed, sizeof failed, reason.text, strlen(reason.text),
                  -1);
    }
    return r;
}

int role_stager(const struct role_options *o)
{
    static struct inbox in; /* too large for the stack */
    struct error err = {0};
    in.chan = o->chan;
    int r = role_lock(o, SANDBOX_STAGER, 1, NULL, 0, &err);
    if (r == 0)
        r = serve(o, &in, &err);
    return r < 0 ? role_fail(o->chan, &err) : 0;
}
