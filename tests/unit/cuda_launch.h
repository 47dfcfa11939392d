/*
 * Launches kernels for GPUs in a test: on the fake driver beside the test programs, which runs them
 * on the CPU, or with SLLORA_TEST_GPU=1 on the first GPU of this machine. Memory of the device is
 * NaN at first and lies between two guard zones; it lives until cuda_reset().
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/cuda.h"

#define CUDA_BUFFERS_MAX 64
#define CUDA_GUARD_BYTES 256

struct cuda_buffer {
    uint64_t all; /* with the guard zones */
    size_t bytes;
};

struct cuda_driver {
    void *library;
    void *functions[CUDA_KERNEL_COUNT]; /* NULL: not looked up yet */
    void *module;
    struct cuda_buffer buffers[CUDA_BUFFERS_MAX];
    uint32_t buffer_count;
    int (*alloc)(uint64_t *, size_t);
    int (*release)(uint64_t);
    int (*send)(uint64_t, const void *, size_t);
    int (*fetch)(void *, uint64_t, size_t);
    int (*find)(void **, void *, const char *);
    int (*set)(void *, int, int);
    int (*synchronize)(void);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                  void *, void **, void **);
};

extern const unsigned char cuda_image[]; /* kernels/cuda/image.S */

static inline void cuda_check(int result, const char *what)
{
    if (result != 0)
        fail_msg("%s: error %d of the driver", what, result);
}

static inline void *cuda_symbol(const struct cuda_driver *c, const char *name)
{
    void *symbol = dlsym(c->library, name);
    if (symbol == NULL)
        fail_msg("%s: not in the driver library", name);
    return symbol;
}

static inline void cuda_open(struct cuda_driver *c)
{
    char path[4096] = "libcuda.so.1";
    const char *on_gpu = getenv("SLLORA_TEST_GPU");
    *c = (struct cuda_driver){0};
    if (on_gpu == NULL || strcmp(on_gpu, "1") != 0) {
        ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
        assert_true(n > 0);
        path[n] = '\0';
        snprintf(strrchr(path, '/'), 32, "/fake/libcuda.so.1");
        setenv("FAKE_CUDA", "", 1);
    }
    c->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (c->library == NULL)
        fail_msg("%s", dlerror());
    *(void **)&c->alloc = cuda_symbol(c, "cuMemAlloc_v2");
    *(void **)&c->release = cuda_symbol(c, "cuMemFree_v2");
    *(void **)&c->send = cuda_symbol(c, "cuMemcpyHtoD_v2");
    *(void **)&c->fetch = cuda_symbol(c, "cuMemcpyDtoH_v2");
    *(void **)&c->find = cuda_symbol(c, "cuModuleGetFunction");
    *(void **)&c->set = cuda_symbol(c, "cuFuncSetAttribute");
    *(void **)&c->synchronize = cuda_symbol(c, "cuCtxSynchronize");
    *(void **)&c->launch = cuda_symbol(c, "cuLaunchKernel");
    int (*init)(unsigned), (*get)(int *, int), (*retain)(void **, int), (*enter)(void *);
    int (*load)(void **, const void *);
    *(void **)&init = cuda_symbol(c, "cuInit");
    *(void **)&get = cuda_symbol(c, "cuDeviceGet");
    *(void **)&retain = cuda_symbol(c, "cuDevicePrimaryCtxRetain");
    *(void **)&enter = cuda_symbol(c, "cuCtxSetCurrent");
    *(void **)&load = cuda_symbol(c, "cuModuleLoadData");
    int device;
    void *context;
    cuda_check(init(0), "cuInit");
    cuda_check(get(&device, 0), "cuDeviceGet");
    cuda_check(retain(&context, device), "cuDevicePrimaryCtxRetain");
    cuda_check(enter(context), "cuCtxSetCurrent");
    cuda_check(load(&c->module, cuda_image), "cuModuleLoadData");
}

/* `from` NULL: NaN, as float and as bf16. */
static inline void *cuda_new(struct cuda_driver *c, const void *from, size_t bytes)
{
    assert_true(c->buffer_count < CUDA_BUFFERS_MAX);
    struct cuda_buffer *b = &c->buffers[c->buffer_count++];
    size_t all = bytes + 2 * CUDA_GUARD_BYTES;
    char *fill = malloc(all);
    assert_non_null(fill);
    memset(fill, 0xff, all);
    if (from != NULL)
        memcpy(fill + CUDA_GUARD_BYTES, from, bytes);
    b->bytes = bytes;
    cuda_check(c->alloc(&b->all, all), "cuMemAlloc");
    cuda_check(c->send(b->all, fill, all), "cuMemcpyHtoD");
    free(fill);
    return (void *)(uintptr_t)(b->all + CUDA_GUARD_BYTES);
}

static inline void cuda_read(const struct cuda_driver *c, void *to, const void *from, size_t bytes)
{
    cuda_check(c->fetch(to, (uint64_t)(uintptr_t)from, bytes), "cuMemcpyDtoH");
}

/* Frees all memory; nothing may have been written around any of it. */
static inline void cuda_reset(struct cuda_driver *c)
{
    unsigned char guard[CUDA_GUARD_BYTES];
    for (uint32_t i = 0; i < c->buffer_count; i++) {
        const struct cuda_buffer *b = &c->buffers[i];
        for (int behind = 0; behind < 2; behind++) {
            uint64_t at = b->all + (behind ? CUDA_GUARD_BYTES + b->bytes : 0);
            cuda_check(c->fetch(guard, at, sizeof guard), "cuMemcpyDtoH");
            for (size_t k = 0; k < sizeof guard; k++)
                if (guard[k] != 0xff)
                    fail_msg("written at byte %zu %s buffer %u", k, behind ? "behind" : "before",
                             i);
        }
        cuda_check(c->release(b->all), "cuMemFree");
    }
    c->buffer_count = 0;
}

/* Launches and waits; `job` is the kernel's struct. */
static inline void cuda_run(struct cuda_driver *c, enum cuda_kernel kernel, uint32_t x, uint32_t y,
                            uint32_t z, uint32_t threads, uint32_t shared_bytes, const void *job)
{
    static const char *const names[] = CUDA_KERNEL_NAMES;
    enum { SHARED_BYTES_MAX = 8 }; /* the attribute */
    void *parameters[] = {(void *)(uintptr_t)job};
    if (c->functions[kernel] == NULL)
        cuda_check(c->find(&c->functions[kernel], c->module, names[kernel]), names[kernel]);
    if (shared_bytes > 48u << 10)
        cuda_check(c->set(c->functions[kernel], SHARED_BYTES_MAX, (int)shared_bytes),
                   names[kernel]);
    cuda_check(c->launch(c->functions[kernel], x, y, z, threads, 1, 1, shared_bytes, NULL,
                         parameters, NULL),
               names[kernel]);
    cuda_check(c->synchronize(), names[kernel]);
}
