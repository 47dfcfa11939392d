/*
 * A deploy. The daemon opens the files, by name and nothing else, and hands the descriptors to a
 * packer; it parses none of them. The same files (device, inode, size, times) are not packed twice.
 *
 *   backbone files → packer → image ┐
 *   adapter files  → packer → image ┴→ registry → the core; a failure at any step leaves what
 *                                      was deployed before as it is
 */
#include "daemon/deploy.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/sources.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PACKER_MEMORY_BYTES (UINT64_C(1) << 30)
#define PROGRESS_US 50000u

struct deploy {
    struct daemon *daemon;
    struct deploy *next;
    struct exchange *x;
    const struct deploy_events *events;
    struct deploy_order order;
    bool packing_adapter; /* the second half */
    struct proc *packer;
    struct sources sources;
    struct digest key; /* of the files being packed */
    int out_fd;
    char out_path[4300];
    json_t *certificate; /* owned; of the adapter */
    struct error failure;
    uint64_t began_us;
    uint64_t progress_us; /* of the last one told */
};

static void drop_output(struct deploy *j)
{
    if (j->out_fd < 0)
        return;
    close(j->out_fd);
    unlink(j->out_path);
    j->out_fd = -1;
}

static void deploy_free(struct deploy *j)
{
    struct daemon *d = j->daemon;
    struct deploy **link = &d->deploys;
    while (*link != j)
        link = &(*link)->next;
    *link = j->next;
    d->deploy_count--;
    if (j->packer != NULL)
        proc_abandon(j->packer);
    sources_close(&j->sources);
    drop_output(j);
    json_decref(j->certificate);
    free(j);
}

int deploy_status(int code)
{
    switch (code) {
    case -ESTALE:
        return 409;
    case -ESHUTDOWN:
    case -EAGAIN:
        return 503;
    case -ENOSPC:
        return 507;
    case -EINVAL:
    case -ENOTSUP:
    case -ENOENT:
    case -ENOTDIR:
    case -EACCES:
    case -E2BIG:
    case -EBADMSG:
    case -EDOM:
        return 400;
    default:
        return 500;
    }
}

/* For log lines: the name that was asked for, and by content what is known so far. */
static const char *known_text(const struct deploy *j, char to[FUNCTION_TEXT_BYTES])
{
    const struct deploy_order *o = &j->order;
    char backbone[DIGEST_HEX_BYTES] = "unknown";
    const char *adapter = o->adapter_dir[0] == '\0' ? "none" : "unknown";
    if (j->packing_adapter)
        digest_hex(&o->f.backbone, backbone);
    if (j->certificate != NULL)
        adapter = json_string_value(json_object_get(j->certificate, "adapter"));
    snprintf(to, FUNCTION_TEXT_BYTES, "function=%s backbone=%.12s adapter=%.12s", o->f.name,
             backbone, adapter);
    return to;
}

static void deploy_fail(struct deploy *j, const struct error *err)
{
    char text[FUNCTION_TEXT_BYTES];
    log_warn("deploy", "refused %s owner=%s: %s", known_text(j, text), j->order.f.owner, err->text);
    j->events->failed(j->x, err->code, err->text);
    deploy_free(j);
}

static uint32_t packing_dtype(const struct deploy *j)
{
    return j->packing_adapter ? j->order.adapter_dtype : j->order.dtype;
}

/* Opens the files of `dir`; their identities and the packing options make the key. */
static int open_sources(struct deploy *j, struct error *err)
{
    const struct deploy_order *o = &j->order;
    sources_close(&j->sources);
    struct digest_state *hash = digest_begin();
    if (hash == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    const uint32_t options[] = {IMAGE_VERSION, j->packing_adapter, packing_dtype(j)};
    digest_update(hash, options, sizeof options);
    if (j->packing_adapter)
        digest_update(hash, o->f.backbone.bytes, DIGEST_BYTES);
    int r = sources_open(&j->sources, j->packing_adapter ? o->adapter_root_fd : -1,
                         j->packing_adapter ? o->adapter_dir : o->backbone_dir, hash, err);
    digest_end(hash, &j->key);
    return r;
}

/* --- steps --- */

static void deploy_next(struct deploy *j);

static void step_done(struct deploy *j, const struct digest *image)
{
    if (j->packing_adapter) {
        j->order.f.adapter = *image;
        j->order.f.has_adapter = true;
    } else {
        j->order.f.backbone = *image;
    }
    j->packing_adapter = true;
    deploy_next(j);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

static int check_effect(const struct deploy *j, struct error *err)
{
    return j->order.allow_noop ? 0 : certificate_check_effect(j->certificate, err);
}

static int put_image(struct deploy *j, const struct registry_image *image, struct error *err)
{
    char *text = j->certificate != NULL ? json_dumps(j->certificate, JSON_COMPACT) : NULL;
    if (j->certificate != NULL && text == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    int r = registry_put_image(j->daemon->registry, image, text, err);
    free(text);
    return r;
}

static int read_certificate(struct deploy *j, const struct digest *adapter, struct error *err)
{
    json_decref(j->certificate);
    j->certificate = NULL;
    return certificate_read(j->daemon->registry, adapter, &j->certificate, err);
}

/* Makes what the packer wrote an image of the store. */
static int keep_image(struct deploy *j, const struct wire_packed *p, struct error *err)
{
    struct daemon *d = j->daemon;
    const char *dir = j->packing_adapter ? j->order.adapter_dir : j->order.backbone_dir;
    struct registry_image image = {
        .digest = p->digest,
        .bytes = p->bytes,
        .kind = j->packing_adapter ? IMAGE_ADAPTER : IMAGE_BACKBONE,
        .dtype = packing_dtype(j),
        .rank = certificate_rank(j->certificate),
        .kv_token_bytes = {p->kv_token_bytes[0], p->kv_token_bytes[1], p->kv_token_bytes[2]},
        .row_bytes = p->row_bytes,
        .fixed_bytes = p->fixed_bytes};
    snprintf(image.label, sizeof image.label, "%.127s", base_name(dir));
    bool was_there = false;
    int r = image_publish(d, j->out_fd, j->out_path, &p->digest, &was_there, err);
    if (r < 0)
        return r;
    close(j->out_fd);
    j->out_fd = -1;
    struct registry_image known;
    if (!was_there || registry_get_image(d->registry, &p->digest, &known, NULL) < 0)
        r = put_image(j, &image, err);
    else if (j->packing_adapter) /* what is said of an image stays too, like its bytes */
        r = read_certificate(j, &p->digest, err);
    return r < 0 ? r : registry_put_source(d->registry, &j->key, &p->digest, err);
}

static void on_packed(struct deploy *j, const struct wire_packed *p, const void *description,
                      size_t bytes)
{
    struct error err = {0};
    int r = 0;
    if (j->packing_adapter) {
        r = certificate_make(p, description, bytes, &j->order.f.backbone, &j->certificate, &err);
        if (r == 0)
            r = check_effect(j, &err);
    }
    if (r == 0)
        r = keep_image(j, p, &err);
    if (r < 0)
        deploy_fail(j, &err);
    else
        step_done(j, &p->digest);
}

static void packer_record(void *context, struct proc *p, struct wire_cursor *c,
                          const struct wire_record *r)
{
    (void)c;
    struct deploy *j = context;
    if (r->type == WIRE_PROGRESS && j->events->progress != NULL) {
        const struct wire_progress *progress = r->fixed;
        uint64_t now_us = clock_now_us();
        if (now_us - j->progress_us < PROGRESS_US)
            return;
        j->progress_us = now_us;
        j->events->progress(j->x, j->packing_adapter ? "adapter" : "backbone", progress->done,
                            progress->total);
    } else if (r->type == WIRE_PACKED) {
        /* The packer's work is over, whatever it does now. */
        j->packer = NULL;
        proc_abandon(p);
        on_packed(j, r->fixed, r->tail, r->tail_bytes);
    } else if (r->type == WIRE_FAILED) {
        const struct wire_failed *failed = r->fixed;
        int code = failed->status > 0 && failed->status < 4096 ? -(int)failed->status : -EPROTO;
        error_set(&j->failure, code, "%.*s", (int)r->tail_bytes, (const char *)r->tail);
    }
}

static void packer_exited(void *context, struct proc *p, const char *how)
{
    struct deploy *j = context;
    struct error err = j->failure;
    if (err.code == 0)
        error_set(&err, -EBADMSG,
                  "the packer ended before it was done (%s); the files may be damaged", how);
    (void)p;
    j->packer = NULL;
    deploy_fail(j, &err);
}

static int send_files(struct deploy *j, struct error *err)
{
    const struct wire_file file = {{0}};
    for (uint32_t i = 0; i < j->sources.count; i++) {
        const struct source_file *f = &j->sources.files[i];
        proc_put(j->packer, WIRE_FILE, &file, sizeof file, f->name, strlen(f->name), f->fd);
    }
    if (!j->packing_adapter)
        return 0;
    int backbone = image_open_file(j->daemon, &j->order.f.backbone, err);
    if (backbone < 0)
        return backbone;
    proc_put(j->packer, WIRE_FILE, &file, sizeof file, "", 0, backbone);
    close(backbone);
    return 0;
}

static int start_packer(struct deploy *j, struct error *err)
{
    struct daemon *d = j->daemon;
    j->out_fd = image_create(d, j->out_path, sizeof j->out_path, err);
    if (j->out_fd < 0)
        return j->out_fd;
    struct proc_options o = {
        .role = SANDBOX_PACKER,
        .number = d->packer_number++ % 1024,
        .memory_bytes_max = PACKER_MEMORY_BYTES,
        .file_bytes_max = IMAGE_BYTES_MAX,
        .threads = 1,
        .events = {packer_record, packer_exited},
        .context = j,
    };
    int r = proc_start(&j->packer, d->procs, &o, err);
    if (r == 0)
        r = send_files(j, err);
    if (r < 0)
        return r;
    struct wire_pack pack = {.kind = j->packing_adapter ? WIRE_PACK_ADAPTER : WIRE_PACK_BACKBONE,
                             .dtype = packing_dtype(j),
                             .on_gpu = j->daemon->config.has_gpu,
                             .backbone = j->order.f.backbone};
    proc_put(j->packer, WIRE_PACK, &pack, sizeof pack, NULL, 0, j->out_fd);
    sources_close(&j->sources);
    procs_flush(d->procs);
    return 0;
}

static void warn(json_t *list, const char *flag, double slo_us, const char *what, double us)
{
    char text[200];
    if (slo_us <= 0 || us <= slo_us)
        return;
    snprintf(text, sizeof text,
             "%s %.0f cannot be met even alone on this machine: %s takes about "
             "%.0f ms",
             flag, slo_us / 1e3, what, us / 1e3);
    json_array_append_new(list, json_string(text));
}

/* Objectives that nobody else would have to be there for to be missed. They are kept: who is due
 * first is still served first. */
static json_t *objective_warnings(struct daemon *d, uint32_t function)
{
    const struct registry_function *f = &d->functions[function].f;
    struct sched_function_view v;
    struct cost_fit fit;
    json_t *list = json_array();
    sched_function_view(d->sched, clock_now_us(), function, &v);
    sched_cost_view(d->sched, d->functions[function].backbone, &fit);
    warn(list, "--slo-ttft", (double)f->slo_ttft_us, "a prompt of usual length", v.t0_us);
    warn(list, "--slo-tpot", (double)f->slo_tpot_us, "a token", fit.c.step_us + fit.c.decode_us);
    if (json_array_size(list) == 0 && f->slo_ttft_us > 0)
        warn(list, "--slo-ttft", (double)f->slo_ttft_us, "a start from the disk with its prompt",
             v.start_us);
    return list;
}

/* Spares the packing of what could not be served. */
static int check_order(const struct deploy *j, struct error *err)
{
    const struct deploy_order *o = &j->order;
    int r = registry_check_generation(j->daemon->registry, o->f.name, o->if_generation, err);
    if (r == 0 && !o->has_backbone)
        r = backbone_check_dtype(j->daemon, o->dtype, "--quant", err);
    if (r == 0 && o->adapter_dir[0] != '\0')
        r = backbone_check_dtype(j->daemon, o->adapter_dtype, "--adapter-quant", err);
    return r;
}

static void deploy_finish(struct deploy *j)
{
    struct daemon *d = j->daemon;
    struct registry_function *f = &j->order.f;
    struct error err = {0};
    f->created_us = clock_wall_us();
    struct function_numbers numbers;
    int r = function_reserve(d, f, &numbers, &err);
    if (r == 0)
        r = registry_put_function(d->registry, f, j->order.if_generation, &err);
    if (r < 0) {
        deploy_fail(j, &err);
        return;
    }
    function_add(d, &numbers, f);
    json_t *warnings = objective_warnings(d, numbers.function);
    struct deploy_result result = {.f = f,
                                   .certificate = j->certificate,
                                   .warnings = warnings,
                                   .took_ms = (double)(clock_now_us() - j->began_us) / 1e3};
    char text[FUNCTION_TEXT_BYTES];
    log_info("deploy", "%s owner=%s number=%u ms=%.1f", function_text(f, text), f->owner,
             numbers.function, result.took_ms);
    j->events->deployed(j->x, &result);
    json_decref(warnings);
    deploy_free(j);
}

/* The image that these files became before; false when there is none, or none of use. */
static bool find_packed(struct deploy *j, struct digest *ret)
{
    struct registry_image known;
    if (registry_get_source(j->daemon->registry, &j->key, ret, NULL) < 0 ||
        registry_get_image(j->daemon->registry, ret, &known, NULL) < 0)
        return false;
    int fd = image_open_file(j->daemon, ret, NULL);
    if (fd < 0)
        return false;
    close(fd);
    return !j->packing_adapter || read_certificate(j, ret, NULL) == 0;
}

/* Packs what is to be packed next, or finishes. */
static void deploy_next(struct deploy *j)
{
    struct error err = {0};
    struct digest image;
    if (j->packing_adapter && (j->order.adapter_dir[0] == '\0' || j->order.f.has_adapter)) {
        deploy_finish(j);
        return;
    }
    int r = open_sources(j, &err);
    if (r == 0 && find_packed(j, &image)) {
        if (j->packing_adapter)
            r = check_effect(j, &err);
        if (r == 0) {
            step_done(j, &image);
            return;
        }
    } else if (r == 0) {
        r = start_packer(j, &err);
    }
    if (r < 0)
        deploy_fail(j, &err);
}

/* --- begin and end --- */

bool deploy_has_room(const struct daemon *d)
{
    return d->deploy_count < d->config.deploys_max;
}

void deploy_start(struct daemon *d, struct exchange *x, const struct deploy_order *order,
                  const struct deploy_events *events)
{
    assert(deploy_has_room(d));
    struct error err = {0};
    struct deploy *j = calloc(1, sizeof *j);
    if (j == NULL) {
        events->failed(x, -ENOMEM, "out of memory");
        return;
    }
    *j = (struct deploy){.daemon = d,
                         .next = d->deploys,
                         .x = x,
                         .events = events,
                         .order = *order,
                         .packing_adapter = order->has_backbone,
                         .out_fd = -1,
                         .began_us = clock_now_us()};
    d->deploys = j;
    d->deploy_count++;
    if (check_order(j, &err) < 0)
        deploy_fail(j, &err);
    else
        deploy_next(j);
}

void deploy_client_gone(struct daemon *d, struct exchange *x)
{
    for (struct deploy *j = d->deploys; j != NULL; j = j->next) {
        if (j->x != x)
            continue;
        char text[FUNCTION_TEXT_BYTES];
        log_info("deploy", "cancelled %s owner=%s: the client left", known_text(j, text),
                 j->order.f.owner);
        deploy_free(j);
        return;
    }
}

void deploys_close(struct daemon *d)
{
    struct error err = {0};
    error_set(&err, -ESHUTDOWN, "the server is shutting down");
    while (d->deploys != NULL)
        deploy_fail(d->deploys, &err);
}
