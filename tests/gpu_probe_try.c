/*
 * The process that tries (see gpu_probe.h): it opens the driver, maps the memory read-only as a
 * worker does, closes the descriptor, warms up, and then tries its one thing. Under the filter that
 * denies ioctl everything of that comes first, so what is denied is the attempt alone.
 *
 * A refusal counts only where it is the mapping that is refused: the same write to memory of the
 * process's own must work just before.
 */
#include "gpu_probe.h"

#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "gpu/library.h"
#include "gpu/memory.h"
#include "gpu/parts.h"
#include "gpu_probe_job.h"
#include "wire/chan.h"

#define TOUCHED_BYTES (GPU_PROBE_THREADS * sizeof(uint32_t))
#define OTHER_BYTE 0x5a
#define OTHER_WORD 0x5a5a5a5au
#define ADDED_WORD 0x01010101u

/* The driver compiles it for whatever GPU there is. */
#define KERNEL(name, operation)                                                                    \
    ".visible .entry " name "(.param .align 8 .b8 job[16])\n"                                      \
    "{\n"                                                                                          \
    "    .reg .b64 %at, %offset;\n"                                                                \
    "    .reg .b32 %value, %thread, %old;\n"                                                       \
    "    ld.param.u64 %at, [job];\n"                                                               \
    "    ld.param.u32 %value, [job+8];\n"                                                          \
    "    cvta.to.global.u64 %at, %at;\n"                                                           \
    "    mov.u32 %thread, %tid.x;\n"                                                               \
    "    mul.wide.u32 %offset, %thread, 4;\n"                                                      \
    "    add.u64 %at, %at, %offset;\n"                                                             \
    "    " operation ";\n"                                                                         \
    "    ret;\n"                                                                                   \
    "}\n"
static const char PTX[] =
    ".version 7.0\n"
    ".target sm_80\n"
    ".address_size 64\n" KERNEL(GPU_PROBE_STORE, "st.global.u32 [%at], %value")
        KERNEL(GPU_PROBE_ATOMIC, "atom.global.add.u32 %old, [%at], %value");

enum write { STORE, ATOMIC, MEMSET, COPY };
static const char *const WRITE_NAMES[] = {"a kernel's store", "a kernel's atomic add",
                                          "cuMemsetD8Async", "cuMemcpyHtoD"};

struct attempt {
    const struct probe_task *task;
    const struct gpu_driver *driver;
    const struct gpu_context *context;
    int memory_fd;
    uint64_t handle, at;    /* the keeper's memory */
    struct gpu_memory *own; /* writable */
    void *store, *atomic;
    uint32_t *piece;
    struct probe_answer answer;
};

/* --- what is said --- */

static int say(struct attempt *t, const char *what, int result)
{
    const size_t used = strlen(t->answer.text);
    char *at = t->answer.text + used;
    const char *before = used > 0 ? "; " : "";
    if (result == CUDA_SUCCESS)
        snprintf(at, PROBE_TEXT_BYTES - used, "%s%s: done", before, what);
    else
        snprintf(at, PROBE_TEXT_BYTES - used, "%s%s: %s (%d)", before, what,
                 gpu_result_text(t->driver, result), result);
    return result;
}

static int check(const struct attempt *t, int result, const char *what, struct error *err)
{
    return gpu_check_result(t->driver, result, what, err);
}

/* --- what a process can do to memory --- */

static int launch(const struct attempt *t, void *kernel, uint64_t at, uint32_t value)
{
    struct gpu_probe_job job = {.at = at, .value = value};
    void *parameters[] = {&job};
    const struct cuda_launch l = {.grid = {1, 1, 1}, .block = {GPU_PROBE_THREADS, 1, 1}};
    return t->driver->launch(&l, kernel, parameters, NULL);
}

/* Done when it returns: a fault is told to who waits, not to who asked. */
static int write_to(const struct attempt *t, enum write how, uint64_t at)
{
    uint8_t bytes[TOUCHED_BYTES];
    int result;
    memset(bytes, OTHER_BYTE, sizeof bytes);
    if (how == STORE)
        result = launch(t, t->store, at, OTHER_WORD);
    else if (how == ATOMIC)
        result = launch(t, t->atomic, at, ADDED_WORD);
    else if (how == MEMSET)
        result = t->driver->fill(at, OTHER_BYTE, TOUCHED_BYTES, NULL);
    else
        result = t->driver->copy_to_device(at, bytes, sizeof bytes);
    return result == CUDA_SUCCESS ? t->driver->stream_wait(NULL) : result;
}

static int set_access(const struct attempt *t, uint64_t at, int flags)
{
    const struct cuda_access access = {{CUDA_LOCATION_DEVICE, t->context->device}, flags};
    return t->driver->access_set(at, t->task->mapped_bytes, &access, 1);
}

/* All of the memory; how many of its bytes are not as the keeper wrote them. */
static int read_all(const struct attempt *t, uint64_t *ret_changed)
{
    int result = CUDA_SUCCESS;
    *ret_changed = 0;
    for (uint64_t at = 0; result == CUDA_SUCCESS && at < t->task->bytes; at += PROBE_PIECE_BYTES) {
        const uint64_t left = t->task->bytes - at;
        const uint64_t bytes = left < PROBE_PIECE_BYTES ? left : PROBE_PIECE_BYTES;
        result = t->driver->copy_to_host(t->piece, t->at + at, bytes);
        if (result == CUDA_SUCCESS)
            *ret_changed += probe_count_changed(t->piece, at / sizeof *t->piece, bytes);
    }
    return result;
}

/* --- before the attempt --- */

static int map_read_only(struct attempt *t, struct error *err)
{
    const struct gpu_driver *d = t->driver;
    const uint64_t bytes = t->task->mapped_bytes;
    int r = check(t, d->memory_import(&t->handle, (void *)(intptr_t)t->memory_fd, CUDA_HANDLE_FD),
                  "the descriptor is no memory of this GPU", err);
    if (r == 0)
        r = check(t, d->address_reserve(&t->at, bytes, 0, 0, 0), "no addresses", err);
    if (r == 0)
        r = check(t, d->memory_map(t->at, bytes, 0, t->handle, 0), "the memory is not mapped", err);
    if (r == 0)
        r = check(t, set_access(t, t->at, CUDA_ACCESS_READ), "the memory is not mapped", err);
    if (t->task->probe != PROBE_IMPORT_ANEW)
        close(t->memory_fd);
    return r;
}

static int load_kernels(struct attempt *t, struct error *err)
{
    void *module = NULL;
    int r = check(t, t->driver->module_load(&module, PTX), "the driver does not take the PTX", err);
    if (r == 0)
        r = check(t, t->driver->module_function(&t->store, module, GPU_PROBE_STORE),
                  GPU_PROBE_STORE, err);
    if (r == 0)
        r = check(t, t->driver->module_function(&t->atomic, module, GPU_PROBE_ATOMIC),
                  GPU_PROBE_ATOMIC, err);
    return r;
}

/* Everything that is tried later has been done once, so that the driver has set up what it needs.
 */
static int warm_up(struct attempt *t, struct error *err)
{
    uint64_t changed;
    int r = check(t, read_all(t, &changed), "the memory is not read", err);
    for (enum write how = STORE; r == 0 && how <= COPY; how++)
        r = check(t, write_to(t, how, gpu_memory_address(t->own)), WRITE_NAMES[how], err);
    return r;
}

static int prepare(struct attempt *t, struct error *err)
{
    struct gpu_driver *d = NULL;
    struct gpu_context *c = NULL;
    t->piece = malloc(PROBE_PIECE_BYTES);
    int r = t->piece != NULL ? gpu_driver_open(&d, NULL, err)
                             : error_set(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = gpu_context_open(&c, d, t->task->device, err);
    t->driver = d;
    t->context = c;
    if (r == 0)
        r = map_read_only(t, err);
    if (r == 0)
        r = gpu_memory_create(&t->own, c, TOUCHED_BYTES, err);
    if (r == 0)
        r = load_kernels(t, err);
    return r == 0 ? warm_up(t, err) : r;
}

/* Of the driver's threads too. */
static int deny_ioctl(struct error *err)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    int r = f != NULL ? seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;
    if (r == 0)
        r = seccomp_rule_add_array(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 0, NULL);
    if (r == 0)
        r = seccomp_load(f);
    if (f != NULL)
        seccomp_release(f);
    if (r < 0)
        return error_set(err, r, "ioctl cannot be denied: %s", strerror(-r));
    if (ioctl(-1, 0) == 0 || errno != EPERM)
        return error_set(err, -EIO, "ioctl is not denied, though a filter says so");
    return 0;
}

/* --- the attempts --- */

static void try_read(struct attempt *t)
{
    uint64_t changed;
    const int result = say(t, "cuMemcpyDtoH", read_all(t, &changed));
    t->answer.has_tried = true;
    t->answer.works = result == CUDA_SUCCESS && changed == 0;
    const size_t used = strlen(t->answer.text);
    if (result == CUDA_SUCCESS && changed > 0)
        snprintf(t->answer.text + used, PROBE_TEXT_BYTES - used,
                 "; %llu bytes are not as they were written", (unsigned long long)changed);
}

static void try_launch(struct attempt *t)
{
    const uint64_t at = gpu_memory_address(t->own);
    uint32_t words[GPU_PROBE_THREADS] = {0};
    int result = say(t, "a kernel's store to its own memory", write_to(t, STORE, at));
    if (result == CUDA_SUCCESS)
        result = say(t, "cuMemcpyDtoH of it", t->driver->copy_to_host(words, at, sizeof words));
    t->answer.has_tried = true;
    t->answer.works = result == CUDA_SUCCESS;
    for (unsigned i = 0; i < GPU_PROBE_THREADS; i++)
        t->answer.works &= words[i] == OTHER_WORD;
}

static void try_write(struct attempt *t, enum write how, uint64_t at)
{
    const int result = write_to(t, how, gpu_memory_address(t->own));
    if (result != CUDA_SUCCESS) {
        say(t, "the same to its own memory", result);
        return;
    }
    say(t, WRITE_NAMES[how], write_to(t, how, at));
    t->answer.has_tried = true;
}

static void try_ask(struct attempt *t)
{
    const int result = set_access(t, t->at, CUDA_ACCESS_READ_WRITE);
    if (say(t, "cuMemSetAccess for writing", result) == CUDA_SUCCESS)
        try_write(t, STORE, t->at);
    else
        t->answer.has_tried = true;
}

static void try_second_map(struct attempt *t, uint64_t handle)
{
    const uint64_t bytes = t->task->mapped_bytes;
    uint64_t at = 0;
    int result = say(t, "cuMemAddressReserve", t->driver->address_reserve(&at, bytes, 0, 0, 0));
    if (result == CUDA_SUCCESS)
        result = say(t, "cuMemMap", t->driver->memory_map(at, bytes, 0, handle, 0));
    if (result == CUDA_SUCCESS)
        result = say(t, "cuMemSetAccess for writing", set_access(t, at, CUDA_ACCESS_READ_WRITE));
    if (result == CUDA_SUCCESS)
        try_write(t, STORE, at);
    else
        t->answer.has_tried = true;
}

static void try_import_anew(struct attempt *t)
{
    uint64_t handle = 0;
    const int result =
        t->driver->memory_import(&handle, (void *)(intptr_t)t->memory_fd, CUDA_HANDLE_FD);
    if (say(t, "cuMemImportFromShareableHandle", result) == CUDA_SUCCESS)
        try_second_map(t, handle);
    else
        t->answer.has_tried = true;
}

static void try_it(struct attempt *t)
{
    switch (t->task->probe) {
    case PROBE_READ:
        return try_read(t);
    case PROBE_LAUNCH:
        return try_launch(t);
    case PROBE_STORE:
        return try_write(t, STORE, t->at);
    case PROBE_ATOMIC:
        return try_write(t, ATOMIC, t->at);
    case PROBE_MEMSET:
        return try_write(t, MEMSET, t->at);
    case PROBE_COPY:
        return try_write(t, COPY, t->at);
    case PROBE_ASK:
        return try_ask(t);
    case PROBE_SECOND_MAP:
        return try_second_map(t, t->handle);
    case PROBE_IMPORT_ANEW:
        return try_import_anew(t);
    case PROBE_COUNT:
        break;
    }
}

_Noreturn void probe_try(const struct probe_task *task, int memory_fd, int chan)
{
    static struct attempt t;
    struct error err = {0};
    t.task = task;
    t.memory_fd = memory_fd;
    int r = prepare(&t, &err);
    if (r == 0 && task->denies_ioctl)
        r = deny_ioctl(&err);
    if (r == 0)
        try_it(&t);
    else
        snprintf(t.answer.text, sizeof t.answer.text, "before the attempt: %s", err.text);
    (void)chan_send(chan, &t.answer, sizeof t.answer, NULL, 0, 0);
    _exit(0);
}
