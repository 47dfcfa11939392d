/*
 * An image that somebody is to bring into memory: the file, its digest, and the memory with its
 * maker's reader, through which is seen what came of it.
 */
#pragma once

#include <sys/mman.h>

#include "base/digest.h"
#include "base/memfile.h"
#include "base/rng.h"
#include "unit/sandboxed.h"
#include "weights/share.h"

#define MIB ((uint64_t)1 << 20)

struct order {
    uint64_t bytes;
    char *image;
    struct digest digest;
    int file, memory, reader;
};

static inline struct order order_new(uint64_t bytes)
{
    struct order o = {.bytes = bytes, .image = malloc(bytes + 8)};
    struct rng rng;
    struct error err = {0};
    assert_non_null(o.image);
    rng_seed(&rng, bytes);
    for (uint64_t i = 0; i < bytes; i += 8) {
        uint64_t word = rng_u64(&rng);
        memcpy(o.image + i, &word, 8);
    }
    digest_of(o.image, bytes, &o.digest);
    o.file = memfd_create("image", MFD_CLOEXEC);
    assert_int_equal(pwrite(o.file, o.image, bytes, 0), bytes);
    o.memory = memfile_create("sllora-adapter", 0, bytes);
    assert_true(o.memory >= 0);
    if (memfile_reader(o.memory, &o.reader, &err) < 0)
        fail_msg("%s", err.text);
    return o;
}

static inline void order_free(struct order *o)
{
    close(o->file);
    close(o->memory);
    close(o->reader);
    free(o->image);
}

/* The reader's owner maps what came, as a worker does. */
static inline void assert_arrived(const struct order *o)
{
    struct share_view v = {0};
    struct error err = {0};
    assert_true(memfile_is_sealed(o->reader));
    if (share_map(&v, o->reader, o->bytes, true, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(v.bytes, o->bytes);
    assert_memory_equal(v.data, o->image, o->bytes);
    share_unmap(&v);
}

/* Nobody takes it for an image. */
static inline void assert_not_sealed(const struct order *o)
{
    struct share_view v = {.bytes = 77};
    struct error err = {0};
    assert_false(memfile_is_sealed(o->reader));
    assert_int_equal(share_map(&v, o->reader, o->bytes, false, &err), -EPERM);
    assert_int_equal(v.bytes, 77);
}
