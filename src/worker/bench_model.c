/* See bench_model.h: the machine, the model, and the lines. */
#include "worker/bench_model.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "weights/pack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX 256u

/* --- the machine --- */

int bench_machine_open(struct bench *b, struct error *err)
{
    int r = kernels_select(&b->kernels, err);
    if (r == 0)
        r = pool_open(&b->pool, b->threads, err);
    return r < 0 ? r : ceiling_memory_open(&b->memory, b->pool, b->ceiling_bytes, err);
}

void bench_machine_close(struct bench *b)
{
    ceiling_memory_close(&b->memory);
    if (b->pool != NULL)
        pool_close(b->pool);
    b->pool = NULL;
}

uint32_t bench_thread_counts(const struct bench *b, uint32_t ret[BENCH_THREAD_COUNTS_MAX])
{
    uint32_t count = 0, all = pool_threads(b->pool);
    for (uint32_t n = 1; b->threads == 0 && n < all && count < BENCH_THREAD_COUNTS_MAX - 1; n *= 2)
        ret[count++] = n;
    ret[count++] = all;
    return count;
}

void bench_ceilings_take(const struct bench *b, struct bench_ceilings *c, uint32_t run)
{
    enum kernel_arithmetic a = bench_arithmetic(b->kernels, bench_matrix_dtype(b));
    c->read_gb_s[run] = ceiling_read_gb_s(b->kernels, b->pool, &b->memory);
    c->multiply_gop_s[run] = ceiling_multiply_gop_s(b->kernels, b->pool, a);
}

/* --- the model --- */

static uint32_t open_files(const char *dir, struct pack_file files[FILES_MAX])
{
    uint32_t count = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL && count < FILES_MAX;) {
        int fd = e->d_name[0] == '.' ? -1 : openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            files[count++] = (struct pack_file){strdup(e->d_name), fd};
    }
    if (d != NULL)
        closedir(d);
    return count;
}

static void close_files(struct pack_file *files, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)files[i].name);
        close(files[i].fd);
    }
}

/* A nameless file for an image. */
static int open_image(const char *dir, struct error *err)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return fd >= 0 ? fd
                   : error_set(err, -errno, "cannot make a file in %s: %s", dir, strerror(errno));
}

/* As a worker sees an image. */
static int share_image(struct share_view *ret, int image, const struct digest *digest,
                       uint64_t bytes, struct error *err)
{
    struct share *share;
    int r = share_create(&share, bytes, NULL, err);
    if (r < 0)
        return r;
    r = share_fill(share, image, digest, NULL, NULL, err);
    if (r == 0)
        r = share_seal(share, err);
    if (r == 0)
        r = share_map(ret, share_reader_fd(share), IMAGE_BYTES_MAX, true, err);
    share_free(share);
    return r;
}

int bench_model_open(struct bench *b, struct error *err)
{
    struct pack_file files[FILES_MAX];
    struct pack_options o = {.dtype = b->dtype};
    struct pack_result packed;
    bench_progress(b, "packing and loading %s", b->dir);
    cleanup_fd int image = open_image(b->dir, err);
    if (image < 0)
        return image;
    uint32_t count = open_files(b->dir, files);
    int r = pack_backbone(files, count, &o, image, &packed, err);
    close_files(files, count);
    if (r < 0)
        return r;
    buf_free(&packed.meta);
    b->digest = packed.digest;
    r = share_image(&b->view, image, &b->digest, packed.bytes, err);
    return r < 0 ? r : backbone_open(&b->backbone, b->view.data, b->view.bytes, err);
}

void bench_model_close(struct bench *b)
{
    backbone_close(&b->backbone);
    if (b->view.data != NULL)
        share_unmap(&b->view);
}

uint32_t bench_matrix_dtype(const struct bench *b)
{
    return b->backbone.layers[0].linears[LINEAR_Q].weight.dtype;
}

enum kernel_arithmetic bench_arithmetic(const struct kernels *k, uint32_t dtype)
{
    if (k->matmul_quantised[dtype] != NULL)
        return KERNEL_MULTIPLY_INT8;
    return k->matmul_half[dtype] != NULL ? KERNEL_MULTIPLY_BF16 : KERNEL_MULTIPLY_F32;
}

const char *bench_arithmetic_name(enum kernel_arithmetic a)
{
    static const char *const names[KERNEL_MULTIPLY_COUNT] = {
        [KERNEL_MULTIPLY_F32] = "f32",
        [KERNEL_MULTIPLY_BF16] = "bf16",
        [KERNEL_MULTIPLY_INT8] = "int8",
    };
    return names[a];
}

double bench_token_operations(const struct bench *b, bool with_head)
{
    double operations = 0;
    for (uint32_t l = 0; l < b->backbone.config->layer_count; l++) {
        for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++) {
            const struct weight *w = &b->backbone.layers[l].linears[i].weight;
            operations += 2.0 * w->rows * w->cols;
        }
    }
    const struct weight *head = &b->backbone.head;
    return operations + (with_head ? 2.0 * head->rows * head->cols : 0);
}

double bench_seen_positions(const struct bench *b, uint32_t positions)
{
    const struct model_config *c = b->backbone.config;
    double seen = 0;
    for (uint32_t l = 0; l < c->layer_count; l++) {
        bool slides = model_layer_kind(c, l) == MODEL_LAYER_SLIDING;
        seen += slides && c->sliding_window < positions ? c->sliding_window : positions;
    }
    return seen / c->layer_count;
}

/* --- adapters --- */

static int pack_one(const struct bench *b, const char *dir, int image, struct bench_adapter *ret,
                    struct error *err)
{
    struct pack_file files[FILES_MAX];
    struct pack_options o = {.dtype = b->adapter_dtype};
    struct pack_result packed;
    uint32_t count = open_files(dir, files);
    int r = pack_adapter(files, count, &o, &b->backbone, &b->digest, image, &packed, err);
    close_files(files, count);
    if (r < 0)
        return r;
    buf_free(&packed.meta);
    ret->digest = packed.digest;
    return share_image(&ret->view, image, &ret->digest, packed.bytes, err);
}

static int open_adapter(const struct bench *b, const char *dir, struct bench_adapter *ret,
                        struct error *err)
{
    cleanup_fd int image = open_image(b->dir, err);
    int r = image < 0 ? image : pack_one(b, dir, image, ret, err);
    if (r < 0)
        return r;
    return adapter_open(&ret->adapter, ret->view.data, ret->view.bytes, &b->backbone, &b->digest,
                        err);
}

int bench_adapters_open(const struct bench *b, struct bench_adapter *ret, uint32_t count,
                        struct error *err)
{
    char dir[4096];
    bench_progress(b, "packing %u adapters", count);
    for (uint32_t i = 0; i < count; i++) {
        ret[i] = (struct bench_adapter){0};
        snprintf(dir, sizeof dir, "%s/adapters/adapter-%u", b->dir, i);
        int r = open_adapter(b, dir, &ret[i], err);
        if (r < 0) {
            bench_adapters_close(ret, i + 1);
            return r;
        }
    }
    return 0;
}

void bench_adapters_close(struct bench_adapter *adapters, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        adapter_close(&adapters[i].adapter);
        if (adapters[i].view.data != NULL)
            share_unmap(&adapters[i].view);
    }
}

int bench_engine_open(const struct bench *b, uint32_t sequences, uint32_t positions,
                      uint32_t adapters, bool prefix_cache, struct engine **ret, struct error *err)
{
    const struct model_config *c = b->backbone.config;
    uint64_t position_bytes = (uint64_t)2 * c->layer_count * c->kv_head_count * c->head_dim * 4;
    struct engine_options o = {
        .threads = b->threads,
        .sequences_max = sequences,
        .rows_max = BENCH_STEP_ROWS,
        /* Sequences begin blocks of their own, and a step may look ahead. */
        .kv_bytes =
            position_bytes * (positions + (uint64_t)4 * ENGINE_KV_BLOCK_TOKENS * (sequences + 1)),
        .adapters_max = adapters > 0 ? adapters : 1,
        .kv_dtype = b->kv_dtype == NULL                ? ENGINE_KV_AUTO
                    : strcmp(b->kv_dtype, "int8") == 0 ? ENGINE_KV_INT8
                                                       : ENGINE_KV_BF16,
        .prefix_cache = prefix_cache,
    };
    return engine_open(ret, &b->backbone, &o, err);
}

/* --- lines --- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sort(double sorted[BENCH_RUNS_MAX], const double *values, uint32_t count)
{
    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *values, compare_doubles);
}

static double middle_of_sorted(const double *sorted, uint32_t count)
{
    return count % 2 == 1 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

double bench_middle(const double *values, uint32_t count)
{
    double sorted[BENCH_RUNS_MAX];
    sort(sorted, values, count);
    return middle_of_sorted(sorted, count);
}

json_t *bench_line(const struct bench *b, uint32_t threads)
{
    json_t *line = json_object();
    bench_set_text(line, "bench", b->name);
    if (b->backbone.config != NULL) {
        bench_set_text(line, "shape", b->shape);
        bench_set_text(line, "quant", image_quant_name(b->dtype));
        if (b->kv_dtype != NULL)
            bench_set_text(line, "kv_dtype", b->kv_dtype);
    }
    bench_set_count(line, "threads", threads);
    bench_set_text(line, "isa", kernels_isa_name(b->kernels->isa));
    bench_set_count(line, "runs", b->runs);
    return line;
}

void bench_set_text(json_t *line, const char *key, const char *value)
{
    json_object_set_new(line, key, json_string(value));
}

void bench_set_count(json_t *line, const char *key, uint64_t value)
{
    json_object_set_new(line, key, json_integer((json_int_t)value));
}

void bench_set(json_t *line, const char *key, double value)
{
    json_object_set_new(line, key, json_real(value));
}

double bench_set_spread(json_t *line, const char *key, const double *values, uint32_t count)
{
    char name[64];
    double sorted[BENCH_RUNS_MAX];
    sort(sorted, values, count);
    bench_set(line, key, middle_of_sorted(sorted, count));
    snprintf(name, sizeof name, "%s_min", key);
    bench_set(line, name, sorted[0]);
    snprintf(name, sizeof name, "%s_max", key);
    bench_set(line, name, sorted[count - 1]);
    return middle_of_sorted(sorted, count);
}

void bench_print(json_t *line)
{
    json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(5));
    putchar('\n');
    fflush(stdout);
    json_decref(line);
}

void bench_progress(const struct bench *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "bench %s: ", b->name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}
