/*
 * A deploy. The daemon opens the files, by name and nothing else, and hands the descriptors to a
 * packer; it parses none of them. The same files (device, inode, size, times) are not packed twice.
 *
 *   backbone files → packer → image ┐
 *   adapter files  → packer → image ┴→ registry → the core; a failure at any step leaves what
 *                                      was deployed before as it is
 */
#include "daemon/daemon.h"

#include "base/clock.h"
#include "base/log.h"
#include "weights/image.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX 300u
#define FILE_NAME_BYTES 128
#define PACKER_MEMORY_BYTES (UINT64_C(1) << 30)

struct source_file {
    char name[FILE_NAME_BYTES];
    int fd;
};

struct deploy {
    struct daemon *daemon;
    struct deploy *next;
    struct exchange *x;
    struct registry_function f;
    char backbone_dir[4096];
    char adapter_dir[4096]; /* "": the bare backbone */
    uint32_t dtype;
    bool packing_adapter; /* the second half */
    struct proc *packer;
    struct source_file files[FILES_MAX];
    uint32_t file_count;
    struct digest key; /* of the files being packed */
    int out_fd;
    char out_path[4300];
    char failure[ERROR_TEXT_BYTES];
    uint64_t began_us;
    uint64_t progress_us; /* of the last line sent */
};

static void close_files(struct deploy *j)
{
    for (uint32_t i = 0; i < j->file_count; i++)
        close(j->files[i].fd);
    j->file_count = 0;
}

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
    close_files(j);
    drop_output(j);
    free(j);
}

static void deploy_fail(struct deploy *j, const char *message)
{
    log_warn("deploy", "function=%s refused: %s", j->f.name, message);
    if (j->x != NULL) {
        char plain[ERROR_TEXT_BYTES];
        json_t *text = json_string(message);
        if (text == NULL) { /* not UTF-8: a name in the files, or a sentence cut in a character */
            snprintf(plain, sizeof plain, "%s", message);
            for (char *p = plain; *p != '\0'; p++)
                *p = (unsigned char)*p < 0x80 ? *p : '?';
            text = json_string(plain);
        }
        exchange_line(j->x, json_pack("{s:s, s:o}", "state", "failed", "error", text));
        exchange_lines_end(j->x);
    }
    deploy_free(j);
}

/* --- files --- */

static bool is_wanted(const char *name)
{
    static const char *const exact[] = {"tokenizer.model", "chat_template.jinja",
                                        "adapter_model.bin"};
    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++) {
        if (strcmp(name, exact[i]) == 0)
            return true;
    }
    const char *dot = strrchr(name, '.');
    return dot != NULL && (strcmp(dot, ".json") == 0 || strcmp(dot, ".safetensors") == 0);
}

static int add_file(struct deploy *j, int dir_fd, const char *name, const char *dir,
                    struct digest_state *hash, struct error *err)
{
    struct stat st;
    if (strlen(name) >= FILE_NAME_BYTES || !is_wanted(name))
        return 0;
    if (j->file_count == FILES_MAX)
        return error_set(err, -E2BIG, "%s has more than %u model files", dir, FILES_MAX);
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, -errno, "cannot open %s/%s: %s", dir, name, strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return 0;
    }
    struct source_file *f = &j->files[j->file_count++];
    snprintf(f->name, sizeof f->name, "%s", name);
    f->fd = fd;
    const uint64_t identity[] = {st.st_dev,
                                 st.st_ino,
                                 (uint64_t)st.st_size,
                                 (uint64_t)st.st_mtim.tv_sec,
                                 (uint64_t)st.st_mtim.tv_nsec,
                                 (uint64_t)st.st_ctim.tv_sec,
                                 (uint64_t)st.st_ctim.tv_nsec};
    digest_update(hash, f->name, strlen(f->name) + 1);
    digest_update(hash, identity, sizeof identity);
    return 0;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_dir(struct deploy *j, const char *dir, struct digest_state *hash, struct error *err)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return error_set(err, -errno, "cannot open the directory %s: %s", dir, strerror(errno));
    DIR *d = fdopendir(dir_fd);
    if (d == NULL) {
        close(dir_fd);
        return error_set(err, -ENOMEM, "out of memory");
    }
    char *names[4 * FILES_MAX];
    uint32_t count = 0;
    int r = 0;
    for (struct dirent *e; r == 0 && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        if (count == 4 * FILES_MAX)
            r = error_set(err, -E2BIG, "%s has more than %u entries: is it a model directory?", dir,
                          4 * FILES_MAX);
        else if ((names[count] = strdup(e->d_name)) == NULL)
            r = error_set(err, -ENOMEM, "out of memory");
        else
            count++;
    }
    qsort(names, count, sizeof names[0], name_order);
    for (uint32_t i = 0; i < count; i++) {
        if (r == 0)
            r = add_file(j, dir_fd, names[i], dir, hash, err);
        free(names[i]);
    }
    closedir(d);
    return r;
}

/* Opens the files of `dir`; their identities and the packing options make the key. */
static int open_sources(struct deploy *j, const char *dir, struct error *err)
{
    close_files(j);
    struct digest_state *hash = digest_begin();
    if (hash == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    const uint32_t options[] = {IMAGE_VERSION, j->packing_adapter, j->dtype};
    digest_update(hash, options, sizeof options);
    if (j->packing_adapter)
        digest_update(hash, j->f.backbone.bytes, DIGEST_BYTES);
    int r = add_dir(j, dir, hash, err);
    digest_end(hash, &j->key);
    if (r == 0 && j->file_count == 0)
        r = error_set(err, -ENOENT,
                      "%s holds no model files (config.json, *.safetensors): is it the right "
                      "directory?",
                      dir);
    return r;
}

/* --- steps --- */

static void deploy_next(struct deploy *j);

static void step_done(struct deploy *j, const struct digest *image)
{
    if (j->packing_adapter) {
        j->f.adapter = *image;
        j->f.has_adapter = true;
    } else {
        j->f.backbone = *image;
    }
    j->packing_adapter = true;
    deploy_next(j);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

static void on_packed(struct deploy *j, const struct wire_packed *p)
{
    struct daemon *d = j->daemon;
    struct error err = {0};
    const char *dir = j->packing_adapter ? j->adapter_dir : j->backbone_dir;
    struct registry_image image = {.digest = p->digest,
                                   .bytes = p->bytes,
                                   .kind = j->packing_adapter ? IMAGE_ADAPTER : IMAGE_BACKBONE};
    snprintf(image.label, sizeof image.label, "%.127s", base_name(dir));
    int r = image_publish(d, j->out_fd, j->out_path, &p->digest, &err);
    if (r == 0) {
        close(j->out_fd);
        j->out_fd = -1;
        r = registry_put_image(d->registry, &image, &err);
    }
    if (r == 0)
        r = registry_put_source(d->registry, &j->key, &p->digest, &err);
    if (r < 0) {
        deploy_fail(j, err.text);
        return;
    }
    step_done(j, &p->digest);
}

static void packer_record(void *context, struct proc *p, struct wire_cursor *c,
                          const struct wire_record *r)
{
    (void)c;
    struct deploy *j = context;
    if (r->type == WIRE_PROGRESS && j->x != NULL) {
        const struct wire_progress *progress = r->fixed;
        uint64_t now_us = clock_now_us();
        if (now_us - j->progress_us < 50000)
            return;
        j->progress_us = now_us;
        exchange_line(j->x,
                      json_pack("{s:s, s:s, s:I, s:I}", "state", "packing", "part",
                                j->packing_adapter ? "adapter" : "backbone", "done",
                                (json_int_t)progress->done, "total", (json_int_t)progress->total));
    } else if (r->type == WIRE_PACKED) {
        /* The packer's work is over, whatever it does now. */
        j->packer = NULL;
        struct wire_packed packed = *(const struct wire_packed *)r->fixed;
        proc_abandon(p);
        on_packed(j, &packed);
    } else if (r->type == WIRE_FAILED) {
        snprintf(j->failure, sizeof j->failure, "%.*s", (int)r->tail_bytes, (const char *)r->tail);
    }
}

static void packer_exited(void *context, struct proc *p, const char *how)
{
    struct deploy *j = context;
    char message[ERROR_TEXT_BYTES];
    snprintf(message, sizeof message, "%s", j->failure);
    if (message[0] == '\0')
        snprintf(message, sizeof message,
                 "the packer ended before it was done (%s); the files may be damaged", how);
    (void)p;
    j->packer = NULL;
    deploy_fail(j, message);
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
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < j->file_count; i++) {
        struct wire_file file = {{0}};
        proc_put(j->packer, WIRE_FILE, &file, sizeof file, j->files[i].name,
                 strlen(j->files[i].name), j->files[i].fd);
    }
    if (j->packing_adapter) {
        int backbone = image_open_file(d, &j->f.backbone, err);
        if (backbone < 0)
            return backbone;
        struct wire_file file = {{0}};
        proc_put(j->packer, WIRE_FILE, &file, sizeof file, "", 0, backbone);
        close(backbone);
    }
    struct wire_pack pack = {.kind = j->packing_adapter ? WIRE_PACK_ADAPTER : WIRE_PACK_BACKBONE,
                             .dtype = j->dtype,
                             .backbone = j->f.backbone};
    proc_put(j->packer, WIRE_PACK, &pack, sizeof pack, NULL, 0, j->out_fd);
    close_files(j);
    procs_flush(d->procs);
    return 0;
}

static void deploy_finish(struct deploy *j)
{
    struct daemon *d = j->daemon;
    struct error err = {0};
    j->f.created_us = clock_wall_us();
    struct function_numbers numbers;
    int r = function_reserve(d, &j->f, &numbers, &err);
    if (r == 0)
        r = registry_put_function(d->registry, &j->f, &err);
    if (r < 0) {
        deploy_fail(j, err.text);
        return;
    }
    function_add(d, &numbers, &j->f);
    char backbone[DIGEST_HEX_BYTES], adapter[DIGEST_HEX_BYTES] = "";
    digest_hex(&j->f.backbone, backbone);
    if (j->f.has_adapter)
        digest_hex(&j->f.adapter, adapter);
    double took_ms = (double)(clock_now_us() - j->began_us) / 1e3;
    log_info("deploy", "function=%s owner=%s generation=%llu backbone=%.12s adapter=%.12s ms=%.1f",
             j->f.name, j->f.owner, (unsigned long long)j->f.generation, backbone,
             adapter[0] != '\0' ? adapter : "none", took_ms);
    if (j->x != NULL) {
        exchange_line(j->x, json_pack("{s:s, s:s, s:s, s:I, s:s, s:o, s:f}", "state", "deployed",
                                      "name", j->f.name, "owner", j->f.owner, "generation",
                                      (json_int_t)j->f.generation, "backbone", backbone, "adapter",
                                      adapter[0] != '\0' ? json_string(adapter) : json_null(), "ms",
                                      took_ms));
        exchange_lines_end(j->x);
    }
    deploy_free(j);
}

/* Packs what is to be packed next, or finishes. */
static void deploy_next(struct deploy *j)
{
    struct error err = {0};
    if (j->packing_adapter && (j->adapter_dir[0] == '\0' || j->f.has_adapter)) {
        deploy_finish(j);
        return;
    }
    int r = open_sources(j, j->packing_adapter ? j->adapter_dir : j->backbone_dir, &err);
    struct digest image;
    struct registry_image known;
    if (r == 0 && registry_get_source(j->daemon->registry, &j->key, &image, NULL) == 0 &&
        registry_get_image(j->daemon->registry, &image, &known, NULL) == 0) {
        int fd = image_open_file(j->daemon, &image, NULL);
        if (fd >= 0) {
            close(fd);
            step_done(j, &image);
            return;
        }
    }
    if (r == 0)
        r = start_packer(j, &err);
    if (r < 0)
        deploy_fail(j, err.text);
}

/* --- the request --- */

static int read_string(const json_t *body, const char *key, char *to, size_t bytes, bool needed,
                       struct error *err)
{
    const json_t *v = json_object_get(body, key);
    to[0] = '\0';
    if (v == NULL && !needed)
        return 0;
    if (!json_is_string(v) || json_string_length(v) == 0)
        return error_set(err, -EINVAL, "\"%s\" must be a non-empty string", key);
    if (json_string_length(v) >= bytes || strlen(json_string_value(v)) != json_string_length(v))
        return error_set(err, -EINVAL, "\"%s\" is too long or holds a NUL", key);
    snprintf(to, bytes, "%s", json_string_value(v));
    return 0;
}

static int read_isolation(const char *word, uint32_t *ret, struct error *err)
{
    static const struct {
        const char *word;
        enum route_isolation isolation;
    } words[] = {{"function", ROUTE_FUNCTION}, {"owner", ROUTE_OWNER}, {"shared", ROUTE_SHARED}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(word, words[i].word) == 0) {
            *ret = words[i].isolation;
            return 0;
        }
    }
    return error_set(err, -EINVAL, "isolation is function, owner or shared, not \"%s\"", word);
}

static int read_dtype(const char *word, uint32_t *ret, struct error *err)
{
    if (strcmp(word, "bf16") == 0)
        *ret = IMAGE_BF16;
    else if (strcmp(word, "f32") == 0)
        *ret = IMAGE_F32;
    else
        return error_set(err, -EINVAL, "quant is bf16 or f32, not \"%s\"", word);
    return 0;
}

static int check_names(struct deploy *j, struct error *err)
{
    if (!function_name_is_valid(j->f.name))
        return error_set(err, -EINVAL,
                         "\"%s\" is no function name: 1 to 64 letters, digits, '-', '_', '.', not "
                         "beginning with '.'",
                         j->f.name);
    if (!function_name_is_valid(j->f.owner))
        return error_set(err, -EINVAL,
                         "\"%s\" is no owner name: 1 to 64 letters, digits, '-', '_', '.', not "
                         "beginning with '.'",
                         j->f.owner);
    if (j->backbone_dir[0] != '/' || (j->adapter_dir[0] != '\0' && j->adapter_dir[0] != '/'))
        return error_set(err, -EINVAL, "backbone and adapter must be absolute paths");
    return 0;
}

static int read_request(struct deploy *j, const json_t *body, struct error *err)
{
    char isolation[16], quant[16];
    if (!json_is_object(body))
        return error_set(err, -EINVAL, "the body must be a JSON object");
    int r = read_string(body, "name", j->f.name, sizeof j->f.name, true, err);
    if (r == 0)
        r = read_string(body, "owner", j->f.owner, sizeof j->f.owner, false, err);
    if (r == 0 && j->f.owner[0] == '\0')
        snprintf(j->f.owner, sizeof j->f.owner, "default");
    if (r == 0)
        r = read_string(body, "backbone", j->backbone_dir, sizeof j->backbone_dir, true, err);
    if (r == 0)
        r = read_string(body, "adapter", j->adapter_dir, sizeof j->adapter_dir, false, err);
    if (r == 0)
        r = read_string(body, "isolation", isolation, sizeof isolation, false, err);
    if (r == 0)
        r = read_isolation(isolation[0] != '\0' ? isolation : "owner", &j->f.isolation, err);
    if (r == 0)
        r = read_string(body, "quant", quant, sizeof quant, false, err);
    if (r == 0)
        r = read_dtype(quant[0] != '\0' ? quant : "bf16", &j->dtype, err);
    if (r == 0)
        r = check_names(j, err);
    return r;
}

void deploy_start(struct daemon *d, struct exchange *x, const json_t *body)
{
    struct error err = {0};
    if (d->deploy_count >= d->config.deploys_max) {
        admin_error(x, 429, "too many deploys are running; try again when one is done");
        return;
    }
    struct deploy *j = calloc(1, sizeof *j);
    if (j == NULL) {
        admin_error(x, 500, "out of memory");
        return;
    }
    j->daemon = d;
    j->out_fd = -1;
    j->began_us = clock_now_us();
    if (read_request(j, body, &err) < 0) {
        free(j);
        admin_error(x, 400, err.text);
        return;
    }
    j->x = x;
    j->next = d->deploys;
    d->deploys = j;
    d->deploy_count++;
    deploy_next(j);
}

void deploy_client_gone(struct daemon *d, struct exchange *x)
{
    for (struct deploy *j = d->deploys; j != NULL; j = j->next) {
        if (j->x != x)
            continue;
        log_info("deploy", "function=%s cancelled: the client left", j->f.name);
        j->x = NULL;
        deploy_free(j);
        return;
    }
}

void deploys_close(struct daemon *d)
{
    while (d->deploys != NULL)
        deploy_fail(d->deploys, "the server is shutting down");
}
