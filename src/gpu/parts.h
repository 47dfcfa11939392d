/* What the files of gpu/ know of each other's insides. */
#pragma once

#include "gpu/driver.h"

struct gpu_context {
    const struct gpu_driver *driver;
    int device;
};

/* The errno of a result. */
int gpu_code_of(int result);

/* 0, or what failed and why. */
int gpu_check_result(const struct gpu_driver *d, int result, const char *what, struct error *err);
