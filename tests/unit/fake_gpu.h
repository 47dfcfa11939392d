/* Against a driver library that is none (tests/fake_cuda.c), built beside the test programs. */
#pragma once

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gpu/driver.h"

static inline void fake_path(char *ret, size_t bytes)
{
    ssize_t n = readlink("/proc/self/exe", ret, bytes - 32);
    assert_true(n > 0);
    ret[n] = '\0';
    snprintf(strrchr(ret, '/'), 32, "/fake/" GPU_DRIVER_LIBRARY);
}

/* The driver beside this program, which is as `settings` say. */
static inline int open_fake(struct gpu_driver **ret, const char *settings, struct error *err)
{
    char path[4096];
    fake_path(path, sizeof path);
    setenv("FAKE_CUDA", settings, 1);
    *err = (struct error){0};
    return gpu_driver_open(ret, path, err);
}

/* From here on it is found wherever the real one is looked for: by its name. */
static inline void load_fake(void)
{
    char path[4096];
    fake_path(path, sizeof path);
    if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) == NULL)
        fail_msg("%s", dlerror());
}
