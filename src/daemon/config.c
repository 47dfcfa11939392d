/* See config.h. */
#include "daemon/config.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KV_INT8 2            /* see struct wire_attach */
#define KV_BYTES (256 * MIB) /* of a worker, unless told otherwise */
#define GPU_KV_BYTES (8 * GIB)
/* Of what a device hands out, which comes in steps of up to 32 MiB. */
#define GPU_KV_STEP_BYTES (64 * MIB)
#define SEQUENCES 128u /* of a worker, unless its steps have fewer rows */
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static void default_data_dir(char *to, size_t bytes)
{
    const char *own = getenv("SLLORA_DATA");
    const char *xdg = getenv("XDG_DATA_HOME");
    const char *home = getenv("HOME");
    if (own != NULL && own[0] != '\0')
        snprintf(to, bytes, "%s", own);
    else if (xdg != NULL && xdg[0] == '/')
        snprintf(to, bytes, "%s/sllora", xdg);
    else if (home != NULL && home[0] == '/')
        snprintf(to, bytes, "%s/.local/share/sllora", home);
    else
        snprintf(to, bytes, "/var/lib/sllora");
}

static uint64_t default_budget_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    long page_bytes = sysconf(_SC_PAGESIZE);
    uint64_t memory = pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : GIB;
    return memory / 10 * 8;
}

void daemon_config_default(struct daemon_config *c)
{
    *c = (struct daemon_config){
        .listen = "127.0.0.1:8080",
        .event_log_bytes_max = 256 * MIB,
        .sched = {.nodes_max = 1,
                  .devices_max = 1,
                  .functions_max = 4096,
                  .backbones_max = 64,
                  .owners_max = 4096,
                  .workers_max = 128,
                  .copies_max = 4096 + 64 + 128, /* an adapter each, a backbone for each worker */
                  .requests_max = 4096,
                  .function_waiting_max = 1024,
                  .owner_live_max = 2048,
                  .domain_workers_max = 1,
                  .worker_slots_max = SCHED_SLOTS_MAX,
                  .spawn_attempts_max = 3,
                  .batching = SCHED_BATCH_ADAPTIVE,
                  .keep_alive_us = SCHED_KEEP_ALIVE_AUTO,
                  .turn_us = 20000,
                  .plan_period_us = 1000000,
                  .batch_window_us = 100000,
                  .slo_ttft_us = 2500000,
                  .slo_tpot_us = 200000,
                  .kv_step_bytes = 4 * MIB,
                  .price_bytes = 1e12},
        .gateway = gateway_limits_default,
        .memory_bytes = default_budget_bytes(),
        .rows_max = 256,
        .prefix_cache = true,
        .deploys_max = 4,
        .start_timeout_ms = 30000,
        .hang_timeout_ms = 120000,
        .drain_timeout_ms = 10000,
    };
    default_data_dir(c->data_dir, sizeof c->data_dir);
}

int daemon_config_device(struct daemon_config *c, const char *text, struct error *err)
{
    static const char numbered[] = "gpu:", digits[] = "0123456789";
    const char *number = text + sizeof numbered - 1;
    bool is_cpu = strcmp(text, "cpu") == 0, is_gpu = strcmp(text, "gpu") == 0;
    if (!is_cpu && !is_gpu && strncmp(text, numbered, sizeof numbered - 1) == 0) {
        size_t n = strspn(number, digits);
        is_gpu = n > 0 && n <= 3 && number[n] == '\0';
    }
    if (!is_cpu && !is_gpu)
        return error_set(err, -EINVAL, "--device is cpu, gpu or gpu:N, not \"%s\"", text);
    c->has_gpu = is_gpu;
    c->gpu = is_gpu && text[3] == ':' ? (uint32_t)strtoul(number, NULL, 10) : 0;
    return 0;
}

/* One worker must fit, its backbone apart. */
static int check_budget(const struct daemon_config *c, const char *flag, uint64_t budget,
                        uint64_t worker, struct error *err)
{
    uint64_t least = worker + c->sched.kv_step_bytes;
    if (least <= budget)
        return 0;
    return error_set(err, -EINVAL,
                     "%s %llu MiB cannot hold one worker: it takes %llu MiB and its "
                     "backbone",
                     flag, (unsigned long long)(budget / MIB), (unsigned long long)(least / MIB));
}

int daemon_config_budget(struct daemon_config *c, uint64_t gpu_bytes, struct error *err)
{
    if (c->gpu_memory_bytes > gpu_bytes)
        return error_set(err, -EINVAL, "--gpu-memory %llu MiB is more than the GPU has: %llu MiB",
                         (unsigned long long)(c->gpu_memory_bytes / MIB),
                         (unsigned long long)(gpu_bytes / MIB));
    if (c->gpu_memory_bytes == 0)
        c->gpu_memory_bytes = gpu_bytes / 10 * 9;
    return check_budget(c, "--gpu-memory", c->gpu_memory_bytes, GPU_WORKER_BYTES + GPU_WORK_BYTES,
                        err);
}

static int check_gpu(const struct daemon_config *c, struct error *err)
{
    if (!c->has_gpu && c->gpu_memory_bytes > 0)
        return error_set(err, -EINVAL, "--gpu-memory goes with --device gpu");
    if (c->has_gpu && c->kv_dtype == KV_INT8)
        return error_set(err, -EINVAL,
                         "--kv-dtype int8 is for processors: a GPU keeps keys and "
                         "values in bf16");
    return 0;
}

static int find_worker_program(struct daemon_config *c, struct error *err)
{
    if (c->worker_program[0] == '\0') {
        char self[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n < 0)
            return error_set(err, -errno, "cannot read /proc/self/exe: %s", strerror(errno));
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        if (slash != NULL)
            *slash = '\0';
        int m = snprintf(c->worker_program, sizeof c->worker_program, "%s/sllora-worker", self);
        if (m < 0 || (size_t)m >= sizeof c->worker_program)
            return error_set(err, -ENAMETOOLONG, "the path of sllora-worker is too long");
    }
    if (access(c->worker_program, X_OK) < 0)
        return error_set(err, -errno, "cannot run %s: %s; it belongs beside sllora (make all)",
                         c->worker_program, strerror(errno));
    return 0;
}

int daemon_config_finish(struct daemon_config *c, struct error *err)
{
    int n = snprintf(c->admin_socket, sizeof c->admin_socket, "%s/admin.sock", c->data_dir);
    if (n < 0 || (size_t)n >= sizeof c->admin_socket)
        return error_set(err, -ENAMETOOLONG,
                         "--data %s is too long: the admin socket's path must stay below %zu bytes",
                         c->data_dir, sizeof c->admin_socket);
    if (c->has_gpu)
        c->sched.kv_step_bytes = GPU_KV_STEP_BYTES;
    if (c->kv_bytes == 0)
        c->kv_bytes = c->has_gpu ? GPU_KV_BYTES : KV_BYTES;
    if (c->kv_bytes < MIB)
        return error_set(err, -EINVAL, "--kv must be at least 1 MiB");
    if (c->kv_bytes < c->sched.kv_step_bytes)
        c->sched.kv_step_bytes = c->kv_bytes;
    c->kv_bytes -= c->kv_bytes % c->sched.kv_step_bytes;
    c->sched.kv_worker_bytes_max = c->kv_bytes;
    c->sched.step_rows_max = c->rows_max;
    if (c->sched.worker_running_max == 0)
        c->sched.worker_running_max = c->rows_max < SEQUENCES ? c->rows_max : SEQUENCES;
    int r = check_gpu(c, err);
    if (r == 0 && !c->has_gpu)
        r = check_budget(c, "--memory", c->memory_bytes, WORKER_BASE_BYTES, err);
    if (r < 0)
        return r;
    if (c->rows_max < c->sched.worker_running_max || c->rows_max > 8192)
        return error_set(err, -EINVAL,
                         "--step-tokens must be %u (a row for each running request) to 8192",
                         c->sched.worker_running_max);
    if (sched_bytes(&c->sched) == 0)
        return error_set(err, -EINVAL, "the scheduler's limits are out of range");
    return find_worker_program(c, err);
}
