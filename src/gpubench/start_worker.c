/* The worker of start.h. */
#include "gpubench/start.h"

#include "base/clock.h"
#include "engine/engine.h"
#include "gpu/device.h"
#include "gpubench/start_parts.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* As the daemon opens engines unless it is told otherwise. */
#define SEQUENCES_MAX 128u
#define ROWS_MAX 256u
#define ADAPTERS_MAX 64u
#define KV_BYTES (UINT64_C(1) << 30) /* addresses; memory comes with use */

#define WARM_ROUNDS 5u
#define PROMPT_MAX 512u

struct worker {
    int socket;
    struct start_job job;
    struct start_answer answer;
    uint64_t lap_us;
    const void *head, *adapter_image;
    struct backbone backbone;
    struct adapter adapter;
    struct gpu_driver *driver;
    struct gpu_context *context;
    struct gpu_device *gpu;
    struct gpu_memory *memory;
    struct engine *engine;
    bool has_backbone, has_adapter;
};

static void lap(struct worker *w, enum start_phase phase)
{
    uint64_t now_us = clock_now_us();
    w->answer.us[phase] = now_us - w->lap_us;
    w->lap_us = now_us;
}

static const void *map(int fd, uint64_t bytes, int flags)
{
    void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED | flags, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

/* The device is opened in steps for the sake of the clock: a driver and a context that are there
 * already cost the device's own opening some microseconds. */
static int open_gpu(struct worker *w, struct error *err)
{
    int r = gpu_driver_open(&w->driver, NULL, err);
    lap(w, START_DRIVER);
    if (r == 0)
        r = gpu_context_open(&w->context, w->driver, w->job.index, err);
    lap(w, START_CONTEXT);
    if (r == 0)
        r = engine_gpu_open(&w->gpu, w->job.index, err);
    lap(w, START_KERNELS);
    return r;
}

static int open_backbone(struct worker *w, struct error *err)
{
    const struct start_job *j = &w->job;
    w->head = map(j->head, j->backbone_bytes, 0);
    int r = w->head ? backbone_open(&w->backbone, w->head, j->backbone_bytes, err)
                    : error_set(err, -ENOMEM, "the backbone's tables cannot be mapped");
    w->has_backbone = r == 0;
    if (r == 0)
        r = gpu_memory_import(&w->memory, gpu_device_context(w->gpu), j->memory, j->backbone_bytes,
                              err);
    (void)close(j->memory);
    lap(w, START_MAP);
    return r;
}

static int open_engine(struct worker *w, struct error *err)
{
    const struct engine_options o = {.sequences_max = SEQUENCES_MAX,
                                     .rows_max = ROWS_MAX,
                                     .kv_bytes = KV_BYTES,
                                     .adapters_max = ADAPTERS_MAX,
                                     .gpu = w->gpu,
                                     .backbone_address = gpu_memory_address(w->memory)};
    int r = engine_open(&w->engine, &w->backbone, &o, err);
    lap(w, START_ENGINE);
    return r;
}

static int open_adapter(struct worker *w, struct error *err)
{
    const struct start_job *j = &w->job;
    w->adapter_image = map(j->adapter, j->adapter_bytes, MAP_POPULATE);
    int r = w->adapter_image ? adapter_open(&w->adapter, w->adapter_image, j->adapter_bytes,
                                            &w->backbone, &j->backbone_digest, err)
                             : error_set(err, -ENOMEM, "the adapter cannot be mapped");
    w->has_adapter = r == 0;
    if (r == 0)
        r = engine_adapter_set(w->engine, 0, &w->adapter, &j->adapter_digest, err);
    lap(w, START_ADAPTER);
    return r;
}

/* One token after the prompt; slot -1: of the bare backbone. */
static int request(struct worker *w, int32_t slot, struct error *err)
{
    uint32_t prompt[PROMPT_MAX], id = 0, count = w->job.prompt_tokens;
    bed_prompt(prompt, count, 0, w->backbone.config->vocab_count);
    const struct engine_request q = {.tokens = prompt,
                                     .token_count = count,
                                     .tokens_new_max = 1,
                                     .adapter_slot = slot,
                                     .adapter_scale = 1,
                                     .sampling = {.top_p = 1}};
    int r = engine_add(w->engine, &q, &id, err);
    while (r == 0 && engine_has_work(w->engine)) {
        struct engine_output out[2];
        struct engine_step_stats stats;
        r = engine_step(w->engine, out, 2, &stats, err);
    }
    if (r == 0)
        engine_remove(w->engine, id);
    return r;
}

/* A spare has done all that needs no function, and its kernels have run. */
static int wait_for_function(struct worker *w, struct error *err)
{
    char word = 0;
    int r = request(w, -1, err);
    if (r == 0 && (send(w->socket, &word, sizeof word, MSG_NOSIGNAL) != sizeof word ||
                   recv(w->socket, &word, sizeof word, 0) != sizeof word))
        r = error_set(err, -EPIPE, "the keeper has gone");
    w->lap_us = clock_now_us();
    return r;
}

static int live(struct worker *w, struct error *err)
{
    double warm_us[WARM_ROUNDS];
    int r = open_gpu(w, err);
    if (r == 0)
        r = open_backbone(w, err);
    if (r == 0)
        r = open_engine(w, err);
    if (r == 0 && w->job.is_spare)
        r = wait_for_function(w, err);
    if (r == 0)
        r = open_adapter(w, err);
    if (r == 0)
        r = request(w, 0, err);
    lap(w, START_FIRST);
    for (uint32_t i = 0; r == 0 && i < WARM_ROUNDS; i++) {
        r = request(w, 0, err);
        lap(w, START_WARM);
        warm_us[i] = (double)w->answer.us[START_WARM];
    }
    if (r < 0)
        return r;
    w->answer.us[START_WARM] = (uint64_t)bed_median(warm_us, WARM_ROUNDS);
    w->answer.activation_bytes = engine_activation_bytes(w->engine);
    w->answer.kv_bytes = engine_kv_limit(w->engine, 0, true); /* one block stays */
    return 0;
}

static void worker_close(struct worker *w)
{
    engine_close(w->engine);
    if (w->has_adapter)
        adapter_close(&w->adapter);
    gpu_memory_free(w->memory);
    gpu_device_close(w->gpu);
    gpu_context_close(w->context);
    gpu_driver_close(w->driver);
    if (w->has_backbone)
        backbone_close(&w->backbone);
}

int start_worker(int socket)
{
    uint64_t now_us = clock_now_us();
    struct worker w = {.socket = socket, .lap_us = now_us};
    char word;
    if (recv(socket, &w.job, sizeof w.job, 0) != sizeof w.job || w.job.prompt_tokens > PROMPT_MAX)
        return 2;
    w.answer.us[START_PROCESS] = now_us - w.job.began_us;
    (void)live(&w, &w.answer.failure);
    /* Until the keeper has looked at the device's memory. */
    if (send(socket, &w.answer, sizeof w.answer, MSG_NOSIGNAL) == sizeof w.answer)
        (void)recv(socket, &word, sizeof word, 0);
    worker_close(&w);
    return 0;
}
