/* The server under measurement and its checkpoints. See bench.h. */
#include "cli/bench.h"
#include "cli/cli.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TIMEOUT_US 10000000u
#define ARGUMENTS_MAX 32

/* Runs this program with other arguments; its output goes to `log`. */
static pid_t spawn_self(const char *const *argv, const char *log)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd >= 0) {
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
    }
    execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
    _exit(127);
}

static int run_self(const char *const *argv, const char *log, struct error *err)
{
    int status = 0;
    pid_t pid = spawn_self(argv, log);
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return error_set(err, -errno, "cannot run %s: %s", argv[0], strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return error_set(err, -EIO, "%s %s failed; %s says why", argv[0], argv[1], log);
    return 0;
}

int bench_checkpoint(const struct bench_options *o, const char *shape, uint32_t adapters,
                     char *ret_path, size_t bytes, struct error *err)
{
    char log[600], count[16];
    snprintf(ret_path, bytes, "%s/%s-%u", o->dir, shape, adapters);
    snprintf(log, sizeof log, "%s/synth.log", o->dir);
    snprintf(count, sizeof count, "%u", adapters);
    if (access(ret_path, F_OK) == 0)
        return 0;
    fprintf(stderr, "writing a checkpoint in the shape of %s\n", shape);
    const char *argv[] = {"sllora", "synth",  ret_path, "--shape", shape, "--adapters",
                          count,    "--rank", "16",     "--seed",  "1",   NULL};
    return run_self(argv, log, err);
}

static int wait_until_ready(struct bench_server *s, struct error *err)
{
    uint64_t end_us = clock_now_us() + START_TIMEOUT_US;
    json_t *status = NULL;
    while (client_json(s->client, "GET", "/admin/status", NULL, &status, NULL) != 200) {
        json_decref(status);
        status = NULL;
        if (clock_now_us() > end_us || waitpid(s->pid, NULL, WNOHANG) == s->pid) {
            s->pid = 0;
            return error_set(err, -ETIMEDOUT, "the server did not start; %s/serve.log says why",
                             s->data_dir);
        }
        usleep(10000);
    }
    s->port = (uint16_t)json_integer_value(json_object_get(status, "port"));
    json_decref(status);
    return 0;
}

int bench_server_start(struct bench_server *ret, const struct bench_options *o,
                       const char *const *flags, struct error *err)
{
    char log[700];
    struct bench_server s = {0};
    snprintf(s.data_dir, sizeof s.data_dir, "%s/%s", o->dir, o->data != NULL ? o->data : "data");
    mkdir(s.data_dir, 0700);
    snprintf(log, sizeof log, "%s/serve.log", s.data_dir);
    const char *argv[ARGUMENTS_MAX] = {"sllora",   "serve",    "--data",
                                       s.data_dir, "--listen", "127.0.0.1:0"};
    int count = 6;
    for (; flags != NULL && *flags != NULL && count < ARGUMENTS_MAX - 1; flags++)
        argv[count++] = *flags;
    int r = client_open(&s.client, s.data_dir, err);
    if (r < 0)
        return r;
    s.pid = spawn_self(argv, log);
    r = s.pid < 0 ? error_set(err, -errno, "cannot start a server: %s", strerror(errno))
                  : wait_until_ready(&s, err);
    if (r < 0) {
        bench_server_stop(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void bench_server_stop(struct bench_server *s)
{
    if (s->pid > 0) {
        kill(s->pid, SIGTERM);
        waitpid(s->pid, NULL, 0);
    }
    client_close(s->client);
    *s = (struct bench_server){0};
}

bool bench_server_settle(struct bench_server *s, double seconds)
{
    uint64_t end_us = clock_now_us() + (uint64_t)(seconds * 1e6);
    json_int_t spares = 0;
    do {
        json_t *status = NULL;
        usleep(20000);
        if (bench_get(s, "/admin/status", &status, NULL) == 0)
            spares = json_integer_value(json_object_get(status, "spares"));
        json_decref(status);
    } while (spares == 0 && clock_now_us() < end_us);
    usleep(100000); /* and adapters */
    return spares > 0;
}

static int on_deploy_line(void *context, const char *line, size_t len)
{
    json_t *o = json_loadb(line, len, 0, NULL);
    const char *state = json_string_value(json_object_get(o, "state"));
    const char *reason = NULL;
    struct error *err = context;
    json_unpack(o, "{s:{s:s}}", "error", "message", &reason);
    if (state != NULL && strcmp(state, "deployed") == 0)
        err->code = 0;
    else if (reason != NULL)
        error_set(err, -EINVAL, "deploy: %s", reason);
    json_decref(o);
    return 0;
}

int bench_deploy(struct bench_server *s, const char *name, const char *owner,
                 const char *checkpoint, int adapter, struct error *err)
{
    char base[PATH_MAX], path[PATH_MAX + 64];
    if (realpath(checkpoint, base) == NULL)
        return error_set(err, -errno, "%s: %s", checkpoint, strerror(errno));
    json_t *body = json_pack("{s:s, s:s, s:s}", "name", name, "owner", owner, "backbone", base);
    if (adapter >= 0) {
        snprintf(path, sizeof path, "%s/adapters/adapter-%d", base, adapter);
        json_object_set_new(body, "adapter", json_string(path));
    }
    struct error result = {.code = -EIO, .text = "the server did not answer a deploy"};
    json_t *refusal = NULL;
    const char *reason = NULL;
    int r = client_lines(s->client, "POST", "/admin/functions", body, on_deploy_line, &result,
                         &refusal, err);
    json_decref(body);
    if (r < 0)
        return r;
    if (json_unpack(refusal, "{s:{s:s}}", "error", "message", &reason) == 0)
        error_set(&result, -EINVAL, "deploy: %s", reason);
    json_decref(refusal);
    return result.code < 0 ? error_set(err, result.code, "%s", result.text) : 0;
}

int bench_get(struct bench_server *s, const char *path, json_t **ret, struct error *err)
{
    int status = client_json(s->client, "GET", path, NULL, ret, err);
    if (status < 0)
        return status;
    return status == 200 ? 0 : error_set(err, -EIO, "%s was answered with %d", path, status);
}

int bench_ask(struct bench_server *s, const char *function, uint32_t prompt_tokens,
              uint32_t new_tokens, double *ret_ms, struct error *err)
{
    json_t *answer = NULL, *prompt = json_array();
    for (uint32_t i = 0; i < prompt_tokens; i++)
        json_array_append_new(prompt, json_integer(11 + i % 100));
    json_t *body = json_pack("{s:s, s:o, s:i, s:i, s:b}", "model", function, "prompt", prompt,
                             "max_tokens", (int)new_tokens, "temperature", 0, "ignore_eos", true);
    uint64_t began_us = clock_now_us();
    int status = client_json(s->client, "POST", "/v1/completions", body, &answer, err);
    *ret_ms = (double)(clock_now_us() - began_us) / 1e3;
    json_decref(body);
    const char *message = NULL;
    if (status >= 0 && status != 200)
        json_unpack(answer, "{s:{s:s}}", "error", "message", &message);
    int r = status < 0 || status == 200 ? 0
                                        : error_set(err, -EIO, "a request was answered with %d: %s",
                                                    status, message != NULL ? message : "");
    json_decref(answer);
    return status < 0 ? status : r;
}

int bench_deploy_all(struct bench_server *s, const char *checkpoint, struct error *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < BENCH_FUNCTIONS; i++) {
        char name[16], owner[16];
        snprintf(name, sizeof name, "f%u", i);
        snprintf(owner, sizeof owner, "owner%u", i);
        r = bench_deploy(s, name, owner, checkpoint, (int)i, err);
    }
    return r;
}

/* --- what other commands print --- */

int bench_lines(const char *const *argv, void (*each)(void *context, json_t *line), void *context,
                struct error *err)
{
    char line[65536];
    int fds[2], status = 0;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(fds[1]);
    FILE *from = fdopen(fds[0], "r");
    while (from != NULL && fgets(line, sizeof line, from) != NULL) {
        json_t *o = json_loads(line, 0, NULL);
        if (o != NULL)
            each(context, o);
        json_decref(o);
    }
    if (from != NULL)
        fclose(from);
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
        return error_set(err, -EIO, "%s %s failed", argv[0], argv[1]);
    return 0;
}

static void keep_first(void *context, json_t *line)
{
    json_t **ret = context;
    if (*ret == NULL)
        *ret = json_incref(line);
}

int bench_self(const char *const *argv, json_t **ret, struct error *err)
{
    char self[PATH_MAX];
    const char *with[ARGUMENTS_MAX] = {self};
    int count = 1;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return error_set(err, -errno, "cannot read /proc/self/exe");
    self[n] = '\0';
    for (; *argv != NULL && count < ARGUMENTS_MAX - 2; argv++)
        with[count++] = *argv;
    with[count] = "--json";
    *ret = NULL;
    int r = bench_lines(with, keep_first, ret, err);
    if (r == 0 && *ret == NULL)
        r = error_set(err, -EPROTO, "sllora %s printed no figures", with[1]);
    return r;
}

/* --- figures --- */

static int order(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, uint32_t count)
{
    qsort(values, count, sizeof values[0], order);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

void bench_report(const struct bench_options *o, json_t *figure)
{
    if (o->json) {
        cli_print_json(figure);
    } else {
        const char *key;
        json_t *v;
        json_object_foreach(figure, key, v)
        {
            if (json_is_string(v))
                printf("%s %s  ", key, json_string_value(v));
            else if (json_is_integer(v))
                printf("%s %lld  ", key, json_integer_value(v));
            else
                printf("%s %.3f  ", key, json_number_value(v));
        }
        putchar('\n');
        fflush(stdout);
    }
    json_decref(figure);
}
