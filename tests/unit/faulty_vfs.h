/*
 * A disk that fails at a chosen step: a VFS around SQLite's own that counts every write, sync,
 * truncation and deletion, and at step k
 *
 *   FAULT_KILL   ends the process, half of a write done; what was written before is there
 *   FAULT_POWER  likewise, and then only what was synced is there
 *   FAULT_LUCK   likewise, and of what was not synced some writes are there and some are not
 *   FAULT_FULL, FAULT_IO  fails this step and every later one, until it is mended
 *
 * What a power cut leaves is kept beside each file as FILE.disk: a sync copies the file there, and
 * by luck a write goes there at once. faulty_power_cut() puts these copies in place of the files.
 */
#pragma once

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/rng.h"

enum fault { FAULT_NONE, FAULT_KILL, FAULT_POWER, FAULT_LUCK, FAULT_FULL, FAULT_IO };

struct faulty {
    sqlite3_vfs vfs; /* its pAppData is this */
    sqlite3_vfs *real;
    enum fault fault;
    int64_t step; /* the next one is step + 1 */
    int64_t fail_at;
    struct rng rng;
    char deleted[300]; /* on the disk it may still be there, until the directory is synced */
};

struct faulty_file {
    sqlite3_file base;
    struct faulty *owner;
    int disk_fd; /* FILE.disk, -1: nothing is kept */
    bool is_new; /* its first sync is also the directory's, as in SQLite's own VFS */
    char path[256];
    sqlite3_file real[]; /* szOsFile bytes */
};

static inline struct faulty_file *faulty_file_of(sqlite3_file *f)
{
    return (struct faulty_file *)f;
}

static inline bool faulty_keeps(const struct faulty *v)
{
    return v->fault == FAULT_POWER || v->fault == FAULT_LUCK;
}

/* True when this step is to fail. */
static inline bool faulty_step(struct faulty *v)
{
    v->step++;
    return v->fault != FAULT_NONE && v->step >= v->fail_at;
}

static inline int faulty_fail(struct faulty *v, int io_error)
{
    if (v->fault == FAULT_FULL)
        return SQLITE_FULL;
    if (v->fault == FAULT_IO)
        return io_error;
    kill(getpid(), SIGKILL);
    abort();
}

static inline void faulty_disk_path(const char *path, char ret[300])
{
    snprintf(ret, 300, "%s.disk", path);
}

static inline void faulty_disk_write(struct faulty_file *f, const void *bytes, int count,
                                     sqlite3_int64 offset)
{
    if (f->disk_fd >= 0 && f->owner->fault == FAULT_LUCK && rng_below(&f->owner->rng, 2) == 0)
        assert(pwrite(f->disk_fd, bytes, (size_t)count, offset) == count);
}

/* The disk has now all of it. */
static inline void faulty_disk_sync(struct faulty_file *f)
{
    sqlite3_int64 bytes = 0;
    char part[65536];
    if (f->disk_fd < 0)
        return;
    assert(f->real->pMethods->xFileSize(f->real, &bytes) == SQLITE_OK);
    for (sqlite3_int64 at = 0; at < bytes; at += (sqlite3_int64)sizeof part) {
        int count = bytes - at < (sqlite3_int64)sizeof part ? (int)(bytes - at) : (int)sizeof part;
        assert(f->real->pMethods->xRead(f->real, part, count, at) == SQLITE_OK);
        assert(pwrite(f->disk_fd, part, (size_t)count, at) == count);
    }
    assert(ftruncate(f->disk_fd, bytes) == 0);
    if (f->is_new)
        unlink(f->owner->deleted);
    f->is_new = false;
}

/* --- files --- */

static int faulty_close(sqlite3_file *file)
{
    struct faulty_file *f = faulty_file_of(file);
    if (f->disk_fd >= 0)
        close(f->disk_fd);
    return f->real->pMethods->xClose(f->real);
}

static int faulty_read(sqlite3_file *f, void *to, int count, sqlite3_int64 offset)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xRead(real, to, count, offset);
}

static int faulty_write(sqlite3_file *file, const void *bytes, int count, sqlite3_int64 offset)
{
    struct faulty_file *f = faulty_file_of(file);
    if (faulty_step(f->owner)) {
        f->real->pMethods->xWrite(f->real, bytes, count / 2, offset);
        faulty_disk_write(f, bytes, count / 2, offset);
        return faulty_fail(f->owner, SQLITE_IOERR_WRITE);
    }
    faulty_disk_write(f, bytes, count, offset);
    return f->real->pMethods->xWrite(f->real, bytes, count, offset);
}

static int faulty_truncate(sqlite3_file *file, sqlite3_int64 bytes)
{
    struct faulty_file *f = faulty_file_of(file);
    if (faulty_step(f->owner))
        return faulty_fail(f->owner, SQLITE_IOERR_TRUNCATE);
    return f->real->pMethods->xTruncate(f->real, bytes);
}

static int faulty_sync(sqlite3_file *file, int flags)
{
    struct faulty_file *f = faulty_file_of(file);
    (void)flags;
    if (faulty_step(f->owner))
        return faulty_fail(f->owner, SQLITE_IOERR_FSYNC);
    faulty_disk_sync(f); /* and no real sync: thousands of them would take minutes */
    return SQLITE_OK;
}

static int faulty_file_size(sqlite3_file *f, sqlite3_int64 *ret)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xFileSize(real, ret);
}

static int faulty_lock(sqlite3_file *f, int level)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xLock(real, level);
}

static int faulty_unlock(sqlite3_file *f, int level)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xUnlock(real, level);
}

static int faulty_check_reserved(sqlite3_file *f, int *ret)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xCheckReservedLock(real, ret);
}

static int faulty_control(sqlite3_file *f, int op, void *argument)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xFileControl(real, op, argument);
}

static int faulty_sector(sqlite3_file *f)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xSectorSize(real);
}

static int faulty_device(sqlite3_file *f)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xDeviceCharacteristics(real);
}

static int faulty_shm_map(sqlite3_file *f, int page, int bytes, int extend, void volatile **ret)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xShmMap(real, page, bytes, extend, ret);
}

static int faulty_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xShmLock(real, offset, n, flags);
}

static void faulty_shm_barrier(sqlite3_file *f)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    real->pMethods->xShmBarrier(real);
}

static int faulty_shm_unmap(sqlite3_file *f, int remove)
{
    sqlite3_file *real = faulty_file_of(f)->real;
    return real->pMethods->xShmUnmap(real, remove);
}

static const sqlite3_io_methods faulty_methods = {
    .iVersion = 2,
    .xClose = faulty_close,
    .xRead = faulty_read,
    .xWrite = faulty_write,
    .xTruncate = faulty_truncate,
    .xSync = faulty_sync,
    .xFileSize = faulty_file_size,
    .xLock = faulty_lock,
    .xUnlock = faulty_unlock,
    .xCheckReservedLock = faulty_check_reserved,
    .xFileControl = faulty_control,
    .xSectorSize = faulty_sector,
    .xDeviceCharacteristics = faulty_device,
    .xShmMap = faulty_shm_map,
    .xShmLock = faulty_shm_lock,
    .xShmBarrier = faulty_shm_barrier,
    .xShmUnmap = faulty_shm_unmap,
};

/* --- the disk --- */

static int faulty_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags,
                       int *ret_flags)
{
    struct faulty *v = vfs->pAppData;
    struct faulty_file *f = faulty_file_of(file);
    char disk[300];
    f->base.pMethods = NULL;
    f->owner = v;
    f->disk_fd = -1;
    f->is_new =
        (flags & SQLITE_OPEN_CREATE) && (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL));
    int r = v->real->xOpen(v->real, path, f->real, flags, ret_flags);
    if (r != SQLITE_OK)
        return r;
    f->base.pMethods = &faulty_methods;
    if (path == NULL || !faulty_keeps(v))
        return r;
    snprintf(f->path, sizeof f->path, "%s", path);
    faulty_disk_path(path, disk);
    f->disk_fd = open(disk, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert(f->disk_fd >= 0);
    return r;
}

static int faulty_delete(sqlite3_vfs *vfs, const char *path, int sync_dir)
{
    struct faulty *v = vfs->pAppData;
    char disk[300];
    if (faulty_step(v))
        return faulty_fail(v, SQLITE_IOERR_DELETE);
    faulty_disk_path(path, disk);
    if (sync_dir || (v->fault == FAULT_LUCK && rng_below(&v->rng, 2) == 0))
        unlink(disk);
    else
        snprintf(v->deleted, sizeof v->deleted, "%s", disk);
    return v->real->xDelete(v->real, path, 0);
}

/* Becomes the VFS of every connection that is opened from now on. seed: of its luck. */
static inline void faulty_begin(struct faulty *v, enum fault fault, int64_t fail_at, uint64_t seed)
{
    memset(v, 0, sizeof *v);
    v->real = sqlite3_vfs_find(NULL);
    v->vfs = *v->real; /* what is not replaced needs nothing but the real one's own data */
    v->vfs.zName = "faulty";
    v->vfs.pNext = NULL;
    v->vfs.szOsFile = (int)sizeof(struct faulty_file) + v->real->szOsFile;
    v->vfs.pAppData = v;
    v->vfs.xOpen = faulty_open;
    v->vfs.xDelete = faulty_delete;
    v->fault = fault;
    v->fail_at = fail_at;
    rng_seed(&v->rng, seed);
    assert(sqlite3_vfs_register(&v->vfs, 1) == SQLITE_OK);
}

static inline void faulty_end(struct faulty *v)
{
    sqlite3_vfs_unregister(&v->vfs);
    assert(sqlite3_vfs_register(v->real, 1) == SQLITE_OK);
}

/* Copies a file, if it is there. */
static inline void faulty_copy(const char *from, const char *to)
{
    char part[65536];
    size_t n;
    FILE *source = fopen(from, "rb");
    if (source == NULL)
        return;
    FILE *copy = fopen(to, "wb");
    assert(copy != NULL);
    while ((n = fread(part, 1, sizeof part, source)) > 0)
        assert(fwrite(part, 1, n, copy) == n);
    fclose(source);
    fclose(copy);
}

/* What the disk has becomes the file, of the ledger and what SQLite keeps beside it. */
static inline void faulty_power_cut(const char *path)
{
    static const char *const suffixes[] = {"", "-wal", "-journal"};
    char file[280], disk[300];
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        snprintf(file, sizeof file, "%s%s", path, suffixes[i]);
        faulty_disk_path(file, disk);
        if (access(disk, F_OK) == 0)
            rename(disk, file);
        else
            unlink(file);
    }
    snprintf(file, sizeof file, "%s-shm", path);
    unlink(file);
}
