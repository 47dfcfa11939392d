/*
 * The GPU that the daemon serves on, as the driver describes it. The driver is asked by a child
 * that ends with its answer: the daemon itself opens none, ever, for it holds every owner's
 * descriptors and what a driver maps into it would be there for good.
 */
#include "daemon/daemon.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

/* Drivers take seconds on a machine with many GPUs that nobody uses. */
#define ANSWER_MS_MAX 60000

struct answer {
    struct error err;
    struct gpu gpu;
};

static int look(uint32_t index, struct gpu *ret, struct error *err)
{
    struct gpu_driver *driver;
    struct error reason = {0};
    int r = gpu_driver_open(&driver, NULL, err);
    if (r < 0)
        return r;
    if (index >= gpu_count(driver))
        return error_set(err, -ENODEV, "there is no GPU %u: the driver has %u", index,
                         gpu_count(driver));
    r = gpu_look(driver, index, ret, err);
    if (r == 0 && gpu_check(ret, &reason) < 0)
        r = error_set(err, reason.code, "GPU %u (%s) cannot be used: %s", index, ret->name,
                      reason.text);
    return r;
}

static _Noreturn void answer_and_end(uint32_t index, int to)
{
    struct answer a = {0};
    a.err.code = look(index, &a.gpu, &a.err);
    (void)!write(to, &a, sizeof a);
    _exit(0);
}

int daemon_look_at_gpu(uint32_t index, struct gpu *ret, struct error *err)
{
    struct answer a;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_set(err, -errno, "no pipe to ask for a GPU: %s", strerror(errno));
    cleanup_fd int from = ends[0], to = ends[1];
    pid_t pid = fork();
    if (pid < 0)
        return error_set(err, -errno, "no process to ask for a GPU: %s", strerror(errno));
    if (pid == 0)
        answer_and_end(index, to);
    close(steal_fd(&to));
    struct pollfd p = {.fd = from, .events = POLLIN};
    bool is_there = poll(&p, 1, ANSWER_MS_MAX) == 1 && read(from, &a, sizeof a) == sizeof a;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (!is_there)
        return error_set(err, -EIO, "the NVIDIA driver does not answer: see what nvidia-smi says");
    if (a.err.code < 0)
        return error_set(err, a.err.code, "--device gpu: %s", a.err.text);
    *ret = a.gpu;
    return 0;
}
