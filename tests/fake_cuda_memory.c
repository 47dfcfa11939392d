/*
 * The fake driver's memory: what a process makes to share is a file in memory, what it makes for
 * itself is nobody's else; both are mapped at the addresses that it reserves, which are the host's.
 */
#include "fake_cuda.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP ((size_t)2 << 20)
#define TABLE 512
#define PAGE ((size_t)4096)
#define ALLOCATION_ALIGN ((size_t)256)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

/* How much of the device this process has; of others nothing is known. */
static size_t taken;

static struct memory {
    size_t bytes; /* 0: free */
    int fd;       /* -1: nobody else can have it */
    int imported;
} memories[TABLE];

static struct range {
    char *at; /* NULL: free */
    size_t bytes;
} ranges[TABLE];

static struct mapping {
    char *at; /* NULL: free */
    size_t bytes;
    int fd, is_imported, access;
    char *pages; /* NULL: in a range; else memory that was allocated at once */
} mappings[TABLE];

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

/* --- handles --- */

static int put(uint64_t *ret, int fd, size_t bytes, int imported)
{
    for (int i = 0; i < TABLE; i++) {
        if (memories[i].bytes == 0) {
            memories[i] = (struct memory){bytes, fd, imported};
            *ret = (uint64_t)i + 1000;
            return SUCCESS;
        }
    }
    if (fd >= 0)
        close(fd);
    return OUT_OF_MEMORY;
}

static struct memory *of_handle(uint64_t handle)
{
    struct memory *m = handle >= 1000 && handle < 1000 + TABLE ? &memories[handle - 1000] : NULL;
    return m != NULL && m->bytes != 0 ? m : NULL;
}

int cuMemCreate(uint64_t *ret, size_t bytes, const void *allocation, unsigned long long flags)
{
    const struct {
        int type, handle_types;
        struct location at;
    } *a = allocation;
    if (bytes == 0 || bytes % STEP != 0 || a->type != 1 || (a->handle_types | 1) != 1 ||
        a->at.type != 1 || flags != 0)
        return INVALID_VALUE;
    if (!is_device(a->at.id))
        return INVALID_DEVICE;
    if (taken + bytes > (size_t)setting("free", 1024) << 20)
        return OUT_OF_MEMORY;
    int fd = -1;
    if (a->handle_types == 1) {
        fd = memfd_create("fake-gpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0)
            return OUT_OF_MEMORY;
    }
    taken += bytes;
    return put(ret, fd, bytes, 0);
}

int cuMemRelease(uint64_t handle)
{
    struct memory *m = of_handle(handle);
    if (m == NULL)
        return INVALID_HANDLE;
    taken -= m->imported ? 0 : m->bytes;
    if (m->fd >= 0)
        close(m->fd);
    *m = (struct memory){0};
    return SUCCESS;
}

int cuMemExportToShareableHandle(void *ret, uint64_t handle, int type, unsigned long long flags)
{
    struct memory *m = of_handle(handle);
    if (m == NULL || m->fd < 0 || type != 1 || flags != 0)
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

/* --- addresses --- */

int cuMemAddressReserve(uint64_t *ret, size_t bytes, size_t alignment, uint64_t at,
                        unsigned long long flags)
{
    if (bytes == 0 || bytes % STEP != 0 || alignment != 0 || at != 0 || flags != 0)
        return INVALID_VALUE;
    char *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int i = 0; p != MAP_FAILED && i < TABLE; i++) {
        if (ranges[i].at == NULL) {
            ranges[i] = (struct range){p, bytes};
            *ret = (uint64_t)(uintptr_t)p;
            return SUCCESS;
        }
    }
    return OUT_OF_MEMORY;
}

static struct range *range_of(uint64_t address, size_t bytes)
{
    for (int i = 0; i < TABLE; i++) {
        uint64_t at = (uint64_t)(uintptr_t)ranges[i].at;
        if (at != 0 && address >= at && address + bytes <= at + ranges[i].bytes)
            return &ranges[i];
    }
    return NULL;
}

/* The mapping that holds all of these bytes. */
static struct mapping *mapping_of(uint64_t address, size_t bytes)
{
    for (int i = 0; i < TABLE; i++) {
        uint64_t at = (uint64_t)(uintptr_t)mappings[i].at;
        if (at != 0 && address >= at && address + bytes <= at + mappings[i].bytes)
            return &mappings[i];
    }
    return NULL;
}

static int is_mapped(uint64_t address, size_t bytes)
{
    for (int i = 0; i < TABLE; i++) {
        uint64_t at = (uint64_t)(uintptr_t)mappings[i].at;
        if (at != 0 && address < at + mappings[i].bytes && at < address + bytes)
            return 1;
    }
    return 0;
}

int cuMemAddressFree(uint64_t address, size_t bytes)
{
    struct range *r = range_of(address, bytes);
    if (r == NULL || r->bytes != bytes || is_mapped(address, bytes))
        return INVALID_VALUE;
    munmap(r->at, r->bytes);
    *r = (struct range){0};
    return SUCCESS;
}

int cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle,
             unsigned long long flags)
{
    const struct memory *m = of_handle(handle);
    if (range_of(address, bytes) == NULL || m == NULL || is_mapped(address, bytes) ||
        address % STEP % PAGE != 0 || offset != 0 || flags != 0 || bytes != m->bytes)
        return INVALID_VALUE;
    if (is_refused_ioctl(1))
        return OPERATING_SYSTEM;
    for (int i = 0; i < TABLE; i++) {
        if (mappings[i].at != NULL)
            continue;
        mappings[i] = (struct mapping){.at = (char *)(uintptr_t)address,
                                       .bytes = bytes,
                                       .fd = m->fd < 0 ? -1 : fcntl(m->fd, F_DUPFD_CLOEXEC, 3),
                                       .is_imported = m->imported};
        return SUCCESS;
    }
    return OUT_OF_MEMORY;
}

int cuMemUnmap(uint64_t address, size_t bytes)
{
    struct mapping *m = mapping_of(address, bytes);
    if (m == NULL || m->pages != NULL || m->bytes != bytes)
        return INVALID_VALUE;
    mmap(m->at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (m->fd >= 0)
        close(m->fd);
    *m = (struct mapping){0};
    return SUCCESS;
}

int cuMemSetAccess(uint64_t address, size_t bytes, const void *access, size_t count)
{
    const struct {
        struct location at;
        int flags;
    } *a = access;
    struct mapping *m = mapping_of(address, bytes);
    if (m == NULL || m->pages != NULL || m->bytes != bytes || count != 1 ||
        (a->flags != 1 && a->flags != 3))
        return INVALID_VALUE;
    if (a->flags == 3 && m->is_imported && setting("ask", SUCCESS) != SUCCESS)
        return setting("ask", SUCCESS);
    if (is_refused_ioctl(1))
        return OPERATING_SYSTEM;
    int protection = PROT_READ | (a->flags == 3 || setting("careless", 0) ? PROT_WRITE : 0);
    int kind = m->fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    m->access = a->flags;
    return mmap(m->at, bytes, protection, kind | MAP_FIXED, m->fd, 0) == MAP_FAILED ? OUT_OF_MEMORY
                                                                                    : SUCCESS;
}

/* --- at once, and copies --- */

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
        if (mappings[i].at != NULL)
            continue;
        char *at = p + PAGE + inside - aligned;
        memset(at, 0xff, aligned);
        mappings[i] = (struct mapping){.at = at, .bytes = bytes, .fd = -1, .access = 3, .pages = p};
        taken += bytes;
        *ret = (uint64_t)(uintptr_t)at;
        return SUCCESS;
    }
    munmap(p, inside + 2 * PAGE);
    return OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t address)
{
    struct mapping *r = mapping_of(address, 0);
    if (r == NULL || r->pages == NULL || address != (uint64_t)(uintptr_t)r->at)
        return INVALID_VALUE;
    const size_t inside = ((size_t)(r->at - r->pages) + r->bytes + PAGE - 1) / PAGE * PAGE;
    munmap(r->pages, inside + PAGE);
    taken -= r->bytes;
    *r = (struct mapping){0};
    return usable(SUCCESS);
}

int is_memory(uint64_t address, size_t bytes, int to_write)
{
    const struct mapping *r = mapping_of(address, bytes);
    if (r == NULL || r->access == 0)
        return INVALID_VALUE;
    if (is_refused_ioctl(2))
        return OPERATING_SYSTEM;
    return to_write && r->access != 3 && !setting("careless", 0) ? ILLEGAL_ADDRESS : SUCCESS;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes)
{
    const struct mapping *r = mapping_of(to, bytes);
    const int result = is_memory(to, bytes, 1);
    if (usable(SUCCESS) != SUCCESS || result != SUCCESS)
        return usable(result);
    if (r->pages != NULL || r->access == 3) {
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
