/*
 * The keeper: puts one backbone image into sealed memory, on huge pages where there are any, hands
 * out a read-only descriptor and lives as long as the backbone is to stay. A damaged image is
 * refused before anybody maps it.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "weights/share.h"
#include "worker/roles.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void on_progress(void *context, uint64_t done, uint64_t total)
{
    const struct role_options *o = context;
    role_progress(o->chan, done, total);
}

static int load(const struct role_options *o, struct share **ret, struct error *err)
{
    struct wire_load request;
    cleanup_fd int image = -1;
    int r = role_receive_load(o->chan, &request, &image, err);
    if (r < 0)
        return r;
    uint64_t began_us = clock_now_us();
    r = share_create(ret, request.bytes, NULL, err);
    if (r < 0)
        return r;
    int fds[3] = {image};
    share_keep_fds(*ret, fds + 1);
    r = role_lock(o, SANDBOX_KEEPER, 1, fds, sizeof fds / sizeof fds[0], err);
    if (r == 0)
        r = share_fill(*ret, image, &request.digest, on_progress, (void *)(uintptr_t)o, err);
    if (r == 0)
        r = share_seal(*ret, err);
    if (r == 0)
        role_loaded(o, &request, *ret, clock_now_us() - began_us, share_reader_fd(*ret));
    return r;
}

int role_keeper(const struct role_options *o)
{
    struct error err = {0};
    struct share *share = NULL;
    int r = o->has_gpu ? keeper_load_on_gpu(o, &err) : load(o, &share, &err);
    if (r < 0)
        return role_fail(o->chan, &err);
    /* Nothing more is asked of it; the end of the channel ends it. */
    static struct chan_message message;
    while (chan_receive(o->chan, &message, 0) > 0)
        chan_message_clear(&message);
    return 0;
}
