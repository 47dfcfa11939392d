/*
 * The fake driver's streams, events and kernels (fake_cuda.c has its devices and memory).
 * Everything that is asked for is done before the call returns; kernels run on the CPU
 * (cuda_emulation). A kernel that touches what it must not ends as on a GPU: with an error of this
 * call and of all later ones in the process.
 */
#include "fake_cuda.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cuda_emulation/kernels.h"

#define THREADS_MAX 1024u
#define SHARED_BYTES_DEFAULT 49152u
#define FUNCTIONS_MAX 64

enum { ATTRIBUTE_THREADS_MAX = 0, ATTRIBUTE_SHARED_BYTES = 1, ATTRIBUTE_SHARED_BYTES_MAX = 8 };

/* --- streams and events: a handle is an address, of no other use --- */

struct stream {
    unsigned flags;
};

struct event {
    struct timespec at;
    int is_recorded;
};

int cuStreamCreate(void **ret, unsigned flags)
{
    struct stream *s = calloc(1, sizeof *s);
    if (s == NULL || flags > 1 || usable(SUCCESS) != SUCCESS) {
        free(s);
        return usable(s == NULL ? OUT_OF_MEMORY : INVALID_VALUE);
    }
    s->flags = flags;
    *ret = s;
    return SUCCESS;
}

int cuStreamDestroy_v2(void *stream)
{
    free(stream);
    return usable(stream != NULL ? SUCCESS : INVALID_HANDLE);
}

int cuStreamSynchronize(void *stream)
{
    (void)stream;
    return usable(SUCCESS);
}

int cuCtxSynchronize(void)
{
    return usable(SUCCESS);
}

int cuEventCreate(void **ret, unsigned flags)
{
    struct event *e = calloc(1, sizeof *e);
    if (e == NULL || flags > 7 || usable(SUCCESS) != SUCCESS) {
        free(e);
        return usable(e == NULL ? OUT_OF_MEMORY : INVALID_VALUE);
    }
    *ret = e;
    return SUCCESS;
}

int cuEventDestroy_v2(void *event)
{
    free(event);
    return usable(event != NULL ? SUCCESS : INVALID_HANDLE);
}

int cuEventRecord(void *event, void *stream)
{
    struct event *e = event;
    (void)stream;
    if (e == NULL)
        return INVALID_HANDLE;
    clock_gettime(CLOCK_MONOTONIC, &e->at);
    e->is_recorded = 1;
    return usable(SUCCESS);
}

int cuEventSynchronize(void *event)
{
    return usable(event != NULL ? SUCCESS : INVALID_HANDLE);
}

int cuEventElapsedTime(float *ret_ms, void *begin, void *end)
{
    const struct event *a = begin, *b = end;
    if (a == NULL || b == NULL || !a->is_recorded || !b->is_recorded)
        return INVALID_HANDLE;
    *ret_ms = (float)(b->at.tv_sec - a->at.tv_sec) * 1e3f +
              (float)(b->at.tv_nsec - a->at.tv_nsec) * 1e-6f;
    return usable(SUCCESS);
}

int cuEventElapsedTime_v2(float *ret_ms, void *begin, void *end)
{
    return cuEventElapsedTime(ret_ms, begin, end);
}

/* --- copies in a stream, and memory of the host for them --- */

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes);
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes);

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream)
{
    (void)stream;
    return cuMemcpyHtoD_v2(to, from, bytes);
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream)
{
    (void)stream;
    return cuMemcpyDtoH_v2(to, from, bytes);
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream)
{
    (void)stream;
    int result = is_memory(from, bytes, 0);
    result = usable(result == SUCCESS ? is_memory(to, bytes, 1) : result);
    if (result == SUCCESS)
        memmove((char *)(uintptr_t)to, (const char *)(uintptr_t)from, bytes);
    return result;
}

int cuMemsetD8Async(uint64_t to, unsigned char byte, size_t bytes, void *stream)
{
    (void)stream;
    const int result = usable(is_memory(to, bytes, 1));
    if (result == SUCCESS)
        memset((char *)(uintptr_t)to, byte, bytes);
    return result;
}

int cuMemHostAlloc(void **ret, size_t bytes, unsigned flags)
{
    if (bytes == 0 || flags > 7 || usable(SUCCESS) != SUCCESS)
        return usable(INVALID_VALUE);
    void *p = NULL;
    int device_file = open_device_file();
    if (device_file < 0)
        return OPERATING_SYSTEM;
    close(device_file);
    if (posix_memalign(&p, 4096, bytes) != 0)
        return OUT_OF_MEMORY;
    *ret = p;
    return SUCCESS;
}

int cuMemAllocHost_v2(void **ret, size_t bytes)
{
    return cuMemHostAlloc(ret, bytes, 0);
}

int cuMemFreeHost(void *memory)
{
    free(memory);
    return usable(memory != NULL ? SUCCESS : INVALID_VALUE);
}

int cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags)
{
    if (memory == NULL || bytes == 0 || (uintptr_t)memory % 4096 != 0 || flags > 15)
        return INVALID_VALUE;
    return usable(setting("pin", 1) ? SUCCESS : NOT_SUPPORTED);
}

int cuMemHostUnregister(void *memory)
{
    return usable(memory != NULL ? SUCCESS : INVALID_VALUE);
}

/* --- kernels --- */

static struct function {
    const void *kernel; /* NULL: free */
    unsigned shared_bytes_max;
} functions[FUNCTIONS_MAX];

int cuModuleLoadData(void **ret, const void *image)
{
    static int modules;
    if (image == NULL)
        return INVALID_VALUE;
    *ret = &modules;
    return usable(setting("module", SUCCESS));
}

int cuModuleUnload(void *module)
{
    return usable(module != NULL ? SUCCESS : INVALID_HANDLE);
}

int cuModuleGetFunction(void **ret, void *module, const char *name)
{
    const void *kernel = emulation_find(name);
    if (module == NULL || kernel == NULL)
        return module == NULL ? INVALID_HANDLE : NOT_FOUND;
    struct function *f = functions;
    while (f < functions + FUNCTIONS_MAX && f->kernel != NULL && f->kernel != kernel)
        f++;
    if (f == functions + FUNCTIONS_MAX)
        return OUT_OF_MEMORY;
    if (f->kernel == NULL)
        *f = (struct function){kernel, SHARED_BYTES_DEFAULT};
    *ret = f;
    return usable(SUCCESS);
}

int cuFuncSetAttribute(void *function, int attribute, int value)
{
    if (attribute != ATTRIBUTE_SHARED_BYTES_MAX || value < 0 ||
        (unsigned)value > EMULATION_SHARED_BYTES_MAX)
        return INVALID_VALUE;
    ((struct function *)function)->shared_bytes_max = (unsigned)value;
    return usable(SUCCESS);
}

int cuFuncGetAttribute(int *ret, int attribute, void *function)
{
    const struct function *f = function;
    if (attribute != ATTRIBUTE_THREADS_MAX && attribute != ATTRIBUTE_SHARED_BYTES &&
        attribute != ATTRIBUTE_SHARED_BYTES_MAX)
        return INVALID_VALUE;
    *ret = attribute == ATTRIBUTE_THREADS_MAX    ? (int)THREADS_MAX
           : attribute == ATTRIBUTE_SHARED_BYTES ? 0
                                                 : (int)f->shared_bytes_max;
    return usable(SUCCESS);
}

/* Launches that were recorded. */
static struct graph {
    struct kept {
        const struct function *function;
        void *parameter; /* a copy */
        unsigned grid[3], block[3], shared_bytes;
    } * launches;
    size_t count;
    int users; /* executable graphs of it */
} * recording;

static int keep(const struct function *f, const void *parameter, const unsigned grid[3],
                const unsigned block[3], unsigned shared_bytes)
{
    const size_t bytes = emulation_parameter_bytes(f->kernel);
    struct kept *more =
        realloc(recording->launches, (recording->count + 1) * sizeof *recording->launches);
    void *copy = malloc(bytes);
    if (more != NULL)
        recording->launches = more;
    if (more == NULL || copy == NULL) {
        free(copy);
        return OUT_OF_MEMORY;
    }
    struct kept *k = &more[recording->count++];
    *k = (struct kept){.function = f, .parameter = copy, .shared_bytes = shared_bytes};
    memcpy(copy, parameter, bytes);
    memcpy(k->grid, grid, sizeof k->grid);
    memcpy(k->block, block, sizeof k->block);
    return SUCCESS;
}

/* A kernel has touched what it must not. */
static int after_fault(void)
{
    const int result = setting("fault", ILLEGAL_ADDRESS);
    while (result == 0)
        pause();
    if (result < 100)
        raise(result);
    end_by_fault();
    return result;
}

static int is_the_last(void)
{
    static int count;
    return ++count == setting("kernels", 0);
}

static sigjmp_buf before_launch;

static void on_fault(int signal_number)
{
    siglongjmp(before_launch, signal_number);
}

static int run(const struct function *f, const void *parameter, const unsigned grid[3],
               const unsigned block[3], unsigned shared_bytes)
{
    struct sigaction fault = {.sa_handler = on_fault}, old_segv, old_bus;
    volatile int result;
    if (is_the_last())
        return after_fault();
    sigemptyset(&fault.sa_mask);
    sigaction(SIGSEGV, &fault, &old_segv);
    sigaction(SIGBUS, &fault, &old_bus);
    if (sigsetjmp(before_launch, 1) == 0) {
        result = emulation_launch(f->kernel, parameter, grid, block, shared_bytes) < 0
                     ? INVALID_VALUE
                     : SUCCESS;
    } else {
        emulation_describe_fault();
        result = ILLEGAL_ADDRESS;
    }
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
    return result == ILLEGAL_ADDRESS ? after_fault() : result;
}

/* Now, or when the graph is launched that is being recorded. */
static int start(const struct function *f, void **parameters, void **extra, const unsigned grid[3],
                 const unsigned block[3], unsigned shared_bytes)
{
    const uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    if (usable(SUCCESS) != SUCCESS)
        return usable(SUCCESS);
    if (f == NULL || parameters == NULL || extra != NULL || grid[0] == 0 || grid[0] > INT32_MAX ||
        grid[1] == 0 || grid[1] > UINT16_MAX || grid[2] == 0 || grid[2] > UINT16_MAX ||
        threads == 0 || threads > THREADS_MAX || shared_bytes > f->shared_bytes_max)
        return INVALID_VALUE;
    if (recording != NULL)
        return keep(f, parameters[0], grid, block, shared_bytes);
    if (is_refused_ioctl(2))
        return OPERATING_SYSTEM;
    return run(f, parameters[0], grid, block, shared_bytes);
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   void *stream, void **parameters, void **extra)
{
    const unsigned grid[] = {grid_x, grid_y, grid_z}, block[] = {block_x, block_y, block_z};
    (void)stream;
    return start(function, parameters, extra, grid, block, shared_bytes);
}

struct launch {
    unsigned grid[3], block[3], shared_bytes;
    void *stream;
    const struct {
        int kind, padding;
        int value;
    } * attributes;
    unsigned attribute_count;
};

int cuLaunchKernelEx(const void *launch, void *function, void **parameters, void **extra)
{
    const struct launch *l = launch;
    if (l->attribute_count > 1 || (l->attribute_count == 1 && l->attributes[0].kind != 6))
        return INVALID_VALUE;
    return start(function, parameters, extra, l->grid, l->block, l->shared_bytes);
}

/* --- graphs: a handle is the list of launches, and an executable one is the graph itself --- */

int cuStreamBeginCapture_v2(void *stream, int mode)
{
    (void)stream;
    if (recording != NULL || mode < 0 || mode > 2)
        return INVALID_VALUE;
    recording = calloc(1, sizeof *recording);
    return usable(recording != NULL ? SUCCESS : OUT_OF_MEMORY);
}

int cuStreamEndCapture(void *stream, void **ret)
{
    (void)stream;
    if (recording == NULL)
        return INVALID_VALUE;
    *ret = recording;
    recording = NULL;
    return usable(SUCCESS);
}

int cuGraphInstantiateWithFlags(void **ret, void *graph, unsigned long long flags)
{
    struct graph *g = graph;
    if (g == NULL || flags != 0)
        return INVALID_VALUE;
    g->users++;
    *ret = g;
    return usable(SUCCESS);
}

int cuGraphLaunch(void *executable, void *stream)
{
    (void)stream;
    const struct graph *g = executable;
    int result = usable(recording == NULL ? SUCCESS : INVALID_VALUE);
    for (size_t i = 0; result == SUCCESS && i < g->count; i++) {
        const struct kept *k = &g->launches[i];
        result = run(k->function, k->parameter, k->grid, k->block, k->shared_bytes);
    }
    return result;
}

static int let_go(struct graph *g)
{
    if (g == NULL)
        return INVALID_HANDLE;
    if (g->users-- > 0)
        return SUCCESS;
    for (size_t i = 0; i < g->count; i++)
        free(g->launches[i].parameter);
    free(g->launches);
    free(g);
    return SUCCESS;
}

int cuGraphDestroy(void *graph)
{
    return let_go(graph);
}

int cuGraphExecDestroy(void *executable)
{
    return let_go(executable);
}
