/*
 * A driver library with the functions of NVIDIA's that the system asks for, without any GPU. The
 * environment says what it is like: FAKE_CUDA="version=13000 init=0 devices=1 dead=-1 major=9
 * minor=0 mode=0 vmm=1 fds=1 context=0 free=1024 ask=0 careless=0 module=0 fault=700 ioctl=0
 * pin=1", each with these values where it is left out. Memory of the device is a file in memory, of
 * which `free` MiB can be had at a time; a reader that asks for write access gets the result `ask`,
 * and with careless=1 what is written through a read-only mapping arrives all the same. `module` is
 * what loading kernels results in, `fault` what a kernel's touching what it must not does: 0 hangs
 * the process, below 100 it is the signal that ends it. With ioctl=1 mapping memory takes that
 * system call, with 2 copies and launches do so too. With pin=0 the host's memory cannot be made
 * known.
 *
 * Here: devices and their memory. Streams and kernels are in fake_cuda_work.c.
 */
#include "fake_cuda.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int setting(const char *name, int otherwise)
{
    const char *all = getenv("FAKE_CUDA");
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

static int is_device(int device)
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

int cuDevicePrimaryCtxRetain(void **ret, int device)
{
    *ret = (void *)(intptr_t)(device + 1);
    return is_device(device) ? setting("context", SUCCESS) : INVALID_DEVICE;
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

/* --- memory --- */

#define STEP ((size_t)2 << 20)
#define TABLE 512
#define PAGE ((size_t)4096)
#define ALLOCATION_ALIGN ((size_t)256)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

/* How much of the device this process has; of others nothing is known. */
static size_t taken;

static struct memory {
    int fd; /* 0: free */
    size_t bytes;
    int imported;
} memories[TABLE];

static struct range {
    char *at;
    size_t bytes;
    int fd, is_imported, access;
    char *pages; /* NULL: a range of addresses; else memory that was allocated at once */
} ranges[TABLE];

struct location {
    int type, id;
};

int cuMemGetInfo_v2(size_t *ret_free, size_t *ret_total)
{
    *ret_total = (size_t)150 << 30;
    *ret_free = ((size_t)setting("free", 1024) << 20) - taken;
    return usable(SUCCESS);
}

int cuMemGetAllocationGranularity(size_t *ret, const void *allocation, int which)
{
    *ret = STEP;
    return allocation != NULL && (which == 0 || which == 1) ? SUCCESS : INVALID_VALUE;
}

static int put(uint64_t *ret, int fd, size_t bytes, int imported)
{
    for (int i = 0; i < TABLE; i++) {
        if (memories[i].fd == 0) {
            memories[i] = (struct memory){fd, bytes, imported};
            *ret = (uint64_t)i + 1000;
            return SUCCESS;
        }
    }
    close(fd);
    return OUT_OF_MEMORY;
}

static struct memory *of_handle(uint64_t handle)
{
    struct memory *m = handle >= 1000 && handle < 1000 + TABLE ? &memories[handle - 1000] : NULL;
    return m != NULL && m->fd != 0 ? m : NULL;
}

int cuMemCreate(uint64_t *ret, size_t bytes, const void *allocation, unsigned long long flags)
{
    const struct {
        int type, handle_types;
        struct location at;
    } *a = allocation;
    if (bytes % STEP != 0 || a->type != 1 || (a->handle_types | 1) != 1 || a->at.type != 1 ||
        flags != 0)
        return INVALID_VALUE;
    if (!is_device(a->at.id))
        return INVALID_DEVICE;
    if (taken + bytes > (size_t)setting("free", 1024) << 20)
        return OUT_OF_MEMORY;
    int fd = memfd_create("fake-gpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0)
        return OUT_OF_MEMORY;
    taken += bytes;
    return put(ret, fd, bytes, 0);
}

int cuMemRelease(uint64_t handle)
{
    struct memory *m = of_handle(handle);
    if (m == NULL)
        return INVALID_HANDLE;
    taken -= m->imported ? 0 : m->bytes;
    close(m->fd);
    *m = (struct memory){0};
    return SUCCESS;
}

int cuMemExportToShareableHandle(void *ret, uint64_t handle, int type, unsigned long long flags)
{
    struct memory *m = of_handle(handle);
    if (m == NULL || type != 1 || flags != 0)
        return m == NULL ? INVALID_HANDLE : INVALID_VALUE;
    *(int *)ret = fcntl(m->fd, F_DUPFD_CLOEXEC, 3);
    return SUCCESS;
}

int cuMemImportFromShareableHandle(uint64_t *ret, void *descriptor, int type)
{
    int fd = (int)(intptr_t)descriptor;
    struct stat st;
    if (type != 1)
        return INVALID_VALUE;
    if (is_refused_ioctl(1) || fcntl(fd, F_GET_SEALS) != SEALS || fstat(fd, &st) < 0)
        return OPERATING_SYSTEM;
    return put(ret, fcntl(fd, F_DUPFD_CLOEXEC, 3), (size_t)st.st_size, 1);
}

int cuMemAddressReserve(uint64_t *ret, size_t bytes, size_t alignment, uint64_t at,
                        unsigned long long flags)
{
    if (bytes % STEP != 0 || alignment != 0 || at != 0 || flags != 0)
        return INVALID_VALUE;
    char *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int i = 0; p != MAP_FAILED && i < TABLE; i++) {
        if (ranges[i].at == NULL) {
            ranges[i] = (struct range){.at = p, .bytes = bytes, .fd = -1};
            *ret = (uint64_t)(uintptr_t)p;
            return SUCCESS;
        }
    }
    return OUT_OF_MEMORY;
}

static struct range *of_address(uint64_t address, size_t bytes)
{
    for (int i = 0; i < TABLE; i++) {
        uint64_t at = (uint64_t)(uintptr_t)ranges[i].at;
        if (ranges[i].at != NULL && address >= at && address + bytes <= at + ranges[i].bytes)
            return &ranges[i];
    }
    return NULL;
}

int cuMemAddressFree(uint64_t address, size_t bytes)
{
    struct range *r = of_address(address, bytes);
    if (r == NULL || r->pages != NULL || r->fd >= 0 || r->bytes != bytes)
        return INVALID_VALUE;
    munmap(r->at, r->bytes);
    *r = (struct range){0};
    return SUCCESS;
}

int cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle,
             unsigned long long flags)
{
    struct range *r = of_address(address, bytes);
    const struct memory *m = of_handle(handle);
    if (r == NULL || r->pages != NULL || m == NULL || r->fd >= 0 || offset != 0 || flags != 0 ||
        bytes != m->bytes)
        return INVALID_VALUE;
    if (is_refused_ioctl(1))
        return OPERATING_SYSTEM;
    r->fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 3);
    r->is_imported = m->imported;
    r->access = 0;
    return SUCCESS;
}

int cuMemUnmap(uint64_t address, size_t bytes)
{
    struct range *r = of_address(address, bytes);
    if (r == NULL || r->fd < 0)
        return INVALID_VALUE;
    mmap(r->at, r->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
         0);
    close(r->fd);
    r->fd = -1;
    return SUCCESS;
}

int cuMemSetAccess(uint64_t address, size_t bytes, const void *access, size_t count)
{
    const struct {
        struct location at;
        int flags;
    } *a = access;
    struct range *r = of_address(address, bytes);
    if (r == NULL || r->fd < 0 || count != 1 || (a->flags != 1 && a->flags != 3))
        return INVALID_VALUE;
    if (a->flags == 3 && r->is_imported && setting("ask", SUCCESS) != SUCCESS)
        return setting("ask", SUCCESS);
    if (is_refused_ioctl(1))
        return OPERATING_SYSTEM;
    int protection = PROT_READ | (a->flags == 3 || setting("careless", 0) ? PROT_WRITE : 0);
    r->access = a->flags;
    return mmap(r->at, bytes, protection, MAP_SHARED | MAP_FIXED, r->fd, 0) == MAP_FAILED
               ? OUT_OF_MEMORY
               : SUCCESS;
}

/* Memory that ends where nothing may be touched, up to the alignment, and begins as NaN. */
int cuMemAlloc_v2(uint64_t *ret, size_t bytes)
{
    if (bytes == 0 || usable(SUCCESS) != SUCCESS)
        return bytes == 0 ? INVALID_VALUE : usable(SUCCESS);
    if (bytes > (size_t)setting("free", 1024) << 20 || taken + bytes > (size_t)setting("free", 1024)
                                                                           << 20)
        return OUT_OF_MEMORY;
    const size_t aligned = (bytes + ALLOCATION_ALIGN - 1) / ALLOCATION_ALIGN * ALLOCATION_ALIGN;
    const size_t inside = (aligned + PAGE - 1) / PAGE * PAGE;
    char *p = mmap(NULL, inside + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + PAGE, inside, PROT_READ | PROT_WRITE) < 0)
        return OUT_OF_MEMORY;
    for (int i = 0; i < TABLE; i++) {
        if (ranges[i].at != NULL)
            continue;
        char *at = p + PAGE + inside - aligned;
        memset(at, 0xff, aligned);
        ranges[i] = (struct range){.at = at, .bytes = bytes, .fd = -1, .access = 3, .pages = p};
        taken += bytes;
        *ret = (uint64_t)(uintptr_t)at;
        return SUCCESS;
    }
    munmap(p, inside + 2 * PAGE);
    return OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t address)
{
    struct range *r = of_address(address, 0);
    if (r == NULL || r->pages == NULL || address != (uint64_t)(uintptr_t)r->at)
        return INVALID_VALUE;
    const size_t inside = ((size_t)(r->at - r->pages) + r->bytes + PAGE - 1) / PAGE * PAGE;
    munmap(r->pages, inside + PAGE);
    taken -= r->bytes;
    *r = (struct range){0};
    return usable(SUCCESS);
}

int is_memory(uint64_t address, size_t bytes, int to_write)
{
    const struct range *r = of_address(address, bytes);
    if (r == NULL || r->access == 0)
        return INVALID_VALUE;
    if (is_refused_ioctl(2))
        return OPERATING_SYSTEM;
    return to_write && r->access != 3 && !setting("careless", 0) ? ILLEGAL_ADDRESS : SUCCESS;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes)
{
    const struct range *r = of_address(to, bytes);
    const int result = is_memory(to, bytes, 1);
    if (usable(SUCCESS) != SUCCESS || result != SUCCESS)
        return usable(result);
    if (r->pages != NULL) {
        memcpy((char *)(uintptr_t)to, from, bytes);
        return SUCCESS;
    }
    off_t at = (off_t)(to - (uint64_t)(uintptr_t)r->at);
    for (size_t done = 0; done < bytes;) { /* a call writes 2 GiB at most */
        ssize_t n = pwrite(r->fd, (const char *)from + done, bytes - done, at + (off_t)done);
        if (n <= 0)
            return ILLEGAL_ADDRESS;
        done += (size_t)n;
    }
    return SUCCESS;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes)
{
    const int result = usable(is_memory(from, bytes, 0));
    if (result == SUCCESS)
        memcpy(to, (const char *)(uintptr_t)from, bytes);
    return result;
}
