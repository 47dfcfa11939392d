/* Against a driver library that is none (tests/fake_cuda.c), built beside the test programs. */
#pragma once

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

/* The driver beside this program, which is as `settings` say. */
static inline int open_fake(struct gpu_driver **ret, const char *settings, struct error *err)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
    assert_true(n > 0);
    path[n] = '\0';
    snprintf(strrchr(path, '/'), 32, "/fake/" GPU_DRIVER_LIBRARY);
    setenv("FAKE_CUDA", settings, 1);
    *err = (struct error){0};
    return gpu_driver_open(ret, path, err);
}
