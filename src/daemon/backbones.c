/*
 * Backbones by number, and what the core is told of one before anything of it ran: its bytes, what
 * a worker of it takes, and guesses of its speed, which the first turns and loads replace.
 */
#include "daemon/daemon.h"

#include "weights/image.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* An ordinary machine, a core of it where it says so; and an ordinary GPU, a multiprocessor of it.
 */
#define GUESS_STREAM_BYTES_S 12e9     /* weights through all cores */
#define GUESS_CORE_FLOPS 60e9         /* of prompts */
#define GUESS_LOAD_BYTES_S 1.2e9      /* from the disk's cache, hashed on the way */
#define GUESS_GPU_STREAM_BYTES_S 1e12 /* where the driver does not say */
#define GUESS_GPU_STREAM_SHARE 0.6    /* of what its memory gives at most */
#define GUESS_GPU_SM_FLOPS 1e12
#define GUESS_GPU_LOAD_BYTES_S 1.8e9     /* from the host's memory, hashed on the way */
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
    double flops = GUESS_CORE_FLOPS * threads_of(d), stream = GUESS_STREAM_BYTES_S;
    if (d->config.has_gpu) {
        flops = GUESS_GPU_SM_FLOPS * (d->gpu.multiprocessors > 0 ? d->gpu.multiprocessors : 1);
        stream = d->gpu.memory_bytes_s > 0 ? GUESS_GPU_STREAM_SHARE * d->gpu.memory_bytes_s
                                           : GUESS_GPU_STREAM_BYTES_S;
    }
    struct cost_step c = {.step_us = (double)image->bytes / stream * 1e6,
                          .prompt_us = 2 * weights_of(image) / flops * 1e6};
    c.decode_us = GUESS_DECODE_ROW_OF_PROMPT_ROW * c.prompt_us;
    return c;
}

uint64_t backbone_kv_token_bytes(const struct daemon *d, const struct registry_image *image)
{
    return image->kv_token_bytes[d->config.kv_dtype];
}

uint64_t worker_base_bytes(const struct daemon *d)
{
    return d->config.has_gpu ? GPU_WORKER_BYTES : WORKER_BASE_BYTES;
}

uint64_t device_budget_bytes(const struct daemon *d)
{
    return d->config.has_gpu ? d->config.gpu_memory_bytes : d->config.memory_bytes;
}

uint64_t backbone_work_bytes(const struct daemon *d, const struct registry_image *image)
{
    uint64_t more = d->config.has_gpu ? GPU_WORK_BYTES : 0;
    return more + image->fixed_bytes + image->row_bytes * d->config.rows_max;
}

uint32_t host_place(const struct daemon *d)
{
    return d->config.has_gpu ? sched_host_place(&d->config.sched, 0) : SCHED_NONE;
}

int backbone_check_dtype(const struct daemon *d, uint32_t dtype, const char *flag,
                         struct error *err)
{
    if (!d->config.has_gpu || dtype != IMAGE_F32)
        return 0;
    return error_set(err, -EINVAL,
                     "%s f32 is for processors, and this server computes on a GPU: deploy with %s "
                     "bf16",
                     flag, flag);
}

bool backbone_is_resident(const struct daemon *d, uint32_t index)
{
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++)
        if (d->copies[i].used && d->copies[i].backbone == index && d->copies[i].is_loaded &&
            d->copies[i].place == 0)
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
                            .work_bytes = backbone_work_bytes(d, image),
                            .step = guess_step(d, image),
                            .us = (uint64_t)((double)image->bytes / GUESS_LOAD_BYTES_S * 1e6)};
    if (d->config.has_gpu)
        e.more_us = (uint64_t)((double)image->bytes / GUESS_GPU_LOAD_BYTES_S * 1e6);
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
    uint64_t needed = image->bytes + worker_base_bytes(d) + backbone_work_bytes(d, image) +
                      d->config.sched.kv_step_bytes;
    uint64_t budget = device_budget_bytes(d);
    if (needed <= budget)
        return 0;
    double mib = 1 << 20, weights = weights_of(image), beside = (double)(needed - image->bytes);
    return error_set(err, -ENOSPC,
                     "this backbone (%.0f MiB) needs %.0f MiB with one worker, and the server's "
                     "%s is %.0f MiB: of these weights --quant int8 needs about %.0f MiB, "
                     "int4 %.0f MiB; or start the server with more",
                     (double)image->bytes / mib, (double)needed / mib,
                     d->config.has_gpu ? "--gpu-memory" : "--memory", (double)budget / mib,
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
        backbone_check_dtype(d, image.dtype, "--quant", err) < 0 ||
        check_budget(d, &image, err) < 0)
        return SCHED_NONE;
    d->backbones[free_index] = (struct backbone_slot){.used = true, .image = image};
    tell(d, free_index);
    return free_index;
}
