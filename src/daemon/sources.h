/*
 * The files of a deploy: opened by name and nothing else; the daemon parses none of them. Their
 * identities (device, inode, size, times) say whether the same files were packed before.
 */
#pragma once

#include "base/digest.h"
#include "base/error.h"

#include <stdint.h>

#define SOURCES_MAX 300u
#define SOURCE_NAME_BYTES 128

struct source_file {
    char name[SOURCE_NAME_BYTES];
    int fd;
};

struct sources {
    struct source_file files[SOURCES_MAX];
    uint32_t count;
};

/* Opens the model files of the directory `path`; their identities go into the hash. root_fd >= 0:
 * `path` is relative to it, and neither the directory nor a file may lie outside. */
int sources_open(struct sources *s, int root_fd, const char *path, struct digest_state *hash,
                 struct error *err);
void sources_close(struct sources *s);
