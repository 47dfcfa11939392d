/* See start.h. */
#include "gpubench/start.h"

#include "base/clock.h"
#include "base/memfile.h"
#include "gpu/device.h"
#include "gpubench/start_parts.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS 5u
#define PROMPT_TOKENS 32u
/* A worker that says nothing for so long is not going to. */
#define PATIENCE_S 60
#define MIB (1024.0 * 1024.0)

extern char **environ;

/* What workers are handed, and what they measured. */
struct keeper {
    const struct bed *b;
    struct synthetic_adapter adapter;
    int head, memory, adapter_fd;
    struct start_answer answers[WORKERS];
    double worker_bytes[WORKERS]; /* of the device: free before, less free once it had answered */
};

/* --- what is handed on --- */

/* Memory of `size` bytes that begins with these. */
static int share(const void *from, uint64_t bytes, uint64_t size, int *ret_fd, struct error *err)
{
    int fd = memfile_create("sllora-start", 0, size);
    uint64_t done = 0;
    while (fd >= 0 && done < bytes) {
        ssize_t n = pwrite(fd, (const uint8_t *)from + done, bytes - done, (off_t)done);
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    *ret_fd = fd;
    return fd >= 0 && done == bytes ? 0 : error_set(err, -ENOMEM, "no memory for what workers map");
}

static int keeper_open(struct keeper *k, const struct bed *b, struct error *err)
{
    const struct synthetic_lora l = {.rank = RANK, .scale = 1, .seed = 100};
    const struct image_header *h = b->b.backbone.image.header;
    *k = (struct keeper){.b = b, .head = -1, .memory = -1, .adapter_fd = -1};
    int r = share(b->b.base, h->sections[IMAGE_WEIGHTS].offset, b->b.bytes, &k->head, err);
    if (r == 0)
        r = gpu_memory_export(b->memory, &k->memory, err);
    if (r == 0)
        r = synthetic_adapter_open(&k->adapter, &b->b, &l, err);
    return r == 0 ? share(k->adapter.base, k->adapter.bytes, k->adapter.bytes, &k->adapter_fd, err)
                  : r;
}

static void keeper_close(struct keeper *k)
{
    const int fds[] = {k->head, k->memory, k->adapter_fd};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    synthetic_adapter_close(&k->adapter);
}

/* --- one worker --- */

/* Its end of the socket is its standard input; the rest keeps its number. */
static int spawn(const struct keeper *k, int socket, pid_t *ret, struct error *err)
{
    char program[] = "/proc/self/exe", word[] = START_WORKER;
    char *argv[] = {program, word, NULL};
    const int fds[] = {k->head, k->memory, k->adapter_fd};
    posix_spawn_file_actions_t actions;
    int r = posix_spawn_file_actions_init(&actions);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(&actions, socket, STDIN_FILENO);
    /* Onto itself: from then on it is not closed. */
    for (size_t i = 0; r == 0 && i < sizeof fds / sizeof fds[0]; i++)
        r = posix_spawn_file_actions_adddup2(&actions, fds[i], fds[i]);
    if (r == 0)
        r = posix_spawn(ret, program, &actions, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    return r == 0 ? 0 : error_set(err, -r, "no process for a worker: %s", strerror(r));
}

static int hear(int socket, void *ret, size_t bytes, struct error *err)
{
    ssize_t n = recv(socket, ret, bytes, 0);
    if (n == (ssize_t)bytes)
        return 0;
    return error_set(err, -EIO, "a worker %s",
                     n < 0 ? "does not answer" : "ended before it had answered");
}

/* The device's memory as it was before the worker and as it is while the worker idles. */
static int talk(const struct keeper *k, int socket, bool is_spare, struct start_answer *ret,
                uint64_t *ret_left, struct error *err)
{
    char word = 0;
    int r = is_spare ? hear(socket, &word, sizeof word, err) : 0;
    if (r == 0 && is_spare && send(socket, &word, sizeof word, MSG_NOSIGNAL) != sizeof word)
        r = error_set(err, -EIO, "a worker ended while it waited");
    if (r == 0)
        r = hear(socket, ret, sizeof *ret, err);
    if (r == 0 && ret->failure.code < 0)
        r = error_set(err, ret->failure.code, "a worker: %s", ret->failure.text);
    return r == 0 ? gpu_device_free_bytes(k->b->o->gpu, ret_left, err) : r;
}

static int measure(struct keeper *k, bool is_spare, uint32_t i, struct error *err)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    struct start_job job = {.index = k->b->o->index,
                            .prompt_tokens = PROMPT_TOKENS,
                            .is_spare = is_spare,
                            .head = k->head,
                            .memory = k->memory,
                            .adapter = k->adapter_fd,
                            .backbone_bytes = k->b->b.bytes,
                            .adapter_bytes = k->adapter.bytes,
                            .backbone_digest = k->b->b.digest,
                            .adapter_digest = k->adapter.digest};
    uint64_t before = 0, left = 0;
    int pair[2], status;
    pid_t pid;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(err, -errno, "no socket for a worker: %s", strerror(errno));
    int r = gpu_device_free_bytes(k->b->o->gpu, &before, err);
    job.began_us = clock_now_us();
    if (r == 0 && (send(pair[0], &job, sizeof job, MSG_NOSIGNAL) != sizeof job ||
                   setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0))
        r = error_set(err, -EIO, "no socket for a worker: %s", strerror(errno));
    if (r == 0)
        r = spawn(k, pair[1], &pid, err);
    (void)close(pair[1]);
    bool is_there = r == 0;
    if (r == 0)
        r = talk(k, pair[0], is_spare, &k->answers[i], &left, err);
    (void)close(pair[0]); /* it ends then, */
    if (is_there && r < 0)
        (void)kill(pid, SIGKILL); /* even if it hangs */
    if (is_there && waitpid(pid, &status, 0) == pid && r == 0 && status != 0)
        r = error_set(err, -EIO, "a worker ended with status %#x", (unsigned)status);
    k->worker_bytes[i] = (double)before - (double)left;
    return r;
}

/* --- figures --- */

static void tell(const struct keeper *k, const char *cell, const char *what, const char *unit,
                 double value, double goal)
{
    bed_tell(
        k->b,
        &(struct figure){
            .cell = cell, .what = what, .unit = unit, .value = value, .goal = goal, .is_cost = 1});
}

static double phase_ms(const struct keeper *k, enum start_phase phase)
{
    double values[WORKERS];
    for (uint32_t i = 0; i < WORKERS; i++)
        values[i] = (double)k->answers[i].us[phase] / 1e3;
    return bed_median(values, WORKERS);
}

static int from_nothing(struct keeper *k, struct error *err)
{
    static const struct {
        const char *cell, *what;
    } parts[START_PHASES] = {
        [START_PROCESS] = {"start: process", "until its first instruction"},
        [START_DRIVER] = {"start: driver", "the driver's library loaded and started"},
        [START_CONTEXT] = {"start: context", "a process on the device"},
        [START_KERNELS] = {"start: kernels", "the kernels loaded"},
        [START_MAP] = {"start: map", "the backbone imported and mapped read-only"},
        [START_ENGINE] = {"start: engine", "an engine opened"},
        [START_ADAPTER] = {"start: adapter", "an adapter of rank 16 brought to the device"},
        [START_FIRST] = {"start: first token", "of a prompt of 32 tokens"},
        [START_WARM] = {"start: warm", "the same request once more"},
    };
    double whole[WORKERS] = {0};
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < WORKERS; i++)
        r = measure(k, false, i, err);
    if (r < 0)
        return r;
    for (uint32_t p = 0; p < START_PHASES; p++) {
        tell(k, parts[p].cell, parts[p].what, "ms", phase_ms(k, p), 0);
        for (uint32_t i = 0; p != START_WARM && i < WORKERS; i++)
            whole[i] += (double)k->answers[i].us[p] / 1e3;
    }
    tell(k, "start: whole", "from no process to the first token", "ms", bed_median(whole, WORKERS),
         600);
    return 0;
}

static void tell_memory(struct keeper *k)
{
    const struct start_answer *a = &k->answers[0]; /* the same in all */
    double taken = bed_median(k->worker_bytes, WORKERS) - (double)a->kv_bytes;
    double whole = taken - (double)k->adapter.bytes, activations = (double)a->activation_bytes;
    if (whole <= 0)
        return; /* a driver that counts what this process has, and no other's */
    tell(k, "memory of a further worker", "beside its KV cache and its adapters", "MiB",
         whole / MIB, 350);
    tell(k, "memory: activations", "of it, for a step of 256 rows", "MiB", activations / MIB, 0);
    tell(k, "memory: context and kernels", "of it, the driver's", "MiB",
         (whole - activations) / MIB, 0);
    tell(k, "memory: an adapter", "beside it", "MiB", (double)k->adapter.bytes / MIB, 0);
}

static int from_spare(struct keeper *k, struct error *err)
{
    double over[WORKERS];
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < WORKERS; i++)
        r = measure(k, true, i, err);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < WORKERS; i++) {
        const uint64_t *us = k->answers[i].us;
        over[i] =
            ((double)us[START_ADAPTER] + (double)us[START_FIRST] - (double)us[START_WARM]) / 1e3;
    }
    tell(k, "spare: adapter", "brought to the device", "ms", phase_ms(k, START_ADAPTER), 0);
    tell(k, "spare: first token", "of a prompt of 32 tokens", "ms", phase_ms(k, START_FIRST), 0);
    tell(k, "spare: warm", "the same request once more", "ms", phase_ms(k, START_WARM), 0);
    tell(k, "spare: first token over warm", "adapter and first token, less warm", "ms",
         bed_median(over, WORKERS), 15);
    tell_memory(k);
    return 0;
}

int start_run(struct bed *b, struct error *err)
{
    struct keeper k;
    int r = keeper_open(&k, b, err);
    if (r == 0)
        r = from_nothing(&k, err);
    if (r == 0)
        r = from_spare(&k, err);
    keeper_close(&k);
    return r;
}
