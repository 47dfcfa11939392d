/* See bench_onednn.h. */
#include "worker/bench_onednn.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Its threads wait for each other about as long as ours before they sleep. By default they never
 * do, and where a processor has other work, each product then takes the scheduler's time slice. */
#define SPIN_COUNT "3000"

static bool find_program(char *ret, size_t bytes)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return false;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(ret, bytes, "%s/sllora-onednn", self);
    return access(ret, X_OK) == 0;
}

static void run_program(const char *program, uint32_t threads, const int in[2], const int out[2])
{
    char count[16];
    const char *const argv[] = {program, NULL};
    snprintf(count, sizeof count, "%u", threads);
    setenv("OMP_NUM_THREADS", count, 1);
    setenv("GOMP_SPINCOUNT", SPIN_COUNT, 0);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    close(in[1]);
    close(out[0]);
    execv(program, (char *const *)(uintptr_t)argv);
    _exit(127);
}

bool onednn_open(struct onednn *ret, uint32_t threads)
{
    char program[PATH_MAX + 16];
    int in[2], out[2];
    *ret = (struct onednn){0};
    if (!find_program(program, sizeof program) || pipe(in) < 0)
        return false;
    if (pipe(out) < 0) {
        close(in[0]);
        close(in[1]);
        return false;
    }
    signal(SIGPIPE, SIG_IGN); /* it may lack its library and end at once */
    ret->pid = fork();
    if (ret->pid == 0)
        run_program(program, threads, in, out);
    close(in[0]);
    close(out[1]);
    ret->to = fdopen(in[1], "w");
    ret->from = fdopen(out[0], "r");
    if (ret->pid > 0 && onednn_us(ret, "f32", 1, 1, 1, 1) > 0)
        return true;
    onednn_close(ret);
    return false;
}

void onednn_close(struct onednn *o)
{
    if (o->to != NULL)
        fclose(o->to);
    if (o->from != NULL)
        fclose(o->from);
    if (o->pid > 0)
        waitpid(o->pid, NULL, 0);
    *o = (struct onednn){0};
}

double onednn_us(const struct onednn *o, const char *type, uint32_t rows, uint32_t in, uint32_t out,
                 size_t bytes)
{
    char line[64];
    if (o->to == NULL || o->from == NULL)
        return 0;
    fprintf(o->to, "%s %u %u %u %zu\n", type, rows, in, out, bytes);
    return fflush(o->to) == 0 && fgets(line, sizeof line, o->from) != NULL ? strtod(line, NULL) : 0;
}
