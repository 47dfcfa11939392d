/*
 * What keeps a reader of shared GPU memory from changing it: the hardware and the driver, or its
 * own good manners? One process, the keeper, fills memory as it does with a backbone; for each
 * probe a fresh process (this program again, for nothing of a driver survives a fork) maps it as a
 * worker does and tries one thing (gpu_probe_try.c). What counts is what the keeper then finds in
 * its memory, not what the driver answered; so it is also a result when a probe hangs or crashes.
 * SECURITY.md has the results.
 */
#include "gpu_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "gpu/memory.h"
#include "wire/chan.h"

#define CHILD "--child" /* the first argument of a process that this program starts */
#define LINE_BYTES_MAX (64u << 10)
#define MIB_MAX (UINT64_C(1) << 20)
#define TIMEOUT_S_MAX 3600
#define REAP_US_MAX 10000000 /* a process that the kernel does not end after SIGKILL is left */

enum { EXIT_RAN = 0, EXIT_BROKEN = 1, EXIT_USAGE = 2, EXIT_NO_GPU = 3 };

static const char *const NAMES[PROBE_COUNT] = {
    [PROBE_READ] = "read",     [PROBE_LAUNCH] = "launch",         [PROBE_STORE] = "store",
    [PROBE_ATOMIC] = "atomic", [PROBE_MEMSET] = "memset",         [PROBE_COPY] = "copy",
    [PROBE_ASK] = "ask-write", [PROBE_SECOND_MAP] = "second-map", [PROBE_IMPORT_ANEW] = "reimport",
};

/* What the keeper finds, with the memory's descriptor when it is well. */
struct report {
    int code;    /* 0, or errno with a reason: it is not well */
    bool no_gpu; /* there is no driver, or no such GPU */
    bool is_counted;
    uint64_t changed_bytes, mapped_bytes;
    uint32_t driver_version;
    char gpu[GPU_NAME_BYTES];
    char text[ERROR_TEXT_BYTES];
};

/* --- the keeper --- */

struct keeper {
    struct probe_task task;
    struct gpu_driver *driver;
    struct gpu_context *context;
    struct gpu_memory *memory;
    uint32_t *piece;
    struct report report;
};

static int keeper_open(struct keeper *k, struct error *err)
{
    struct gpu g;
    k->piece = malloc(PROBE_PIECE_BYTES);
    if (k->piece == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    int r = gpu_driver_open(&k->driver, NULL, err);
    if (r == 0 && k->task.device >= gpu_count(k->driver))
        r = error_set(err, -ENODEV, "there is no GPU %u", k->task.device);
    k->report.no_gpu = r < 0;
    if (r == 0)
        r = gpu_look(k->driver, k->task.device, &g, err);
    if (r == 0)
        r = gpu_check(&g, err);
    if (r == 0)
        r = gpu_context_open(&k->context, k->driver, k->task.device, err);
    if (r == 0)
        r = gpu_memory_create_shared(&k->memory, k->context, k->task.bytes, err);
    if (r < 0)
        return r;
    snprintf(k->report.gpu, sizeof k->report.gpu, "%s", g.name);
    k->report.driver_version = gpu_driver_version(k->driver);
    k->report.mapped_bytes = gpu_memory_bytes(k->memory);
    return 0;
}

static uint64_t piece_bytes(const struct keeper *k, uint64_t at)
{
    const uint64_t left = k->task.bytes - at;
    return left < PROBE_PIECE_BYTES ? left : PROBE_PIECE_BYTES;
}

static int keeper_write(struct keeper *k, struct error *err)
{
    int r = 0;
    for (uint64_t at = 0; r == 0 && at < k->task.bytes; at += PROBE_PIECE_BYTES) {
        for (uint64_t i = 0; i < PROBE_PIECE_BYTES / sizeof *k->piece; i++)
            k->piece[i] = probe_word(at / sizeof *k->piece + i);
        r = gpu_memory_write(k->memory, at, k->piece, piece_bytes(k, at), err);
    }
    return r;
}

static int keeper_count(struct keeper *k, uint64_t *ret_changed, struct error *err)
{
    int r = 0;
    *ret_changed = 0;
    for (uint64_t at = 0; r == 0 && at < k->task.bytes; at += PROBE_PIECE_BYTES) {
        const uint64_t bytes = piece_bytes(k, at);
        r = gpu_memory_read(k->memory, at, k->piece, bytes, err);
        if (r == 0)
            *ret_changed += probe_count_changed(k->piece, at / sizeof *k->piece, bytes);
    }
    return r;
}

/* What has become of the memory; and whether all of it can be written, read and exported still,
 * which leaves it as the next probe is to find it. */
static int keeper_check(struct keeper *k, int *ret_fd, struct error *err)
{
    uint64_t left = 0;
    k->report.is_counted = false;
    int r = keeper_count(k, &k->report.changed_bytes, err);
    if (r == 0) {
        k->report.is_counted = true;
        r = keeper_write(k, err);
    }
    if (r == 0)
        r = keeper_count(k, &left, err);
    if (r == 0 && left > 0)
        r = error_set(err, -EIO, "%" PRIu64 " bytes are not what was just written", left);
    return r == 0 ? gpu_memory_export(k->memory, ret_fd, err) : r;
}

/* Reports, and again whenever anything comes: what comes is the question. */
static _Noreturn void keeper_run(const struct probe_task *task, int chan)
{
    static struct chan_message question;
    struct keeper k = {.task = *task};
    struct error err = {0};
    int r = keeper_open(&k, &err);
    if (r == 0)
        r = keeper_write(&k, &err);
    do {
        int fd = -1;
        chan_message_clear(&question);
        if (r == 0)
            r = keeper_check(&k, &fd, &err);
        k.report.code = r;
        snprintf(k.report.text, sizeof k.report.text, "%s", err.text);
        if (chan_send(chan, &k.report, sizeof k.report, &fd, fd >= 0, 0) < 0)
            _exit(1);
        if (fd >= 0)
            close(fd);
    } while (r == 0 && chan_receive(chan, &question, 0) == 1);
    _exit(0);
}

/* --- processes --- */

struct child {
    pid_t pid; /* 0: none */
    int chan;
};

static _Noreturn void child_run(int chan)
{
    static struct chan_message m;
    static struct probe_task task;
    if (chan_receive(chan, &m, 0) != 1 || m.len != sizeof task)
        _exit(0); /* the program that started it is gone */
    memcpy(&task, m.bytes, sizeof task);
    if (task.is_keeper)
        keeper_run(&task, chan);
    probe_try(&task, m.fd_count == 1 ? m.fds[0] : -1, chan);
}

static _Noreturn void become_child(int chan)
{
    char number[16];
    const struct rlimit no_core = {0, 0};
    snprintf(number, sizeof number, "%d", chan);
    char *argv[] = {(char[]){"gpu_probe"}, (char[]){CHILD}, number, NULL};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* also where the driver hangs */
    (void)setrlimit(RLIMIT_CORE, &no_core);
    if (fcntl(chan, F_SETFD, 0) == 0)
        execv("/proc/self/exe", argv);
    _exit(127);
}

static int child_start(struct child *ret, const struct probe_task *task, int fd, struct error *err)
{
    int pair[2];
    int r = chan_pair(pair, err);
    if (r < 0)
        return r;
    const pid_t pid = fork();
    if (pid == 0)
        become_child(pair[1]);
    close(pair[1]);
    if (pid < 0)
        r = error_set(err, -errno, "cannot start a process: %s", strerror(errno));
    else if (chan_send(pair[0], task, sizeof *task, &fd, fd >= 0, 0) < 0)
        r = error_set(err, -EIO, "a process that was started has ended at once");
    *ret = (struct child){pid, pair[0]};
    return r;
}

/* Waits for its end; false: it does not end. */
static bool child_reap(struct child *c, int *ret_status)
{
    const uint64_t began_us = clock_now_us();
    const struct timespec pause = {0, 2000000};
    pid_t got;
    while ((got = waitpid(c->pid, ret_status, WNOHANG)) == 0) {
        if (clock_now_us() - began_us > REAP_US_MAX)
            return false;
        (void)nanosleep(&pause, NULL);
    }
    return got == c->pid;
}

static void child_stop(struct child *c)
{
    int status;
    if (c->pid > 0) {
        kill(c->pid, SIGKILL);
        (void)child_reap(c, &status);
    }
    close(c->chan);
    *c = (struct child){0, -1};
}

/* It has closed its end without an answer. */
static int child_died(struct child *c, struct error *err)
{
    int status;
    if (!child_reap(c, &status))
        return error_set(err, -EIO, "it says nothing any more and does not end");
    c->pid = 0;
    if (WIFSIGNALED(status))
        return error_set(err, -EIO, "killed by signal %d", WTERMSIG(status));
    return error_set(err, -EIO, "ended with status %d and no answer", WEXITSTATUS(status));
}

/* Its answer of `bytes`, and the descriptor that comes with it (-1: none). */
static int child_hear(struct child *c, void *ret, size_t bytes, int *ret_fd, uint32_t timeout_s,
                      struct error *err)
{
    static struct chan_message m;
    struct pollfd p = {.fd = c->chan, .events = POLLIN};
    int r = 0;
    if (poll(&p, 1, (int)timeout_s * 1000) != 1) {
        r = error_set(err, -ETIMEDOUT, "no answer within %u s", timeout_s);
    } else if (chan_receive(c->chan, &m, 0) != 1 || m.len != bytes) {
        r = child_died(c, err);
    } else {
        memcpy(ret, m.bytes, bytes);
        if (m.fd_count > 0) {
            *ret_fd = m.fds[0];
            m.fds[0] = -1;
        }
    }
    chan_message_clear(&m);
    return r;
}

/* --- the probes, one after the other --- */

struct options {
    uint32_t device, timeout_s;
    uint64_t bytes;
    bool json;
};

struct bed {
    struct options options;
    struct child keeper;
    struct report report; /* its last one */
    int memory_fd;
};

struct outcome {
    bool has_answered;
    struct probe_answer answer;
    struct report report;
};

static void forget_fd(struct bed *b)
{
    if (b->memory_fd >= 0)
        close(b->memory_fd);
    b->memory_fd = -1;
}

static int keeper_hear(struct bed *b, struct error *err)
{
    forget_fd(b);
    b->report = (struct report){0};
    int r = child_hear(&b->keeper, &b->report, sizeof b->report, &b->memory_fd,
                       b->options.timeout_s, err);
    if (r == 0 && b->report.code < 0)
        r = error_set(err, b->report.code, "%s", b->report.text);
    return r == 0 && b->memory_fd < 0 ? error_set(err, -EIO, "no descriptor has come") : r;
}

static int keeper_start(struct bed *b, struct error *err)
{
    const struct probe_task task = {
        .is_keeper = true, .device = b->options.device, .bytes = b->options.bytes};
    int r = child_start(&b->keeper, &task, -1, err);
    return r == 0 ? keeper_hear(b, err) : r;
}

static void probe_run(struct bed *b, enum probe probe, bool denies_ioctl, struct outcome *ret)
{
    const struct probe_task task = {.device = b->options.device,
                                    .bytes = b->options.bytes,
                                    .mapped_bytes = b->report.mapped_bytes,
                                    .probe = probe,
                                    .denies_ioctl = denies_ioctl};
    struct child child = {0, -1};
    struct error err = {0};
    int none = -1;
    *ret = (struct outcome){0};
    int r = child_start(&child, &task, b->memory_fd, &err);
    if (r == 0)
        r = child_hear(&child, &ret->answer, sizeof ret->answer, &none, b->options.timeout_s, &err);
    ret->has_answered = r == 0;
    if (r < 0)
        snprintf(ret->answer.text, sizeof ret->answer.text, "%s", err.text);
    if (child.chan >= 0)
        child_stop(&child);
    const char question = '?';
    err = (struct error){0};
    r = chan_send(b->keeper.chan, &question, sizeof question, NULL, 0, 0);
    r = r < 0 && r != -EPIPE ? error_set(&err, r, "it cannot be asked") : keeper_hear(b, &err);
    ret->report = b->report;
    ret->report.code = r;
    snprintf(ret->report.text, sizeof ret->report.text, "%s", err.text);
}

/* --- what is printed --- */

/* A write that is not tried shows nothing. One that arrived, or harmed the keeper, was prevented by
 * nothing, whatever the driver said. */
static const char *verdict(enum probe probe, const struct outcome *o)
{
    const bool is_intact =
        o->report.code == 0 && o->report.is_counted && o->report.changed_bytes == 0;
    if (probe <= PROBE_LAUNCH)
        return is_intact && o->has_answered && o->answer.works ? "works" : "fails";
    if (!is_intact)
        return "convention";
    return o->has_answered && o->answer.has_tried ? "enforced" : "fails";
}

static void print_json(enum probe probe, bool denies_ioctl, const struct outcome *o)
{
    const char *keeper = o->report.code == 0 ? "healthy" : o->report.text;
    struct buf line;
    buf_init(&line, LINE_BYTES_MAX);
    int r = buf_printf(&line, "{\"probe\":\"%s\",\"ioctl_denied\":%s,\"answer\":\"", NAMES[probe],
                       denies_ioctl ? "true" : "false");
    if (r == 0)
        r = buf_append_json(&line, o->answer.text, strlen(o->answer.text));
    if (r == 0 && o->report.is_counted)
        r = buf_printf(&line, "\",\"changed_bytes\":%" PRIu64, o->report.changed_bytes);
    else if (r == 0)
        r = buf_append_str(&line, "\",\"changed_bytes\":null");
    if (r == 0)
        r = buf_printf(&line, ",\"verdict\":\"%s\",\"keeper\":\"", verdict(probe, o));
    if (r == 0)
        r = buf_append_json(&line, keeper, strlen(keeper));
    if (r == 0)
        r = buf_append_str(&line, "\"}");
    if (r == 0)
        puts(line.data);
    buf_free(&line);
}

static void print_row(enum probe probe, bool denies_ioctl, const struct outcome *o)
{
    char changed[32] = "unknown";
    if (o->report.is_counted)
        snprintf(changed, sizeof changed, "%" PRIu64, o->report.changed_bytes);
    printf("%-10s  %-7s  %-10s  %7s  %s", NAMES[probe], denies_ioctl ? "denied" : "allowed",
           verdict(probe, o), changed, o->answer.text);
    if (o->report.code < 0)
        printf(" [the keeper: %s]", o->report.text);
    putchar('\n');
}

static void print_head(const struct bed *b)
{
    printf("GPU %u: %s, driver for CUDA %u.%u; %" PRIu64 " MiB are shared\n\n", b->options.device,
           b->report.gpu, b->report.driver_version / 1000, b->report.driver_version % 1000 / 10,
           b->options.bytes >> 20);
    printf("%-10s  %-7s  %-10s  %7s  %s\n", "probe", "ioctl", "verdict", "changed", "answer");
}

/* A keeper that was harmed is replaced, so that each probe finds a sound one. */
static int run_all(struct bed *b, struct error *err)
{
    static struct outcome outcome;
    for (int i = 0; i < 2 * PROBE_COUNT; i++) {
        const enum probe probe = (enum probe)(i % PROBE_COUNT);
        const bool denies_ioctl = i >= PROBE_COUNT;
        if (b->keeper.pid == 0) {
            int r = keeper_start(b, err);
            if (r < 0)
                return r;
        }
        probe_run(b, probe, denies_ioctl, &outcome);
        if (b->options.json)
            print_json(probe, denies_ioctl, &outcome);
        else
            print_row(probe, denies_ioctl, &outcome);
        fflush(stdout); /* a GPU that takes the machine down leaves what was seen */
        if (outcome.report.code < 0)
            child_stop(&b->keeper);
    }
    return 0;
}

static void usage(FILE *to)
{
    fputs("usage: gpu_probe [--device N] [--mib N] [--timeout S] [--json]\n\n"
          "Tries what keeps a process from writing GPU memory that it may read. Verdicts:\n"
          "  enforced    the write was tried, and the memory and its keeper are as they were\n"
          "  convention  the write arrived, or harmed the keeper: only the reader's code prevents "
          "it\n"
          "  works       what a reader needs works\n"
          "  fails       it does not, or the write could not be tried: that shows nothing\n"
          "Ends with 0 when all probes ran, 3 where there is no GPU.\n",
          to);
}

static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value < min || value > max)
        return false;
    *ret = value;
    return true;
}

static bool parse(struct options *o, int argc, char **argv)
{
    static const struct option known[] = {
        {"device", required_argument, NULL, 'd'},  {"mib", required_argument, NULL, 'm'},
        {"timeout", required_argument, NULL, 't'}, {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},          {0},
    };
    uint64_t device = 0, mib = 64, timeout_s = 60;
    bool is_fine = true;
    for (int c; is_fine && (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'h') {
            usage(stdout);
            exit(EXIT_RAN);
        }
        if (c == 'd')
            is_fine = parse_number(optarg, 0, UINT16_MAX, &device);
        else if (c == 'm')
            is_fine = parse_number(optarg, 1, MIB_MAX, &mib);
        else if (c == 't')
            is_fine = parse_number(optarg, 1, TIMEOUT_S_MAX, &timeout_s);
        else
            is_fine = c == 'j';
        o->json |= c == 'j';
    }
    o->device = (uint32_t)device;
    o->timeout_s = (uint32_t)timeout_s;
    o->bytes = mib << 20;
    return is_fine && optind == argc;
}

int main(int argc, char **argv)
{
    uint64_t chan;
    if (argc == 3 && strcmp(argv[1], CHILD) == 0 && parse_number(argv[2], 0, INT16_MAX, &chan))
        child_run((int)chan);
    struct bed b = {.keeper.chan = -1, .memory_fd = -1};
    struct error err = {0};
    if (!parse(&b.options, argc, argv)) {
        usage(stderr);
        return EXIT_USAGE;
    }
    int r = keeper_start(&b, &err);
    const bool no_gpu = r < 0 && b.report.no_gpu;
    if (r == 0 && !b.options.json)
        print_head(&b);
    if (r == 0)
        r = run_all(&b, &err);
    if (b.keeper.chan >= 0)
        child_stop(&b.keeper);
    forget_fd(&b);
    if (r == 0)
        return EXIT_RAN;
    fprintf(stderr, "gpu_probe: %s\n", err.text);
    return no_gpu ? EXIT_NO_GPU : EXIT_BROKEN;
}
