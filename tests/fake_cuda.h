/* What the files of the fake driver know of each other. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* CUresult */
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NO_BINARY = 209,
    OPERATING_SYSTEM = 304,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_SUPPORTED = 801,
    ILLEGAL_ADDRESS = 700,
    NOT_PERMITTED = 800,
};

/* A number of the environment variable FAKE_CUDA, or CUDA_FAKE. */
int setting(const char *name, int otherwise);

int is_device(int device);
/* A descriptor; -1 where a sandbox has none of it left. */
int open_device_file(void);

/* `result`, unless a kernel has faulted in this process or there is no context. */
int usable(int result);
void end_by_fault(void);

/* Whether a call that takes ioctl, from this value of the setting of that name on, is denied it. */
int is_refused_ioctl(int from);

/* SUCCESS where a copy may read these bytes of the device, or write them. */
int is_memory(uint64_t address, size_t bytes, int to_write);
