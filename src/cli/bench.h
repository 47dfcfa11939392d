/*
 * What the benchmarks of the whole service share: a checkpoint with random weights, a server of
 * their own in a directory of their own, requests, and how results are printed.
 */
#pragma once

#include "cli/client.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_PEERS_MAX 4u

struct bench_options {
    const char *shape;         /* NULL: the benchmark's own */
    const char *quant;         /* like the numbers: NULL or 0: the benchmark's own */
    const char *adapter_quant; /* of adapters */
    const char *kv_dtype;
    const char *gpu; /* the index of the GPU that is measured; NULL: the processors are */
    uint32_t batch;
    uint32_t tokens;
    uint32_t threads;
    uint32_t runs;
    double seconds;                     /* of each run of a trace */
    double rate;                        /* requests a second */
    const char *profile;                /* of the simulator, that a live run is compared with */
    const char *checkpoint;             /* NULL: random weights in the shape */
    const char *text;                   /* NULL: random tokens */
    uint32_t mib;                       /* of memory and file that ceilings are measured with */
    const char *peers[BENCH_PEERS_MAX]; /* other engines that `table` measures beside ours */
    uint32_t peer_count;
    bool json;
    char dir[512];    /* everything is written below it */
    const char *data; /* there, of servers; NULL: data */
};

/* A figure: one JSON object a line with --json, else "key value" pairs. Takes the reference. */
void bench_report(const struct bench_options *o, json_t *figure);

/* Writes a checkpoint of this shape (once) and returns its directory in ret_path. */
int bench_checkpoint(const struct bench_options *o, const char *shape, uint32_t adapters,
                     char *ret_path, size_t bytes, struct error *err);

struct bench_server {
    pid_t pid;
    uint16_t port;
    struct client *client;
    char data_dir[600];
};

/* `flags`: more flags of `sllora serve`, NULL-terminated. */
int bench_server_start(struct bench_server *ret, const struct bench_options *o,
                       const char *const *flags, struct error *err);
void bench_server_stop(struct bench_server *s);
/* Until what is deployed is in memory, with a process to spare; false when it is not by then. */
bool bench_server_settle(struct bench_server *s, double seconds);

/* adapter < 0: the bare backbone. */
int bench_deploy(struct bench_server *s, const char *name, const char *owner,
                 const char *checkpoint, int adapter, struct error *err);
int bench_get(struct bench_server *s, const char *path, json_t **ret, struct error *err);
/* One completion of a prompt of so many tokens, to so many new ones, not streamed; how long it
 * took. */
int bench_ask(struct bench_server *s, const char *function, uint32_t prompt_tokens,
              uint32_t new_tokens, double *ret_ms, struct error *err);

/* The functions f0 to f7 of as many owners, each with its adapter of the checkpoint. */
#define BENCH_FUNCTIONS 8u
int bench_deploy_all(struct bench_server *s, const char *checkpoint, struct error *err);

/* What a program prints, a JSON object a line, one after the other to `each`. */
int bench_lines(const char *const *argv, void (*each)(void *context, json_t *line), void *context,
                struct error *err);
/* The first line of `sllora COMMAND ... --json`. */
int bench_self(const char *const *argv, json_t **ret, struct error *err);

double bench_median(double *values, uint32_t count); /* sorts them */

int bench_sharing(const struct bench_options *o, struct error *err);
int bench_coldstart(const struct bench_options *o, struct error *err);
int bench_gateway(const struct bench_options *o, struct error *err);
int bench_serverless(const struct bench_options *o, struct error *err);
int bench_slo(const struct bench_options *o, struct error *err);
int bench_truth(const struct bench_options *o, struct error *err);
int bench_calibrate(const struct bench_options *o, struct error *err);
int bench_table(const struct bench_options *o, struct error *err);
/* What sllora-worker measures: `name`, on a checkpoint with so many adapters; without a model it
 * gets the directory alone. */
int bench_engine(const struct bench_options *o, const char *name, bool has_model, uint32_t adapters,
                 struct error *err);
/* The same, to `each` instead of the reader. */
int bench_engine_lines(const struct bench_options *o, const char *name, bool has_model,
                       uint32_t adapters, void (*each)(void *context, json_t *line), void *context,
                       struct error *err);
