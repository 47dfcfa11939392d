/*
 * A driver library with the functions of NVIDIA's that the system asks for, without any GPU. The
 * environment says what it is like: FAKE_CUDA="version=13000 init=0 devices=1 dead=-1 major=9
 * minor=0 mode=0 vmm=1 fds=1 context=0 free=1024 ask=0 careless=0 module=0 fault=700 ioctl=0
 * pin=1 kernels=0 threads=0", each with these values where it is left out; CUDA_FAKE says the same
 * to processes of the service, which get what begins with CUDA_ and not the other. Memory of the
 * device is a file in memory, of which `free` MiB can be had at a time; a reader that asks for
 * write access gets the result `ask`, and with careless=1 what is written through a read-only
 * mapping arrives all the same. `module` is what loading kernels results in, `fault` what a
 * kernel's touching what it must not does: 0 hangs the process, below 100 it is the signal that
 * ends it. With ioctl=1 mapping memory takes that system call, with 2 copies and launches do so
 * too. With pin=0 the host's memory cannot be made known. The last of `kernels` that a process runs
 * touches what it must not. As a real one a context has a device file open, opens it again for
 * memory of the host's, and starts `threads` threads.
 *
 * Here: devices. Their memory is in fake_cuda_memory.c, streams and kernels in fake_cuda_work.c.
 */
#include "fake_cuda.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int setting(const char *name, int otherwise)
{
    const char *all = getenv("FAKE_CUDA") != NULL ? getenv("FAKE_CUDA") : getenv("CUDA_FAKE");
    char key[32];
    snprintf(key, sizeof key, " %s=", name);
    char padded[256];
    snprintf(padded, sizeof padded, " %s", all != NULL ? all : "");
    const char *at = strstr(padded, key);
    return at != NULL ? (int)strtol(at + strlen(key), NULL, 10) : otherwise;
}

int cuInit(unsigned flags)
{
    return flags == 0 ? setting("init", SUCCESS) : INVALID_VALUE;
}

int cuGetErrorString(int result, const char **ret)
{
    const struct {
        int result;
        const char *text;
    } known[] = {
        {INVALID_DEVICE, "invalid device ordinal"},
        {NO_BINARY, "no kernel image is available for execution on the device"},
        {OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"},
        {NOT_FOUND, "named symbol not found"},
        {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
        {NOT_PERMITTED, "operation not permitted"},
    };
    *ret = "system not yet initialized";
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].result == result)
            *ret = known[i].text;
    return result == 9999 ? INVALID_VALUE : SUCCESS;
}

int cuDriverGetVersion(int *ret)
{
    *ret = setting("version", 13000);
    return SUCCESS;
}

int cuDeviceGetCount(int *ret)
{
    *ret = setting("devices", 1);
    return SUCCESS;
}

int cuDeviceGet(int *ret, int index)
{
    *ret = 100 + index; /* a handle is not an index */
    return index == setting("dead", -1) ? INVALID_DEVICE : SUCCESS;
}

int is_device(int device)
{
    return device >= 100 && device < 100 + setting("devices", 1);
}

int cuDeviceGetName(char *ret, int bytes, int device)
{
    if (!is_device(device))
        return INVALID_DEVICE;
    snprintf(ret, (size_t)bytes, "Fake GPU %d", device - 100);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *ret, int device)
{
    *ret = (size_t)150 << 30;
    return is_device(device) ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetAttribute(int *ret, int attribute, int device)
{
    const struct {
        int attribute, value;
    } known[] = {
        {16, 132},
        {20, setting("mode", 0)},
        {36, 3201000},
        {37, setting("bus", 6144)},
        {75, setting("major", 9)},
        {76, setting("minor", 0)},
        {102, setting("vmm", 1)},
        {103, setting("fds", 1)},
    };
    if (!is_device(device))
        return INVALID_DEVICE;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].attribute == attribute) {
            *ret = known[i].value;
            return SUCCESS;
        }
    return INVALID_VALUE;
}

int is_refused_ioctl(int from)
{
    return setting("ioctl", 0) >= from && ioctl(-1, 0) < 0 && errno == EPERM;
}

/* --- a process on a device --- */

static int current; /* its handle and 1 more */
static int has_faulted;

int usable(int result)
{
    return has_faulted ? ILLEGAL_ADDRESS : current > 0 ? result : INVALID_CONTEXT;
}

void end_by_fault(void)
{
    has_faulted = 1;
}

int open_device_file(void)
{
    return open("/dev/null", O_RDWR | O_CLOEXEC);
}

static void *wait_for_ever(void *argument)
{
    for (;;)
        pause();
    return argument;
}

/* What a process has of its first context on. */
static int begin(void)
{
    static int device_file = -1;
    pthread_t thread;
    if (device_file >= 0)
        return SUCCESS;
    device_file = open_device_file();
    for (int i = 0; i < setting("threads", 0); i++)
        if (pthread_create(&thread, NULL, wait_for_ever, NULL) != 0)
            return OPERATING_SYSTEM;
    return device_file >= 0 ? SUCCESS : OPERATING_SYSTEM;
}

int cuDevicePrimaryCtxRetain(void **ret, int device)
{
    int result = setting("context", SUCCESS);
    *ret = (void *)(intptr_t)(device + 1);
    if (!is_device(device))
        return INVALID_DEVICE;
    return result == SUCCESS ? begin() : result;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
    return is_device(device) ? SUCCESS : INVALID_DEVICE;
}

int cuCtxSetCurrent(void *context)
{
    current = (int)(intptr_t)context;
    return SUCCESS;
}
