/* See device.h. */
#include "gpu/device.h"

#include "gpu/library.h"
#include "gpu/parts.h"

#include <errno.h>
#include <stdlib.h>

struct gpu_device {
    struct gpu_driver *driver;
    struct gpu_context *context;
    struct gpu look;
    void *module;
    void **functions; /* [kernel_count] */
    uint32_t *shared; /* [kernel_count]: dynamic shared memory that the driver allows by now */
    uint32_t kernel_count;
    void *stream;
    bool overlaps; /* kernels begin while those before them end */
    int failure;   /* the first result that was no success */
    const char *failed;
};

/* From here on kernels can wait for each other themselves, recorded ones too. */
#define CAPABILITY_OVERLAP 90u
#define DRIVER_OVERLAP 12030u
/* What a block gets without asking. */
#define SHARED_BYTES_DEFAULT (48u << 10)

/* --- open and close --- */

static int look(struct gpu_device *d, uint32_t index, struct error *err)
{
    if (index >= gpu_count(d->driver))
        return error_set(err, -ENODEV, "there is no GPU %u: this machine has %u", index,
                         gpu_count(d->driver));
    int r = gpu_look(d->driver, index, &d->look, err);
    d->overlaps =
        d->look.capability >= CAPABILITY_OVERLAP && gpu_driver_version(d->driver) >= DRIVER_OVERLAP;
    return r == 0 ? gpu_check(&d->look, err) : r;
}

static int load(struct gpu_device *d, const struct gpu_kernels *k, struct error *err)
{
    d->functions = calloc(k->count, sizeof *d->functions);
    d->shared = calloc(k->count, sizeof *d->shared);
    if (d->functions == NULL || d->shared == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    d->kernel_count = k->count;
    int result = d->driver->module_load(&d->module, k->image);
    if (gpu_code_of(result) == -ENOEXEC)
        return error_set(err, -ENOEXEC,
                         "this program's kernels do not run on a GPU of compute capability "
                         "%u.%u: build it where nvcc is (%s (%d))",
                         d->look.capability / 10, d->look.capability % 10,
                         gpu_result_text(d->driver, result), result);
    int r = gpu_check_result(d->driver, result, "the GPU does not take the kernels", err);
    for (uint32_t i = 0; r == 0 && i < k->count; i++) {
        r = gpu_check_result(d->driver,
                             d->driver->module_function(&d->functions[i], d->module, k->names[i]),
                             k->names[i], err);
        d->shared[i] = SHARED_BYTES_DEFAULT;
    }
    return r;
}

int gpu_device_open(struct gpu_device **ret, uint32_t index, const struct gpu_kernels *k,
                    struct error *err)
{
    *ret = NULL;
    struct gpu_device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    /* Kernels are loaded now, not when the first request comes to them. */
    (void)setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    int r = gpu_driver_open(&d->driver, NULL, err);
    if (r == 0)
        r = look(d, index, err);
    if (r == 0)
        r = gpu_context_open(&d->context, d->driver, index, err);
    if (r == 0)
        r = gpu_check_result(d->driver,
                             d->driver->stream_create(&d->stream, CUDA_STREAM_NON_BLOCKING),
                             "the GPU takes no work", err);
    if (r == 0)
        r = load(d, k, err);
    if (r < 0) {
        gpu_device_close(d);
        return r;
    }
    *ret = d;
    return 0;
}

void gpu_device_close(struct gpu_device *d)
{
    if (d == NULL)
        return;
    if (d->module != NULL)
        (void)d->driver->module_unload(d->module);
    if (d->stream != NULL)
        (void)d->driver->stream_destroy(d->stream);
    gpu_context_close(d->context);
    gpu_driver_close(d->driver);
    free(d->functions);
    free(d->shared);
    free(d);
}

const struct gpu *gpu_device_look(const struct gpu_device *d)
{
    return &d->look;
}

const struct gpu_context *gpu_device_context(const struct gpu_device *d)
{
    return d->context;
}

int gpu_device_free_bytes(const struct gpu_device *d, uint64_t *ret, struct error *err)
{
    size_t left = 0, total = 0;
    int r = gpu_check_result(d->driver, d->driver->memory_info(&left, &total),
                             "the GPU does not tell its memory", err);
    if (r == 0)
        *ret = left;
    return r;
}

/* --- work --- */

static void note(struct gpu_device *d, int result, const char *what)
{
    if (result == CUDA_SUCCESS || d->failure != CUDA_SUCCESS)
        return;
    d->failure = result;
    d->failed = what;
}

static int allow_shared(struct gpu_device *d, const struct gpu_launch *l)
{
    if (l->shared_bytes <= d->shared[l->kernel])
        return CUDA_SUCCESS;
    d->shared[l->kernel] = l->shared_bytes;
    return d->driver->function_set(d->functions[l->kernel], CUDA_FUNCTION_SHARED_BYTES_MAX,
                                   (int)l->shared_bytes);
}

void gpu_launch(struct gpu_device *d, const struct gpu_launch *l, const void *job)
{
    /* The driver copies what this points to, and changes nothing. */
    void *parameters[] = {(void *)(uintptr_t)job};
    if (d->failure != CUDA_SUCCESS || l->grid[0] == 0 || l->grid[1] == 0 || l->grid[2] == 0)
        return;
    struct cuda_launch_attribute overlap = {.kind = CUDA_LAUNCH_OVERLAP, .value.overlaps = 1};
    const struct cuda_launch launch = {
        .grid = {l->grid[0], l->grid[1], l->grid[2]},
        .block = {l->threads, 1, 1},
        .shared_bytes = l->shared_bytes,
        .stream = d->stream,
        .attributes = &overlap,
        .attribute_count = d->overlaps ? 1 : 0,
    };
    int result = allow_shared(d, l);
    if (result == CUDA_SUCCESS)
        result = d->driver->launch(&launch, d->functions[l->kernel], parameters, NULL);
    note(d, result, "a kernel cannot be started");
}

void gpu_send(struct gpu_device *d, uint64_t to, const void *from, uint64_t bytes)
{
    if (d->failure == CUDA_SUCCESS && bytes > 0)
        note(d, d->driver->send(to, from, bytes, d->stream), "a copy to the GPU failed");
}

void gpu_fetch(struct gpu_device *d, void *to, uint64_t from, uint64_t bytes)
{
    if (d->failure == CUDA_SUCCESS && bytes > 0)
        note(d, d->driver->fetch(to, from, bytes, d->stream), "a copy from the GPU failed");
}

void gpu_move(struct gpu_device *d, uint64_t to, uint64_t from, uint64_t bytes)
{
    if (d->failure == CUDA_SUCCESS && bytes > 0)
        note(d, d->driver->move(to, from, bytes, d->stream), "a copy on the GPU failed");
}

void gpu_fill(struct gpu_device *d, uint64_t to, uint8_t byte, uint64_t bytes)
{
    if (d->failure == CUDA_SUCCESS && bytes > 0)
        note(d, d->driver->fill(to, byte, bytes, d->stream), "the GPU's memory was not cleared");
}

/* --- graphs --- */

struct gpu_graph {
    struct gpu_device *device;
    void *executable;
};

void gpu_record_begin(struct gpu_device *d)
{
    if (d->failure == CUDA_SUCCESS)
        note(d, d->driver->record_begin(d->stream, CUDA_CAPTURE_THREAD),
             "launches cannot be recorded");
}

struct gpu_graph *gpu_record_end(struct gpu_device *d)
{
    void *graph = NULL, *executable = NULL;
    struct gpu_graph *g = calloc(1, sizeof *g);
    int result = d->driver->record_end(d->stream, &graph);
    if (result == CUDA_SUCCESS && g == NULL)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS && d->failure == CUDA_SUCCESS)
        result = d->driver->graph_instantiate(&executable, graph, 0);
    if (graph != NULL)
        (void)d->driver->graph_destroy(graph);
    note(d, result, "launches cannot be recorded");
    if (executable == NULL) {
        free(g);
        return NULL;
    }
    *g = (struct gpu_graph){d, executable};
    return g;
}

void gpu_replay(struct gpu_graph *g)
{
    struct gpu_device *d = g->device;
    if (d->failure == CUDA_SUCCESS)
        note(d, d->driver->graph_launch(g->executable, d->stream), "a graph cannot be started");
}

void gpu_graph_free(struct gpu_graph *g)
{
    if (g == NULL)
        return;
    (void)g->device->driver->executable_destroy(g->executable);
    free(g);
}

int gpu_wait(struct gpu_device *d, struct error *err)
{
    note(d, d->driver->stream_wait(d->stream), "the GPU failed");
    if (d->failure == CUDA_ERROR_ILLEGAL_ADDRESS)
        return error_set(err, -EFAULT, "%s: a kernel touched memory that it must not", d->failed);
    return gpu_check_result(d->driver, d->failure, d->failed, err);
}

bool gpu_has_failed(const struct gpu_device *d)
{
    return d->failure != CUDA_SUCCESS;
}

void *gpu_host_allocate(struct gpu_device *d, uint64_t bytes)
{
    void *memory = NULL;
    return d->driver->host_allocate(&memory, bytes, 0) == CUDA_SUCCESS ? memory : NULL;
}

void gpu_host_free(struct gpu_device *d, void *memory)
{
    if (memory != NULL)
        (void)d->driver->host_free(memory);
}

/* --- time --- */

struct gpu_timer {
    struct gpu_device *device;
    void *begin, *end;
};

int gpu_timer_open(struct gpu_timer **ret, struct gpu_device *d, struct error *err)
{
    struct gpu_timer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    t->device = d;
    int result = d->driver->event_create(&t->begin, CUDA_EVENT_DEFAULT);
    if (result == CUDA_SUCCESS)
        result = d->driver->event_create(&t->end, CUDA_EVENT_DEFAULT);
    if (result != CUDA_SUCCESS) {
        gpu_timer_close(t);
        return gpu_check_result(d->driver, result, "the GPU has no clock", err);
    }
    *ret = t;
    return 0;
}

void gpu_timer_close(struct gpu_timer *t)
{
    if (t == NULL)
        return;
    if (t->begin != NULL)
        (void)t->device->driver->event_destroy(t->begin);
    if (t->end != NULL)
        (void)t->device->driver->event_destroy(t->end);
    free(t);
}

void gpu_timer_begin(struct gpu_timer *t)
{
    note(t->device, t->device->driver->event_record(t->begin, t->device->stream), "no time taken");
}

void gpu_timer_end(struct gpu_timer *t)
{
    note(t->device, t->device->driver->event_record(t->end, t->device->stream), "no time taken");
}

int gpu_timer_us(struct gpu_timer *t, double *ret_us, struct error *err)
{
    float ms = 0;
    struct gpu_device *d = t->device;
    note(d, d->driver->event_wait(t->end), "the GPU failed");
    int r = gpu_wait(d, err);
    if (r == 0)
        r = gpu_check_result(d->driver, d->driver->event_elapsed(&ms, t->begin, t->end),
                             "no time taken", err);
    *ret_us = (double)ms * 1e3;
    return r;
}
