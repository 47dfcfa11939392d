/*
 * A profile of this machine for the simulator (sim/profile.h), measured on the live system where
 * that tells it, on the engine where it does not. Printed as one JSON document: each constant with
 * where its number comes from.
 */
#include "cli/bench.h"
#include "cli/client.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SHAPE "qwen2.5-0.5b"
#define RUNS_MAX 33u
#define SHORT_PROMPT 8u
#define LONG_PROMPT 200u /* fits a step with room */
#define SETTLE_S 120
#define WORK_TOKENS 256u
#define LONG_ANSWER 65u /* the first comes with the prompt */

struct calibration {
    const char *shape;
    double device_bytes, worker_bytes, kv_step_bytes;
    double backbone_bytes, work_bytes, kv_token_bytes, adapter_bytes;
    double load_ms, spawn_ms, bind_ms, request_ms;
    double step_us, prompt_us, decode_us; /* a step that decodes one sequence is step + decode */
    double read_gb_s;
    double tok_s[9]; /* of so many sequences at a time, of the engine alone */
};

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* --- the live system --- */

static int device_ms(struct bench_server *s, double *ret, struct error *err)
{
    json_t *usage = NULL;
    int r = bench_get(s, "/admin/usage", &usage, err);
    *ret = number(usage, "device_us") / 1e3;
    json_decref(usage);
    return r;
}

/* A request's time on the device, and what it took beside. */
static int ask(struct bench_server *s, uint32_t prompt, uint32_t new, double *ret_device_ms,
               double *ret_beside_ms, struct error *err)
{
    double before, after = 0, ms = 0;
    int r = device_ms(s, &before, err);
    if (r == 0)
        r = bench_ask(s, "f0", prompt, new, &ms, err);
    usleep(50000); /* its turn has ended */
    if (r == 0)
        r = device_ms(s, &after, err);
    *ret_device_ms = after - before;
    *ret_beside_ms = ms - *ret_device_ms;
    return r;
}

/* Medians of differences within a round: the machine is not the same from one to the next. */
static int measure_steps(struct bench_server *s, struct calibration *c, uint32_t runs,
                         struct error *err)
{
    double prompt_us[RUNS_MAX], step_us[RUNS_MAX], request_ms[RUNS_MAX];
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < runs; i++) {
        double few, many = 0, answer = 0, beside;
        r = ask(s, SHORT_PROMPT, 1, &few, &request_ms[i], err);
        if (r == 0)
            r = ask(s, LONG_PROMPT, 1, &many, &beside, err);
        if (r == 0)
            r = ask(s, SHORT_PROMPT, LONG_ANSWER, &answer, &beside, err);
        prompt_us[i] = (many - few) * 1e3 / (LONG_PROMPT - SHORT_PROMPT);
        /* A sequence that decodes alone: the slope over sequences is the engine's (below). */
        step_us[i] = (answer - few) * 1e3 / (LONG_ANSWER - 1);
    }
    if (r < 0)
        return r;
    c->request_ms = bench_median(request_ms, runs);
    c->prompt_us = bench_median(prompt_us, runs);
    c->step_us = bench_median(step_us, runs);
    return 0;
}

static int read_machine(struct bench_server *s, struct calibration *c, struct error *err)
{
    json_t *status = NULL, *f = NULL;
    int r = bench_get(s, "/admin/status", &status, err);
    if (r == 0)
        r = bench_get(s, "/admin/functions/f0", &f, err);
    const json_t *device = json_array_get(json_object_get(status, "devices"), 0);
    const json_t *backbone = json_array_get(json_object_get(status, "backbones"), 0);
    const json_t *spare = json_array_get(json_object_get(status, "workers"), 0);
    c->device_bytes = number(device, "budget_bytes");
    c->backbone_bytes = number(backbone, "bytes");
    c->work_bytes = number(backbone, "work_bytes");
    c->kv_token_bytes = number(backbone, "kv_token_bytes");
    c->load_ms = number(backbone, "load_ms");
    c->kv_step_bytes = number(spare, "kv_granted_bytes");
    c->worker_bytes = number(spare, "bytes") - c->kv_step_bytes;
    c->adapter_bytes = number(json_object_get(f, "adapter"), "bytes");
    json_decref(status);
    json_decref(f);
    if (r == 0 && (c->load_ms <= 0 || c->kv_step_bytes <= 0))
        r = error_set(err, -EIO, "the server has no backbone and spare ready; is there memory?");
    return r;
}

/* Another function that computes until it is killed: processes start beside others' work. */
static pid_t begin_work(const struct bench_server *s)
{
    struct bench_server own = *s;
    struct error err;
    double ms;
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (client_open(&own.client, own.data_dir, &err) < 0)
        _exit(1);
    while (bench_ask(&own, "f1", SHORT_PROMPT, WORK_TOKENS, &ms, &err) == 0)
        continue;
    _exit(1);
}

static int end_work(pid_t pid, struct error *err)
{
    if (waitpid(pid, NULL, WNOHANG) != 0)
        return error_set(err, -EIO, "the function that computes beside the starts has stopped");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}

/* Starts and binds of workers that end at once when idle, beside one that computes. */
static int measure_starts(struct bench_server *s, struct calibration *c, uint32_t runs,
                          struct error *err)
{
    double spawn[RUNS_MAX], bind[RUNS_MAX], ms;
    pid_t work = begin_work(s);
    int r = work < 0 ? error_set(err, -errno, "cannot fork") : 0;
    for (uint32_t i = 0; r == 0 && i < runs; i++) {
        json_t *f = NULL;
        usleep(400000); /* longer than the keep-alive */
        r = bench_ask(s, "f0", SHORT_PROMPT, 1, &ms, err);
        if (r == 0)
            r = bench_get(s, "/admin/functions/f0", &f, err);
        const json_t *start = json_object_get(f, "last_start");
        spawn[i] =
            number(start, "spawn_ms") + number(start, "sandbox_ms") + number(start, "attach_ms");
        bind[i] = number(start, "bind_ms");
        json_decref(f);
    }
    int ended = work > 0 ? end_work(work, r < 0 ? NULL : err) : 0;
    r = r < 0 ? r : ended;
    if (r < 0)
        return r;
    c->spawn_ms = bench_median(spawn, runs);
    c->bind_ms = bench_median(bind, runs);
    return 0;
}

static int measure_live(const struct bench_options *options, struct calibration *c, uint32_t runs,
                        struct error *err)
{
    struct bench_options own = *options, *o = &own;
    const char *warm[] = {"--no-prefix-cache", "--keep-alive", "600", NULL};
    const char *cold[] = {"--no-prefix-cache", "--no-preload", "--keep-alive", "0.15", NULL};
    char checkpoint[700];
    struct bench_server s = {0};
    double loads[3], ms;
    own.data = "calibrate"; /* where nothing else is deployed */
    int r = bench_checkpoint(o, c->shape, 2, checkpoint, sizeof checkpoint, err);
    for (size_t i = 0; r == 0 && i < 3; i++) {
        r = bench_server_start(&s, o, warm, err);
        if (r == 0 && i == 0)
            r = bench_deploy(&s, "f0", "owner0", checkpoint, 0, err);
        if (r == 0 && i == 0)
            r = bench_deploy(&s, "f1", "owner1", checkpoint, 1, err);
        if (r == 0 && !bench_server_settle(&s, SETTLE_S))
            r = error_set(err, -ETIMEDOUT, "no process was ready after %d s", SETTLE_S);
        if (r == 0)
            r = read_machine(&s, c, err);
        loads[i] = c->load_ms;
        if (r == 0 && i == 2) {
            r = bench_ask(&s, "f0", SHORT_PROMPT, 1, &ms, err);
            if (r == 0)
                r = measure_steps(&s, c, runs, err);
        }
        bench_server_stop(&s);
    }
    c->load_ms = bench_median(loads, 3);
    if (r == 0)
        r = bench_server_start(&s, o, cold, err);
    if (r == 0)
        r = measure_starts(&s, c, runs, err);
    bench_server_stop(&s);
    return r;
}

/* --- the engine --- */

static void keep_batch(void *context, json_t *line)
{
    struct calibration *c = context;
    json_int_t batch = json_integer_value(json_object_get(line, "batch"));
    if (batch >= 1 && batch <= 8)
        c->tok_s[batch] = number(line, "tok_s");
    if (batch == 1)
        c->read_gb_s = number(line, "ceiling_gb_s");
}

static int measure_batch(const struct bench_options *o, struct calibration *c, struct error *err)
{
    struct bench_options few = *o;
    few.shape = c->shape;
    few.batch = 8;
    int r = bench_engine_lines(&few, "batch", true, 0, keep_batch, c, err);
    if (r < 0)
        return r;
    if (!(c->tok_s[1] > 0 && c->tok_s[8] > 0))
        return error_set(err, -EPROTO, "the engine told no speed of 1 and of 8 sequences");
    c->decode_us = fmax((8e6 / c->tok_s[8] - 1e6 / c->tok_s[1]) / 7, 0);
    c->step_us = fmax(c->step_us - c->decode_us, 1);
    return 0;
}

/* --- the document --- */

static void put(json_t *o, const char *key, double value, const char *unit, const char *source)
{
    bool whole = strncmp(unit, "bytes", 5) == 0 || value == floor(value);
    json_object_set_new(o, key,
                        json_pack("{s:o, s:s, s:s}", "value",
                                  whole ? json_integer((json_int_t)value) : json_real(value),
                                  "unit", unit, "source", source));
}

static json_t *device_of(const struct calibration *c)
{
    json_t *o = json_pack("{s:s}", "name", "cpu");
    put(o, "memory_bytes", c->device_bytes, "bytes", "the daemon's budget by default");
    put(o, "worker_bytes", c->worker_bytes, "bytes", "what the daemon charges for a process");
    put(o, "kv_step_bytes", c->kv_step_bytes, "bytes", "the daemon's");
    put(o, "step_rows", 256, "rows", "the daemon's default");
    put(o, "turn_ms", 0, "ms", "part of request_ms");
    put(o, "vcpus", (double)sysconf(_SC_NPROCESSORS_ONLN), "cpus", "that are online");
    put(o, "always_on_usd_hour", 0, "USD/h", "nobody rents this machine by the hour");
    return o;
}

static json_t *node_of(const struct calibration *c)
{
    json_t *o = json_object();
    double gb_s = c->backbone_bytes / c->load_ms / 1e6;
    put(o, "devices", 1, "devices", "the processors are one device");
    put(o, "host_bytes", 0, "bytes", "memory is the device's");
    put(o, "disk_gb_s", gb_s, "GB/s", "measured: the backbone loaded and checked, median of 3");
    put(o, "link_gb_s", gb_s, "GB/s", "there is no link: as the disk");
    put(o, "load_ms", 0, "ms", "in disk_gb_s");
    return o;
}

static json_t *process_of(const struct calibration *c)
{
    static const char *const none[] = {"container_ms", "library_ms", "context_ms", "kernels_ms",
                                       "module_ms"};
    json_t *o = json_object();
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        put(o, none[i], 0, "ms", "there is no such thing: a copy of a process that has all");
    put(o, "fork_ms", c->spawn_ms, "ms", "measured: copy, sandbox, attach, beside another's work");
    put(o, "bind_ms", c->bind_ms, "ms",
        "measured likewise, from the daemon to the worker and back");
    put(o, "attach_ms", c->bind_ms, "ms", "as bind_ms");
    put(o, "end_ms", 1, "ms", "a process is killed and reaped; not measured apart");
    put(o, "request_ms", fmax(c->request_ms, 0), "ms",
        "measured: a request of 1 token, less its time on the device");
    put(o, "adapter_bytes", c->adapter_bytes, "bytes", "rank 16 on all seven projections, bf16");
    return o;
}

static json_t *backbone_of(const struct calibration *c)
{
    json_t *step = json_object();
    json_t *o = json_pack("{s:s, s:o}", "name", c->shape, "paged", step);
    put(o, "bytes", c->backbone_bytes, "bytes", "its image, bf16");
    put(o, "work_bytes", c->work_bytes, "bytes", "planned by the engine");
    put(o, "kv_token_bytes", c->kv_token_bytes, "bytes/token", "planned by the engine");
    put(step, "step_us", c->step_us, "us",
        "measured: 64 tokens of one sequence with an adapter, less decode_us");
    put(step, "prompt_us", c->prompt_us, "us/row", "measured: prompts of 200 and of 8 tokens");
    put(step, "decode_us", c->decode_us, "us/row",
        "measured: the engine's steps of 8 sequences and of 1");
    put(step, "context_us", c->kv_token_bytes / (c->read_gb_s * 1e3), "us/token",
        "keys and values of a token at the measured read ceiling");
    put(step, "lora_us", 0, "us", "in step_us");
    return o;
}

static json_t *profile_of(const struct calibration *c)
{
    char about[300], date[32];
    struct utsname u;
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &tm));
    uname(&u);
    snprintf(about, sizeof about,
             "This machine (%s, %s %s) on %s, by `sllora bench calibrate`: what a %s costs here.",
             u.machine, u.sysname, u.release, date, c->shape);
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:[o]}", "name", "cpu-here", "about", about,
                     "prices", "cpu", "device", device_of(c), "node", node_of(c), "process",
                     process_of(c), "backbones", backbone_of(c));
}

int bench_calibrate(const struct bench_options *o, struct error *err)
{
    struct calibration c = {.shape = o->shape != NULL ? o->shape : SHAPE};
    uint32_t runs = o->runs > 0 && o->runs <= RUNS_MAX ? o->runs : 7;
    int r = measure_live(o, &c, runs, err);
    if (r == 0)
        r = measure_batch(o, &c, err);
    if (r < 0)
        return r;
    json_t *profile = profile_of(&c);
    json_dumpf(profile, stdout,
               o->json ? JSON_COMPACT | JSON_REAL_PRECISION(6)
                       : JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(profile);
    return 0;
}
