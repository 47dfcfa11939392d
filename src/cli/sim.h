/* What the modes of `sllora sim` share: the arguments, and a function for each mode. */
#pragma once

#include "cli/cli.h"

#include "sim/systems.h"
#include "sim/trace_generate.h"
#include "sim/trace_read.h"

#define SIM_CAPACITY_MAX 64u

struct sim_arguments {
    struct cli_common common;
    const struct sim_mode *mode; /* NULL: the event log */
    const char *log;
    const char *picture; /* a path; of the event log */
    double from_s, to_s; /* NAN: not given */
    const char *report;
    const char *profile_name;
    const char *system_name;
    const char *trace; /* a path or a class */
    enum trace_class class;
    uint32_t capacity[SIM_CAPACITY_MAX];
    size_t capacity_count;
    uint32_t functions, owners, devices, traces; /* 0: not given, like what follows */
    uint32_t prompt_tokens, new_tokens;
    uint64_t memory_bytes, kv_bytes, adapter_bytes, seed;
    double duration_s, rate, cov, zipf, speed, skip_s, hours;
    double slo_ttft_ms, slo_tpot_ms, worker_loss_s, load_failures;
    uint64_t given; /* bit i: options[i] of cmd_sim.c */
    bool has_seed, refuses_late, batch_adaptive, checks;
    uint32_t isolation; /* enum route_isolation */
    struct system_without without;
    uint32_t batch_fixed;
    uint64_t keep_alive_us;
    double price_bytes;
};

struct sim_mode {
    const char *flag;
    int key;
    const char *argument;
    const char *help;
    int (*run)(const struct sim_arguments *a, struct error *err);
};

/* Reads --profile; the default is the paper's. */
int sim_profile(const struct sim_arguments *a, struct profile *ret, struct error *err);

/* --report's directory, made where it is missing: before the work that is to be written there. */
int sim_report_dir(const struct sim_arguments *a, struct error *err);

int sim_paper(const struct sim_arguments *a, struct error *err);
int sim_scale(const struct sim_arguments *a, struct error *err);
int sim_plan_cost(const struct sim_arguments *a, struct error *err);
int sim_trace(const struct sim_arguments *a, struct error *err);
int sim_capacity(const struct sim_arguments *a, struct error *err);
/* Without a mode: the picture of the event log at `path`. */
int sim_picture(const struct sim_arguments *a, const char *path, struct error *err);
