/* See trial.h. */
#include "gpu/trial.h"

#include "base/clock.h"
#include "gpu/memory.h"
#include "wire/chan.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIAL_BYTES (UINT64_C(64) << 20)
#define ANSWER_MS_MAX 60000 /* a device that many processes open at once is slow */

enum reader { READS, WRITES, ASKS, READER_COUNT };

/* What the maker says to a reader, with the descriptor of the memory. */
struct task {
    uint32_t index;
};

/* What a child says at its end. */
struct answer {
    int code; /* 0: it is all as it should be, or errno with a reason */
    bool granted;
    struct gpu_trial outcome; /* of the maker */
    char text[ERROR_TEXT_BYTES];
};

struct child {
    pid_t pid;
    int chan;
};

/* --- what is written --- */

static uint32_t word_at(uint64_t i)
{
    return (uint32_t)i * 2654435761u + 12345;
}

static uint32_t *words_new(void)
{
    uint32_t *words = malloc(TRIAL_BYTES);
    for (uint64_t i = 0; words != NULL && i < TRIAL_BYTES / sizeof *words; i++)
        words[i] = word_at(i);
    return words;
}

/* Reads all of it and compares; how many words are others. */
static int compare(const struct gpu_memory *m, uint64_t *ret_others, struct error *err)
{
    uint32_t *words = malloc(TRIAL_BYTES);
    *ret_others = 0;
    if (words == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    int r = gpu_memory_read(m, 0, words, TRIAL_BYTES, err);
    for (uint64_t i = 0; r == 0 && i < TRIAL_BYTES / sizeof *words; i++)
        *ret_others += words[i] != word_at(i);
    free(words);
    return r;
}

/* --- children --- */

static _Noreturn void end(int chan, struct answer *a, int r, const struct error *err)
{
    a->code = r;
    memcpy(a->text, err->text, sizeof a->text);
    (void)chan_send(chan, a, sizeof *a, NULL, 0, 0);
    _exit(0);
}

/* pid 0 in the child, which has its end of the channel in *ret and ends with its parent, also where
 * the driver hangs. */
static int child_start(struct child *ret, struct error *err)
{
    int pair[2];
    int r = chan_pair(pair, err);
    if (r < 0)
        return r;
    pid_t pid = fork();
    if (pid < 0) {
        r = error_set(err, -errno, "cannot start a process: %s", strerror(errno));
        close(pair[0]);
        close(pair[1]);
        return r;
    }
    if (pid == 0)
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(pair[pid == 0 ? 0 : 1]);
    *ret = (struct child){pid, pair[pid == 0 ? 1 : 0]};
    return 0;
}

/* Its answer, and its end. */
static int child_finish(struct child *c, struct answer *ret, struct error *err)
{
    static struct chan_message message;
    struct pollfd p = {.fd = c->chan, .events = POLLIN};
    int r = 0;
    if (poll(&p, 1, ANSWER_MS_MAX) != 1)
        r = error_set(err, -EIO, "the GPU did not answer within a minute");
    else if (chan_receive(c->chan, &message, 0) != 1 || message.len != sizeof *ret)
        r = error_set(err, -EIO, "a process that tried the GPU has crashed");
    else
        memcpy(ret, message.bytes, sizeof *ret);
    chan_message_clear(&message);
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    close(c->chan);
    return r == 0 && ret->code < 0 ? error_set(err, ret->code, "%s", ret->text) : r;
}

/* --- a reader --- */

static int reader_try(enum reader what, const struct gpu_context *c, int fd, bool *ret_granted,
                      struct error *err)
{
    struct gpu_memory *m;
    const uint32_t other = ~word_at(0);
    struct error refusal = {0};
    uint64_t others = 0;
    int r = gpu_memory_import(&m, c, fd, TRIAL_BYTES, err);
    if (r < 0)
        return r;
    if (what == READS) {
        r = compare(m, &others, err);
        if (r == 0 && others > 0)
            r = error_set(err, -EIO, "another process reads other bytes than were written");
    } else {
        if (what == ASKS)
            r = gpu_memory_ask_to_write(m, &refusal);
        *ret_granted = r == 0 && gpu_memory_write(m, 0, &other, sizeof other, &refusal) == 0;
        r = 0;
    }
    gpu_memory_free(m);
    return r;
}

static _Noreturn void reader_run(enum reader what, int chan)
{
    static struct chan_message message;
    struct answer a = {0};
    struct error err = {0};
    struct task task;
    struct gpu_driver *d = NULL;
    struct gpu_context *c = NULL;
    if (chan_receive(chan, &message, 0) != 1 || message.len != sizeof task || message.fd_count != 1)
        _exit(0); /* nothing came to be shared */
    memcpy(&task, message.bytes, sizeof task);
    int r = gpu_driver_open(&d, NULL, &err);
    if (r == 0)
        r = gpu_context_open(&c, d, task.index, &err);
    if (r == 0)
        r = reader_try(what, c, message.fds[0], &a.granted, &err);
    end(chan, &a, r, &err);
}

/* --- the maker --- */

static int open_device(struct gpu_driver **ret, struct gpu_context **ret_context, uint32_t index,
                       struct error *err)
{
    struct gpu g;
    int r = gpu_driver_open(ret, NULL, err);
    if (r == 0 && index >= gpu_count(*ret))
        r = error_set(err, -ENODEV, "there is no GPU %u", index);
    if (r == 0)
        r = gpu_look(*ret, index, &g, err);
    if (r == 0)
        r = gpu_check(&g, err);
    return r == 0 ? gpu_context_open(ret_context, *ret, index, err) : r;
}

static int fill(struct gpu_memory *m, struct gpu_trial *t, struct error *err)
{
    uint32_t *words = words_new();
    if (words == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    int r = gpu_memory_write(m, 0, words, TRIAL_BYTES, err); /* pages are touched, and once more */
    uint64_t began_us = clock_now_us();
    if (r == 0)
        r = gpu_memory_write(m, 0, words, TRIAL_BYTES, err);
    uint64_t us = clock_now_us() - began_us;
    t->bytes = TRIAL_BYTES;
    t->write_bytes_s = (double)TRIAL_BYTES * 1e6 / (double)(us > 0 ? us : 1);
    free(words);
    return r;
}

/* One reader after the other, and what they left. */
static int share(struct child *readers, const struct gpu_memory *m, uint32_t index,
                 struct gpu_trial *t, struct error *err)
{
    const struct task task = {index};
    bool granted[READER_COUNT] = {false};
    uint64_t others[READER_COUNT] = {0};
    int fd;
    int r = gpu_memory_export(m, &fd, err);
    if (r < 0)
        return r;
    for (int i = 0; r == 0 && i < READER_COUNT; i++) {
        struct answer a = {0};
        r = chan_send(readers[i].chan, &task, sizeof task, &fd, 1, 0);
        if (r < 0)
            r = error_set(err, -EIO, "a process that tried the GPU has crashed");
        if (r == 0)
            r = child_finish(&readers[i], &a, err);
        readers[i].pid = 0;
        granted[i] = a.granted;
        if (r == 0)
            r = compare(m, &others[i], err);
    }
    close(fd);
    t->refuses_writes = !granted[WRITES] && others[WRITES] == 0;
    t->grants_writing = granted[ASKS];
    t->changed_by_asking = others[ASKS] > others[WRITES];
    return r;
}

static _Noreturn void maker_run(uint32_t index, int chan)
{
    struct child readers[READER_COUNT] = {0};
    struct answer a = {0};
    struct error err = {0};
    struct gpu_driver *d = NULL;
    struct gpu_context *c = NULL;
    struct gpu_memory *m = NULL;
    int r = 0;
    for (int i = 0; r == 0 && i < READER_COUNT; i++) {
        r = child_start(&readers[i], &err);
        if (r == 0 && readers[i].pid == 0) {
            close(chan); /* nobody but the maker holds its ends, so all end with it */
            for (int before = 0; before < i; before++)
                close(readers[before].chan);
            reader_run((enum reader)i, readers[i].chan);
        }
    }
    uint64_t began_us = clock_now_us();
    if (r == 0)
        r = open_device(&d, &c, index, &err);
    a.outcome.open_us = clock_now_us() - began_us;
    if (r == 0)
        r = gpu_memory_create_shared(&m, c, TRIAL_BYTES, &err);
    if (r == 0)
        r = fill(m, &a.outcome, &err);
    if (r == 0)
        r = share(readers, m, index, &a.outcome, &err);
    for (int i = 0; i < READER_COUNT; i++) {
        if (readers[i].pid > 0)
            kill(readers[i].pid, SIGKILL);
    }
    gpu_memory_free(m);
    gpu_context_close(c);
    gpu_driver_close(d);
    end(chan, &a, r, &err);
}

int gpu_trial_run(struct gpu_trial *ret, uint32_t index, struct error *err)
{
    struct child maker;
    struct answer a = {0};
    *ret = (struct gpu_trial){0};
    int r = child_start(&maker, err);
    if (r < 0)
        return r;
    if (maker.pid == 0)
        maker_run(index, maker.chan);
    r = child_finish(&maker, &a, err);
    if (r == 0)
        *ret = a.outcome;
    return r;
}
