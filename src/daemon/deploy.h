/*
 * A deploy, as those see it who ask for one (admin_deploy.c, lora.c): an order in, events out.
 */
#pragma once

#include "daemon/daemon.h"
#include "daemon/roots.h"
#include "weights/image.h"

/* What is to become a function. */
struct deploy_order {
    struct registry_function f;        /* name, owner, isolation; with has_backbone also backbone */
    bool has_backbone;                 /* f.backbone is in the store already */
    char backbone_dir[4096];           /* else its files */
    char adapter_dir[ROOT_PATH_BYTES]; /* "": the bare backbone */
    int adapter_root_fd;               /* adapter_dir lies below it, borrowed; -1: anywhere */
    uint32_t dtype;                    /* enum image_dtype, of the backbone's matrices */
    uint32_t adapter_dtype;            /* of the adapter's */
    bool allow_noop;                   /* an adapter that changes nothing will do */
    uint64_t if_generation;            /* REGISTRY_ANY_GENERATION: whatever is there */
};

struct deploy_result {
    const struct registry_function *f;
    json_t *certificate; /* borrowed; NULL for the bare backbone */
    json_t *warnings;    /* borrowed: sentences */
    double took_ms;
};

/* How whoever asked is answered; exactly one of deployed and failed, once. */
struct deploy_events {
    void (*progress)(struct exchange *x, const char *part, uint64_t done, uint64_t total);
    void (*deployed)(struct exchange *x, const struct deploy_result *r);
    /* `code` is -errno: -ESTALE when if_generation did not hold. */
    void (*failed)(struct exchange *x, int code, const char *message);
};

/* The HTTP status for a failure's code. */
int deploy_status(int code);

bool deploy_has_room(const struct daemon *d);
/* The answer may be given before it returns. */
void deploy_start(struct daemon *d, struct exchange *x, const struct deploy_order *order,
                  const struct deploy_events *events);

/* certificate.c: what was proved of an adapter's image, from what the packer said. Of a packer that
 * was taken over it is a lie, but a well-formed one. */
int certificate_make(const struct wire_packed *p, const void *description, size_t bytes,
                     const struct digest *backbone, json_t **ret, struct error *err);
/* One from the registry. */
int certificate_read(struct registry *r, const struct digest *adapter, json_t **ret,
                     struct error *err);
uint32_t certificate_rank(const json_t *certificate);
/* -EINVAL when the adapter changed no logit of the probe prompt. */
int certificate_check_effect(const json_t *certificate, struct error *err);
