/* The benchmarks of the whole service: memory shared, cold starts, the gateway's share of time. */
#include "cli/bench.h"
#include "cli/load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FUNCTIONS_MAX 16u
#define RUNS_MAX 99u

/* --- sharing --- */

/* Proportional memory of a process, 2 MiB pool pages included (the kernel leaves them out). */
static long long pss_kib(pid_t pid)
{
    char path[64], line[256];
    long long total = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        long long kib = 0;
        if (sscanf(line, "Pss: %lld kB", &kib) == 1 ||
            sscanf(line, "Private_Hugetlb: %lld kB", &kib) == 1)
            total += kib;
    }
    if (f != NULL)
        fclose(f);
    return total;
}

struct memory {
    long long total_kib; /* of keepers and workers */
    long long kv_kib;
    long long backbone_kib;
};

static int read_memory(struct bench_server *s, struct memory *ret, struct error *err)
{
    json_t *status = NULL;
    size_t i;
    json_t *o;
    int r = bench_get(s, "/admin/status", &status, err);
    if (r < 0)
        return r;
    *ret = (struct memory){0};
    json_array_foreach(json_object_get(status, "workers"), i, o)
    {
        ret->total_kib += pss_kib((pid_t)json_integer_value(json_object_get(o, "pid")));
        ret->kv_kib += json_integer_value(json_object_get(o, "kv_bytes")) / 1024;
    }
    json_array_foreach(json_object_get(status, "backbones"), i, o)
    {
        ret->total_kib += pss_kib((pid_t)json_integer_value(json_object_get(o, "keeper_pid")));
        ret->backbone_kib += json_integer_value(json_object_get(o, "bytes")) / 1024;
    }
    json_decref(status);
    return 0;
}

static int adapter_kib(struct bench_server *s, long long *ret, struct error *err)
{
    json_t *f = NULL;
    int r = bench_get(s, "/admin/functions/f0", &f, err);
    if (r == 0)
        *ret = json_integer_value(json_object_get(json_object_get(f, "adapter"), "bytes")) / 1024;
    json_decref(f);
    return r;
}

static int measure_sharing(const struct bench_options *o, struct bench_server *s, struct error *err)
{
    static const uint32_t counts[] = {1, 4, FUNCTIONS_MAX};
    uint32_t asked = 0;
    long long first_kib = 0, adapter = 0;
    int r = adapter_kib(s, &adapter, err);
    for (size_t step = 0; r == 0 && step < sizeof counts / sizeof counts[0]; step++) {
        uint32_t n = counts[step];
        struct memory idle = {0}, busy = {0};
        double ms;
        char name[16];
        for (; r == 0 && asked < n; asked++) {
            snprintf(name, sizeof name, "f%u", asked);
            r = bench_ask(s, name, 8, 4, &ms, err);
        }
        if (r == 0)
            r = read_memory(s, &busy, err); /* activations are still held */
        usleep(2500000);                    /* an idle worker gives its activations back */
        if (r == 0)
            r = read_memory(s, &idle, err);
        if (r < 0)
            return r;
        if (n == 1)
            first_kib = idle.total_kib;
        long long further = n > 1 ? (idle.total_kib - first_kib) / (n - 1) : 0;
        bench_report(o,
                     json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I}", "bench", "sharing",
                               "functions", (int)n, "backbone_kib", (json_int_t)idle.backbone_kib,
                               "pss_total_kib", (json_int_t)idle.total_kib,
                               "pss_per_further_function_kib", (json_int_t)further, "adapter_kib",
                               (json_int_t)adapter, "kv_kib", (json_int_t)idle.kv_kib,
                               "pss_busy_total_kib", (json_int_t)busy.total_kib));
    }
    return r;
}

int bench_sharing(const struct bench_options *o, struct error *err)
{
    static const char *const flags[] = {"--keep-alive", "600", NULL};
    char checkpoint[700];
    struct bench_server s = {0};
    int r = bench_checkpoint(o, o->shape != NULL ? o->shape : "qwen2.5-0.5b", FUNCTIONS_MAX,
                             checkpoint, sizeof checkpoint, err);
    if (r == 0)
        r = bench_server_start(&s, o, flags, err);
    for (uint32_t i = 0; r == 0 && i < FUNCTIONS_MAX; i++) {
        char name[16], owner[16];
        snprintf(name, sizeof name, "f%u", i);
        snprintf(owner, sizeof owner, "owner%u", i);
        r = bench_deploy(&s, name, owner, checkpoint, (int)i, err);
    }
    if (r == 0)
        r = measure_sharing(o, &s, err);
    bench_server_stop(&s);
    return r;
}

/* --- cold start --- */

static double start_part(const json_t *function, const char *part)
{
    return json_number_value(json_object_get(json_object_get(function, "last_start"), part));
}

struct cold_runs {
    double cold[RUNS_MAX], warm[RUNS_MAX], added[RUNS_MAX];
    double spawn[RUNS_MAX], sandbox[RUNS_MAX], attach[RUNS_MAX], bind[RUNS_MAX];
};

static int cold_once(struct bench_server *s, struct cold_runs *c, uint32_t i, struct error *err)
{
    json_t *f = NULL;
    usleep(400000); /* longer than the keep-alive: there is no process now */
    int r = bench_get(s, "/admin/functions/f0", &f, err);
    if (r == 0 && !json_is_null(json_object_get(f, "pid")))
        r = error_set(err, -EBUSY, "the process did not end in time");
    json_decref(f);
    if (r == 0)
        r = bench_ask(s, "f0", 8, 1, &c->cold[i], err);
    if (r == 0)
        r = bench_ask(s, "f0", 8, 1, &c->warm[i], err);
    if (r == 0)
        r = bench_get(s, "/admin/functions/f0", &f, err);
    if (r < 0)
        return r;
    c->added[i] = c->cold[i] - c->warm[i];
    c->spawn[i] = start_part(f, "spawn_ms");
    c->sandbox[i] = start_part(f, "sandbox_ms");
    c->attach[i] = start_part(f, "attach_ms");
    c->bind[i] = start_part(f, "bind_ms");
    json_decref(f);
    return 0;
}

int bench_coldstart(const struct bench_options *o, struct error *err)
{
    static const char *const flags[] = {"--keep-alive", "0.15", NULL};
    static struct cold_runs c;
    char checkpoint[700];
    struct bench_server s = {0};
    double first_ms;
    uint32_t runs = o->runs > 0 ? o->runs : 15;
    const char *shape = o->shape != NULL ? o->shape : "qwen2.5-0.5b";
    int r = bench_checkpoint(o, shape, FUNCTIONS_MAX, checkpoint, sizeof checkpoint, err);
    if (r == 0)
        r = bench_server_start(&s, o, flags, err);
    if (r == 0)
        r = bench_deploy(&s, "f0", "owner0", checkpoint, 0, err);
    if (r == 0)
        r = bench_ask(&s, "f0", 8, 1, &first_ms, err); /* the backbone becomes resident */
    for (uint32_t i = 0; r == 0 && i < runs && i < RUNS_MAX; i++)
        r = cold_once(&s, &c, i, err);
    bench_server_stop(&s);
    if (r < 0)
        return r;
    bench_report(o, json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "bench",
                              "coldstart", "shape", shape, "runs", (int)runs, "warm_ms",
                              bench_median(c.warm, runs), "cold_ms", bench_median(c.cold, runs),
                              "added_ms", bench_median(c.added, runs), "spawn_ms",
                              bench_median(c.spawn, runs), "sandbox_ms",
                              bench_median(c.sandbox, runs), "attach_ms",
                              bench_median(c.attach, runs), "bind_ms", bench_median(c.bind, runs)));
    return 0;
}

/* --- gateway --- */

static double worker_ms_total(struct bench_server *s, struct error *err)
{
    json_t *f = NULL;
    double ms = -1;
    if (bench_get(s, "/admin/functions/f0", &f, err) == 0)
        ms = json_number_value(json_object_get(json_object_get(f, "totals"), "worker_ms"));
    json_decref(f);
    return ms;
}

static int load_once(struct bench_server *s, const char *path, const char *body,
                     uint32_t connections, struct load_result *ret, double *ret_worker_ms,
                     struct error *err)
{
    const struct load_options l = {
        .port = s->port, .path = path, .body = body, .connections = connections, .requests = 4000};
    double before = worker_ms_total(s, err);
    int r = before < 0 ? err->code : load_run(&l, ret, err);
    if (r == 0 && ret->failures > 0)
        r = error_set(err, -EIO, "%u requests were refused", ret->failures);
    *ret_worker_ms = (worker_ms_total(s, err) - before) / l.requests;
    return r;
}

static int gateway_case(const struct bench_options *o, struct bench_server *s, const char *path,
                        const char *body, uint32_t connections, struct error *err)
{
    double rps[RUNS_MAX], p50[RUNS_MAX], p99[RUNS_MAX], worker[RUNS_MAX], added[RUNS_MAX];
    uint32_t runs = o->runs > 0 && o->runs <= RUNS_MAX ? o->runs : 5;
    for (uint32_t i = 0; i < runs; i++) {
        struct load_result result;
        int r = load_once(s, path, body, connections, &result, &worker[i], err);
        if (r < 0)
            return r;
        rps[i] = result.requests_per_s;
        p50[i] = result.p50_ms;
        p99[i] = result.p99_ms;
        added[i] = p50[i] - worker[i];
    }
    json_t *figure = json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:f}", "bench", "gateway", "path",
                               path, "connections", (int)connections, "requests_s",
                               bench_median(rps, runs), "p50_ms", bench_median(p50, runs), "p99_ms",
                               bench_median(p99, runs), "worker_ms", bench_median(worker, runs));
    /* With several connections requests wait for each other, which is nobody's overhead. */
    if (connections == 1)
        json_object_set_new(figure, "added_ms", json_real(bench_median(added, runs)));
    bench_report(o, figure);
    return 0;
}

int bench_gateway(const struct bench_options *o, struct error *err)
{
    static const char *const flags[] = {"--keep-alive", "600", "--event-log", "", NULL};
    static const struct {
        const char *path;
        const char *body;
    } cases[] = {
        {"/v1/completions", "{\"model\":\"f0\",\"prompt\":\"Hello, how are "
                            "you?\",\"max_tokens\":1,\"temperature\":0}"},
        {"/v1/chat/completions",
         "{\"model\":\"f0\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello, how are you?\"}],"
         "\"max_tokens\":1,\"temperature\":0}"},
    };
    static const uint32_t connections[] = {1, 8, 32};
    char checkpoint[700];
    struct bench_server s = {0};
    double ms;
    int r = bench_checkpoint(o, "tiny", 0, checkpoint, sizeof checkpoint, err);
    if (r == 0)
        r = bench_server_start(&s, o, flags, err);
    if (r == 0)
        r = bench_deploy(&s, "f0", "owner0", checkpoint, -1, err);
    if (r == 0)
        r = bench_ask(&s, "f0", 8, 1, &ms, err);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        for (size_t n = 0; r == 0 && n < sizeof connections / sizeof connections[0]; n++)
            r = gateway_case(o, &s, cases[c].path, cases[c].body, connections[n], err);
    }
    bench_server_stop(&s);
    return r;
}
