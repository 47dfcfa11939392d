/* The table of goals. Its figures stand beside other engines', which are started, asked and read by
 * bench/peer (Python, in the source tree); this finds that program and hands it the arguments. */
#include "cli/bench.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGUMENTS_MAX (24 + 2 * BENCH_PEERS_MAX)

struct places {
    char self[PATH_MAX];
    char program[PATH_MAX]; /* bench/peer/peer.py */
    char python[PATH_MAX];
};

/* This program stands in a build directory of the source tree. */
static int find_places(struct places *ret, struct error *err)
{
    char root[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", ret->self, sizeof ret->self - 1);
    if (n < 0)
        return error_set(err, -errno, "cannot read /proc/self/exe");
    ret->self[n] = '\0';
    memcpy(root, ret->self, (size_t)n + 1);
    for (int i = 0; i < 2 && strrchr(root, '/') != NULL; i++)
        *strrchr(root, '/') = '\0';
    int used = snprintf(ret->program, sizeof ret->program, "%s/bench/peer/peer.py", root);
    if (used >= (int)sizeof ret->program || access(ret->program, R_OK) < 0)
        return error_set(err, -ENOENT,
                         "there is no %s: the table is measured from the build directory of a "
                         "source tree",
                         ret->program);
    used = snprintf(ret->python, sizeof ret->python, "%s/.venv/bin/python", root);
    if (used >= (int)sizeof ret->python || access(ret->python, X_OK) < 0)
        snprintf(ret->python, sizeof ret->python, "python3");
    return 0;
}

struct command {
    const char *argv[ARGUMENTS_MAX];
    char numbers[2][16];
    int count;
};

static void add(struct command *c, const char *flag, const char *value)
{
    if (value == NULL)
        return;
    c->argv[c->count++] = flag;
    c->argv[c->count++] = value;
}

static void add_number(struct command *c, const char *flag, uint32_t value, char text[16])
{
    snprintf(text, 16, "%u", value);
    add(c, flag, value > 0 ? text : NULL);
}

static int run_command(const struct command *c, struct error *err)
{
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execvp(c->argv[0], (char *const *)(uintptr_t)c->argv);
        fprintf(stderr, "cannot run %s: %s\n", c->argv[0], strerror(errno));
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
        return error_set(err, -EIO, "%s did not finish the table", c->argv[1]);
    return 0;
}

int bench_table(const struct bench_options *o, struct error *err)
{
    struct places p;
    int r = find_places(&p, err);
    if (r < 0)
        return r;
    struct command c = {.argv = {p.python, p.program, "--table"}, .count = 3};
    add(&c, "--sllora", p.self);
    add(&c, "--dir", o->dir);
    add(&c, "--shape", o->shape);
    add(&c, "--quant", o->quant);
    add_number(&c, "--threads", o->threads, c.numbers[0]);
    add_number(&c, "--runs", o->runs, c.numbers[1]);
    for (uint32_t i = 0; i < o->peer_count; i++)
        add(&c, "--peer", o->peers[i]);
    if (o->json)
        c.argv[c.count++] = "--json";
    return run_command(&c, err);
}
