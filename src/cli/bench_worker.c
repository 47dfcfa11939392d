/* The benchmarks of the engine: measured by the program that holds it, printed here. */
#include "cli/bench.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARGUMENTS_MAX 32

struct command {
    const char *argv[ARGUMENTS_MAX];
    char numbers[ARGUMENTS_MAX][16];
    int count;
};

static void add(struct command *c, const char *flag, const char *value)
{
    if (value == NULL || c->count + 2 >= ARGUMENTS_MAX)
        return;
    c->argv[c->count++] = flag;
    c->argv[c->count++] = value;
}

/* 0: the worker's own */
static void add_number(struct command *c, const char *flag, uint32_t value)
{
    char *text = c->numbers[c->count];
    snprintf(text, sizeof c->numbers[0], "%u", value);
    add(c, flag, value > 0 ? text : NULL);
}

/* sllora-worker stands beside this program. */
static int find_worker(char *ret, size_t bytes, struct error *err)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return error_set(err, -errno, "cannot read /proc/self/exe");
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(ret, bytes, "%s/sllora-worker", self);
    return 0;
}

int bench_engine_lines(const struct bench_options *o, const char *name, bool has_model,
                       uint32_t adapters, void (*each)(void *context, json_t *line), void *context,
                       struct error *err)
{
    char checkpoint[700], program[PATH_MAX + 16];
    const char *shape = o->shape != NULL ? o->shape : "qwen2.5-0.5b";
    struct command c = {.argv = {program, "bench", name, o->dir}, .count = 4};
    int r = find_worker(program, sizeof program, err);
    if (r == 0 && o->gpu != NULL) { /* random weights are made there */
        add(&c, "--gpu", o->gpu);
        add(&c, "--shape", shape);
    } else if (r == 0 && has_model && adapters == 0 && o->checkpoint != NULL) {
        c.argv[3] = o->checkpoint;
        add(&c, "--shape", o->shape != NULL ? o->shape : o->checkpoint);
    } else if (r == 0 && has_model) {
        r = bench_checkpoint(o, shape, adapters, checkpoint, sizeof checkpoint, err);
        c.argv[3] = checkpoint;
        add(&c, "--shape", shape);
    }
    if (r < 0)
        return r;
    add(&c, "--quant", o->quant);
    add(&c, "--adapter-quant", o->adapter_quant);
    add(&c, "--text", o->text);
    add(&c, "--kv-dtype", o->kv_dtype);
    add_number(&c, "--batch", o->batch);
    add_number(&c, "--tokens", o->tokens);
    add_number(&c, "--threads", o->threads);
    add_number(&c, "--runs", o->runs);
    add_number(&c, "--mib", o->mib);
    return bench_lines(c.argv, each, context, err);
}

static void report(void *context, json_t *line)
{
    bench_report(context, json_incref(line));
}

int bench_engine(const struct bench_options *o, const char *name, bool has_model, uint32_t adapters,
                 struct error *err)
{
    return bench_engine_lines(o, name, has_model, adapters, report, (void *)(uintptr_t)o, err);
}
