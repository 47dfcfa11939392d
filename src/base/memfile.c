/* See memfile.h. */
#include "base/memfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Newer than Debian 12's headers. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

#define SEALS_OF_SIZE (F_SEAL_SHRINK | F_SEAL_GROW)
#define SEALS_ALL (SEALS_OF_SIZE | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

int memfile_create(const char *name, unsigned flags, uint64_t bytes)
{
    flags |= MFD_CLOEXEC | MFD_ALLOW_SEALING;
    cleanup_fd int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, flags); /* before 6.3 */
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        return -errno;
    return steal_fd(&fd);
}

int memfile_reader(int fd, int *ret_reader_fd, struct error *err)
{
    char path[32];
    /* Write permission goes first, then the reopen. */
    if (fchmod(fd, 0444) != 0 || fcntl(fd, F_ADD_SEALS, SEALS_OF_SIZE) != 0)
        return error_set(err, -errno, "cannot fix a share's size: %s", strerror(errno));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY | O_CLOEXEC);
    if (reader < 0)
        return error_set(err, -errno,
                         "cannot open a share read-only through /proc: %s (is /proc mounted, and "
                         "is this before the sandbox is locked?)",
                         strerror(errno));
    *ret_reader_fd = reader;
    return 0;
}

int memfile_seal(int fd, struct error *err)
{
    if (fcntl(fd, F_ADD_SEALS, SEALS_ALL) != 0)
        return error_set(err, -errno, "cannot seal a share: %s", strerror(errno));
    if (!memfile_is_sealed(fd))
        return error_set(err, -EPERM, "the kernel did not keep a share's seals (%#x)",
                         memfile_seals(fd));
    return 0;
}

int memfile_seals(int fd)
{
    return fcntl(fd, F_GET_SEALS);
}

bool memfile_is_sealed(int fd)
{
    int seals = memfile_seals(fd);
    return seals >= 0 && (seals & SEALS_ALL) == SEALS_ALL;
}
