/* `sllora doctor`: what this machine offers, what is missing, and what falls without it. */
#include "cli/cli.h"

#include "gpu/driver.h"
#include "gpu/trial.h"
#include "sandbox/sandbox.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct finding {
    char name[48];
    char value[192];
    char consequence[ERROR_TEXT_BYTES]; /* "": fine */
    bool needed;                        /* `serve` refuses without it */
};

/* More are counted, and not described. */
#define GPUS_SHOWN 16u
#define FINDINGS_MAX (64u + 3 * GPUS_SHOWN) /* a GPU that was tried has three more */

struct findings {
    struct finding list[FINDINGS_MAX];
    size_t count;
};

/* What came of trying the GPUs, from the first on. */
struct trials {
    struct {
        int result;
        struct gpu_trial trial;
        struct error err;
    } list[GPUS_SHOWN];
    uint32_t count;
};

struct options {
    struct cli_common common;
    bool try_gpus;
};

static struct finding *add(struct findings *f, const char *name)
{
    if (f->count == FINDINGS_MAX)
        abort();
    struct finding *x = &f->list[f->count++];
    *x = (struct finding){0};
    snprintf(x->name, sizeof x->name, "%s", name);
    return x;
}

static void note(struct finding *x, const char *consequence)
{
    snprintf(x->consequence, sizeof x->consequence, "%s", consequence);
}

/* The first line of a small file, or "". */
static void read_line(const char *path, char *to, size_t bytes)
{
    FILE *file = fopen(path, "re");
    to[0] = '\0';
    if (file != NULL && fgets(to, (int)bytes, file) != NULL)
        to[strcspn(to, "\n")] = '\0';
    if (file != NULL)
        fclose(file);
}

static void add_processor(struct findings *f)
{
    __builtin_cpu_init();
    struct finding *x = add(f, "processors");
    snprintf(x->value, sizeof x->value, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    x = add(f, "instruction sets");
    snprintf(
        x->value, sizeof x->value, "%s%s%s%s%s%s%s", "sse2",
        __builtin_cpu_supports("avx2") ? " avx2" : "", __builtin_cpu_supports("fma") ? " fma" : "",
        __builtin_cpu_supports("avx512bw") ? " avx512" : "",
        __builtin_cpu_supports("avx512vnni") ? " avx512-vnni" : "",
        __builtin_cpu_supports("avx512bf16") ? " avx512-bf16" : "",
        __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") ? " amx" : "");
    if (!__builtin_cpu_supports("avx2"))
        note(x, "the engine computes with scalar code, many times slower");
}

static void add_memory(struct findings *f)
{
    char text[96];
    struct finding *x = add(f, "memory");
    cli_bytes_text((double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE), x->value,
                   sizeof x->value);
    x = add(f, "huge pages in the pool");
    read_line("/proc/sys/vm/nr_hugepages", x->value, sizeof x->value);
    if (strcmp(x->value, "0") == 0 || x->value[0] == '\0')
        note(x, "backbones use transparent huge pages where the kernel agrees; reserve some with: "
                "sysctl vm.nr_hugepages=N (2 MiB each)");
    x = add(f, "transparent huge pages");
    read_line("/sys/kernel/mm/transparent_hugepage/enabled", x->value, sizeof x->value);
    if (strstr(x->value, "[never]") != NULL || x->value[0] == '\0')
        note(x, "cold starts map 4 KiB pages: about 75 ms for each GiB of a backbone");
    read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", text, sizeof text);
    x = add(f, "shared huge pages");
    snprintf(x->value, sizeof x->value, "%s", text);
}

static void add_sandbox(struct findings *f)
{
    struct sandbox_features have;
    sandbox_probe(&have);
    for (int i = 0; i < SANDBOX_FEATURE_COUNT; i++) {
        char name[48];
        snprintf(name, sizeof name, "sandbox: %s", sandbox_feature_name(i));
        struct finding *x = add(f, name);
        bool present = (have.have & SANDBOX_BIT(i)) != 0;
        snprintf(x->value, sizeof x->value, "%s", present ? "yes" : "no");
        if (i == SANDBOX_LANDLOCK && present)
            snprintf(x->value, sizeof x->value, "yes, ABI %d", have.landlock_abi);
        if (i == SANDBOX_MEMORY_CGROUP && present)
            snprintf(x->value, sizeof x->value, "yes, version %d", have.cgroup_version);
        if (!present)
            note(x, sandbox_feature_promise(i));
        x->needed = !present && (SANDBOX_NEEDED & SANDBOX_BIT(i)) != 0;
    }
}

static void add_limits(struct findings *f)
{
    struct finding *x = add(f, "kernel");
    read_line("/proc/sys/kernel/osrelease", x->value, sizeof x->value);
    x = add(f, "user");
    snprintf(x->value, sizeof x->value, "%s", geteuid() == 0 ? "root" : "ordinary");
    if (geteuid() != 0)
        note(x, "all workers run under your own uid; the kernel still forbids every write to a "
                "backbone");
}

/* Before this process opens the driver: trial.h. */
static void try_gpus(struct trials *t)
{
    for (; t->count < GPUS_SHOWN; t->count++) {
        struct error err = {0};
        int r = gpu_trial_run(&t->list[t->count].trial, t->count, &err);
        if (r == -ENOENT || r == -ENODEV)
            return;
        t->list[t->count].result = r;
        t->list[t->count].err = err;
    }
}

static void add_trial(struct findings *f, const struct trials *t, uint32_t index)
{
    const struct gpu_trial *o = &t->list[index].trial;
    char name[48];
    snprintf(name, sizeof name, "GPU %u: shared memory", index);
    struct finding *x = add(f, name);
    if (t->list[index].result < 0) {
        snprintf(x->value, sizeof x->value, "does not work");
        note(x, t->list[index].err.text);
        return;
    }
    snprintf(x->value, sizeof x->value,
             "%.0f MiB written at %.1f GB/s, read by another process; opened in %.0f ms",
             (double)o->bytes / 0x1p20, o->write_bytes_s / 1e9, (double)o->open_us / 1e3);
    snprintf(name, sizeof name, "GPU %u: writes of a reader", index);
    x = add(f, name);
    snprintf(x->value, sizeof x->value, "%s", o->refuses_writes ? "refused" : "not refused");
    if (!o->refuses_writes)
        note(x, "a read-only mapping does not protect a backbone here");
    snprintf(name, sizeof name, "GPU %u: a reader that asks", index);
    x = add(f, name);
    snprintf(x->value, sizeof x->value, "%s",
             o->changed_by_asking ? "may write, and all others see it"
             : o->grants_writing  ? "may write"
                                  : "may not write");
    if (o->grants_writing)
        note(x, "whoever holds the descriptor and may speak to the driver can make itself a "
                "writer: nothing but the sandbox keeps a worker from it");
}

static void add_gpu(struct findings *f, const struct gpu_driver *d, uint32_t index,
                    const struct trials *trials)
{
    struct gpu g;
    struct error err = {0};
    char name[48], memory[32], rate[32] = "";
    snprintf(name, sizeof name, "GPU %u", index);
    struct finding *x = add(f, name);
    if (gpu_look(d, index, &g, &err) < 0) {
        snprintf(x->value, sizeof x->value, "no answer");
        note(x, err.text);
        return;
    }
    cli_bytes_text((double)g.memory_bytes, memory, sizeof memory);
    if (g.memory_bytes_s > 0)
        snprintf(rate, sizeof rate, " at %.0f GB/s", g.memory_bytes_s / 1e9);
    snprintf(x->value, sizeof x->value, "%s, %s%s, %u SMs, compute capability %u.%u", g.name,
             memory, rate, g.multiprocessors, g.capability / 10, g.capability % 10);
    if (gpu_check(&g, &err) < 0) {
        snprintf(x->consequence, sizeof x->consequence, "cannot be used: %.480s", err.text);
        return;
    }
    note(x, "used by `sllora serve --device gpu`, else functions run on the processors");
    if (index < trials->count)
        add_trial(f, trials, index);
}

/* No GPU is an ordinary state; a driver that is there and does not work is worth a note. */
static void add_gpus(struct findings *f, const struct trials *trials)
{
    struct gpu_driver *d;
    struct error err = {0};
    struct finding *x = add(f, "NVIDIA driver");
    int r = gpu_driver_open(&d, NULL, &err);
    if (r == -ENOENT) {
        snprintf(x->value, sizeof x->value, "none: functions run on the processors");
        return;
    }
    if (r < 0) {
        snprintf(x->value, sizeof x->value, "not used");
        note(x, err.text);
        return;
    }
    uint32_t version = gpu_driver_version(d), count = gpu_count(d);
    snprintf(x->value, sizeof x->value, "for CUDA %u.%u, %u GPU%s", version / 1000,
             version % 1000 / 10, count, count == 1 ? "" : "s");
    for (uint32_t i = 0; i < count && i < GPUS_SHOWN; i++)
        add_gpu(f, d, i, trials);
    gpu_driver_close(d);
}

static void print(const struct findings *f)
{
    for (size_t i = 0; i < f->count; i++) {
        const struct finding *x = &f->list[i];
        printf("%-4s %-28s %s\n",
               x->needed                   ? "MISS"
               : x->consequence[0] != '\0' ? "note"
                                           : "ok",
               x->name, x->value);
        if (x->consequence[0] != '\0')
            printf("       %s\n", x->consequence);
    }
}

static void print_json(const struct findings *f, bool ready)
{
    json_t *list = json_array();
    for (size_t i = 0; i < f->count; i++) {
        const struct finding *x = &f->list[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s?, s:b}", "name", x->name, "value",
                                              x->value, "consequence",
                                              x->consequence[0] != '\0' ? x->consequence : NULL,
                                              "needed", x->needed));
    }
    json_t *o = json_pack("{s:b, s:o}", "ready", ready, "findings", list);
    cli_print_json(o);
    json_decref(o);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;
    if (key == ARGP_KEY_INIT)
        state->child_inputs[0] = &o->common;
    else if (key == 'g')
        o->try_gpus = true;
    else if (key == ARGP_KEY_ARG)
        argp_error(state, "unexpected argument \"%s\"", arg);
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

int cmd_doctor(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    static const struct argp_option options[] = {
        {"try-gpus", 'g', NULL, 0,
         "share 64 MiB of each GPU's memory with other processes, and see what they may", 0},
        {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Says what this machine offers to the service, what is missing and what that means. "
               "Exit status 1 when `sllora serve` would refuse to start.",
        .children = children,
    };
    static struct findings f;
    static struct trials trials;
    struct options o = {0};
    cli_common_init(&o.common);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    if (o.try_gpus)
        try_gpus(&trials);
    add_limits(&f);
    add_processor(&f);
    add_memory(&f);
    add_gpus(&f, &trials);
    add_sandbox(&f);
    bool ready = true;
    for (size_t i = 0; i < f.count; i++)
        ready = ready && !f.list[i].needed;
    if (o.common.json)
        print_json(&f, ready);
    else
        print(&f);
    if (!ready && !o.common.json)
        printf("\nsllora serve refuses to start here, unless with --sandbox weak.\n");
    return ready ? CLI_OK : CLI_FAILED;
}
