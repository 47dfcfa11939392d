/*
 * What must survive a crash: functions, owners and where images came from, in SQLite (WAL, one
 * writer). Every call is one transaction; when it returns 0 the change is on disk.
 */
#pragma once

#include "base/digest.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define REGISTRY_NAME_BYTES 65 /* letters, digits, '-', '_', '.', up to 64 */

struct registry;

struct registry_function {
    char name[REGISTRY_NAME_BYTES];
    char owner[REGISTRY_NAME_BYTES];
    uint32_t owner_id;           /* filled by the registry */
    uint32_t owner_requests_max; /* filled by the registry: at a time; 0: the server's default */
    uint32_t isolation;          /* enum route_isolation */
    uint64_t generation;         /* filled by the registry: 1, 2, ... per name, never reused */
    uint64_t created_us;         /* wall clock */
    uint64_t slo_ttft_us; /* objectives: for the first token, and each further one; 0: none named */
    uint64_t slo_tpot_us;
    bool has_adapter;
    struct digest backbone;
    struct digest adapter;
};

/* Of an adapter the digest covers weights, canonical configuration and the backbone's digest: it
 * alone is the adapter's identity. */
struct registry_image {
    struct digest digest;
    uint64_t bytes;
    uint32_t kind;  /* enum image_kind */
    uint32_t dtype; /* enum image_dtype of the matrices, as the packer was asked for it */
    uint32_t rank;  /* adapters: the largest */
    /* Backbones: what an engine takes beside one, see engine/engine.h. */
    uint64_t kv_token_bytes[3]; /* by how keys and values are kept: auto, bf16, int8 */
    uint64_t row_bytes;
    uint64_t fixed_bytes;
    char label[128]; /* for people: the directory's name */
};

/* Opens or makes `path`; a damaged, foreign or newer file is refused with what to do. */
int registry_open(struct registry **ret, const char *path, struct error *err);
void registry_close(struct registry *r);

#define REGISTRY_ANY_GENERATION UINT64_MAX

/* Makes the function or its next generation, and its owner; fills owner_id and generation. -ESTALE
 * when the name's generation is not `if_generation` (0: it must not exist). */
int registry_put_function(struct registry *r, struct registry_function *f, uint64_t if_generation,
                          struct error *err);
/* The check of registry_put_function alone: 0 or -ESTALE. */
int registry_check_generation(struct registry *r, const char *name, uint64_t if_generation,
                              struct error *err);
/* -ENOENT when there is none of that name. */
int registry_remove_function(struct registry *r, const char *name, struct error *err);
/* How many requests of the owner may be waiting or running, 0: the server's default. Makes the
 * owner; fills *ret_id. */
int registry_put_owner_limit(struct registry *r, const char *owner, uint32_t requests_max,
                             uint32_t *ret_id, struct error *err);
/* Calls fn for every function, by name. Stops at the first that returns < 0 and returns that. */
int registry_each_function(struct registry *r,
                           int (*fn)(void *context, const struct registry_function *f),
                           void *context, struct error *err);

/* `certificate`: what was proved of an adapter when it was packed, JSON; NULL for a backbone. */
int registry_put_image(struct registry *r, const struct registry_image *i, const char *certificate,
                       struct error *err);
/* 0, or -ENOENT. */
int registry_get_image(struct registry *r, const struct digest *d, struct registry_image *ret,
                       struct error *err);

/* 0 with the text, free() it; -ENOENT when the image has none. */
int registry_get_certificate(struct registry *r, const struct digest *d, char **ret,
                             struct error *err);

/* Remembers which image the files identified by `key` became, so that the same bytes are not
 * packed twice. */
int registry_put_source(struct registry *r, const struct digest *key, const struct digest *image,
                        struct error *err);
int registry_get_source(struct registry *r, const struct digest *key, struct digest *ret_image,
                        struct error *err);

/* What became this image is packed anew when it is deployed again. */
int registry_forget_sources(struct registry *r, const struct digest *image, struct error *err);

/* Forgets images (and their sources) that no function uses; calls fn for each, to delete its
 * file. */
int registry_sweep_images(struct registry *r, void (*fn)(void *context, const struct digest *d),
                          void *context, struct error *err);
