/*
 * Backbones by number, and what the core is told of one before anything of it ran: its bytes, what
 * a worker of it takes, and guesses of its speed, which the first turns and loads replace.
 */
#include "daemon/daemon.h"

#include "weights/image.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* An ordinary machine, a core of it where it says so. */
#define GUESS_STREAM_BYTES_S 12e9        /* weights through all cores */
#define GUESS_CORE_FLOPS 60e9            /* of prompts */
#define GUESS_LOAD_BYTES_S 1.2e9         /* from the disk's cache, hashed on the way */
#define GUESS_DECODE_ROW_OF_PROMPT_ROW 2 /* a row that decodes reads its context besides */

/* Bytes of a weight, the scales of its group with it. */
static const double weight_bytes[] = {
    [IMAGE_F32] = 4, [IMAGE_BF16] = 2, [IMAGE_INT8] = 1.0625, [IMAGE_INT4] = 0.5625};

static double weights_of(const struct registry_image *image)
{
    return (double)image->bytes / weight_bytes[image->dtype];
}

static uint32_t threads_of(const struct daemon *d)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    return d->config.worker_threads > 0 ? d->config.worker_threads
                                        : (uint32_t)(processors > 0 ? processors : 1);
}

static struct cost_step guess_step(const struct daemon *d, const struct registry_image *image)
{
    double flops = GUESS_CORE_FLOPS * threads_of(d);
    struct cost_step c = {.step_us = (double)image->bytes / GUESS_STREAM_BYTES_S * 1e6,
                          .prompt_us = 2 * weights_of(image) / flops * 1e6};
    c.decode_us = GUESS_DECODE_ROW_OF_PROMPT_ROW * c.prompt_us;
    return c;
}

uint64_t backbone_kv_token_bytes(const struct daemon *d, const struct registry_image *image)
{
    return image->kv_token_bytes[d->config.kv_dtype];
}

uint64_t backbone_worker_bytes(const struct daemon *d, const struct registry_image *image)
{
    return WORKER_BASE_BYTES + image->fixed_bytes + image->row_bytes * d->config.rows_max;
}

bool backbone_is_resident(const struct daemon *d, uint32_t index)
{
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++)
        if (d->copies[i].used && d->copies[i].backbone == index && d->copies[i].is_loaded)
            return true;
    return false;
}

static void tell(struct daemon *d, uint32_t index)
{
    const struct registry_image *image = &d->backbones[index].image;
    struct sched_event e = {.type = SCHED_BACKBONE,
                            .backbone = index,
                            .bytes = image->bytes,
                            .more_bytes = backbone_kv_token_bytes(d, image),
                            .work_bytes = backbone_worker_bytes(d, image) - WORKER_BASE_BYTES,
                            .step = guess_step(d, image),
                            .us = (uint64_t)((double)image->bytes / GUESS_LOAD_BYTES_S * 1e6)};
    daemon_event(d, &e);
}

/* One without functions, process or memory may give its number away. */
static bool is_unused(const struct daemon *d, uint32_t index)
{
    if (!d->backbones[index].used)
        return true;
    if (d->backbones[index].functions > 0)
        return false;
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++)
        if (d->copies[i].used && d->copies[i].backbone == index)
            return false;
    for (uint32_t i = 0; i < d->config.sched.workers_max; i++)
        if (d->workers[i].proc != NULL && d->workers[i].backbone == index)
            return false;
    return true;
}

/* What can never be served is refused before anybody waits for it. */
static int check_budget(const struct daemon *d, const struct registry_image *image,
                        struct error *err)
{
    uint64_t needed =
        image->bytes + backbone_worker_bytes(d, image) + d->config.sched.kv_step_bytes;
    if (needed <= d->config.memory_bytes)
        return 0;
    double mib = 1 << 20, weights = weights_of(image), beside = (double)(needed - image->bytes);
    return error_set(err, -ENOSPC,
                     "this backbone (%.0f MiB) needs %.0f MiB with one worker, and the server's "
                     "--memory is %.0f MiB: of these weights --quant int8 needs about %.0f MiB, "
                     "int4 %.0f MiB; or start the server with more",
                     (double)image->bytes / mib, (double)needed / mib,
                     (double)d->config.memory_bytes / mib,
                     (weights * weight_bytes[IMAGE_INT8] + beside) / mib,
                     (weights * weight_bytes[IMAGE_INT4] + beside) / mib);
}

uint32_t backbone_number(struct daemon *d, const struct digest *digest, struct error *err)
{
    uint32_t free_index = SCHED_NONE;
    for (uint32_t i = 0; i < d->config.sched.backbones_max; i++) {
        if (d->backbones[i].used && digest_equal(&d->backbones[i].image.digest, digest))
            return i;
        if (free_index == SCHED_NONE && is_unused(d, i))
            free_index = i;
    }
    if (free_index == SCHED_NONE) {
        error_set(err, -ENOSPC, "%u backbones are deployed already, the limit; remove functions",
                  d->config.sched.backbones_max);
        return SCHED_NONE;
    }
    struct registry_image image;
    if (registry_get_image(d->registry, digest, &image, err) < 0 ||
        check_budget(d, &image, err) < 0)
        return SCHED_NONE;
    d->backbones[free_index] = (struct backbone_slot){.used = true, .image = image};
    tell(d, free_index);
    return free_index;
}
