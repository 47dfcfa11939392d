/*
 * Memory that is handed from process to process as a descriptor (memfd): made by one, filled by
 * another, sealed, and then read by many who cannot change it any more, root included.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Of `bytes`, with seals possible; `flags` of memfd_create besides. Returns the descriptor
 * (close-on-exec) or -errno. */
int memfile_create(const char *name, unsigned flags, uint64_t bytes);

/* Its size and mode are fixed now (0444, seals against growing and shrinking), and it is opened
 * once more, for reading only: what is handed out to those who may only read, so that even
 * /proc/PID/fd gives no way back. Needs /proc. */
int memfile_reader(int fd, int *ret_reader_fd, struct error *err);

/* Adds every seal: from now on nobody can write, map writable, resize or unseal. */
int memfile_seal(int fd, struct error *err);
/* The seals of a descriptor; -1: it has none and is no such memory. */
int memfile_seals(int fd);
bool memfile_is_sealed(int fd);
