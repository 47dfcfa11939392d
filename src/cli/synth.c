/*
 * See synth.h. Weights are bf16 numbers of a normal distribution, drawn by looking 16 random bits
 * up in a table of its quantiles: fast enough that the disk is the limit.
 */
#include "cli/synth.h"

#include "base/cleanup.h"
#include "base/rng.h"
#include "cli/synth_shape.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define JSON_BYTES_MAX (64u << 20)
#define BLOCK_VALUES (128u << 10)
#define SHARD_BYTES_MAX (UINT64_C(4) << 30)
#define QUANTILES 65536u
#define WEIGHT_DEVIATION 0.02
#define BF16_ONE 0x3f80u

enum fill { FILL_NORMAL, FILL_ONES };

struct tensor {
    char name[128];
    uint32_t rows; /* 0: a vector of cols values */
    uint32_t cols;
    enum fill fill;
    uint32_t shard;
};

struct tensor_list {
    struct tensor *items; /* owned */
    uint32_t count;
    uint32_t cap;
};

struct synth {
    const struct synth_options *options;
    struct synth_shape shape;
    char dir[PATH_BYTES]; /* the partial one */
    struct rng rng;
    uint16_t *quantiles; /* [QUANTILES], bf16 */
    uint16_t *block;     /* [BLOCK_VALUES] */
    synth_progress_fn progress;
    void *user;
    uint64_t bytes_done;
    uint64_t bytes_total;
};

/* --- numbers --- */

static uint16_t bf16_of(double value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* Newton's method on the distribution function, each quantile from the one before. */
static void make_quantiles(uint16_t *q)
{
    double z = 0;
    for (uint32_t i = QUANTILES / 2; i < QUANTILES; i++) {
        double p = (i + 0.5) / QUANTILES;
        for (int step = 0; step < 4; step++) {
            double density = exp(-z * z / 2) / sqrt(2 * M_PI);
            z += (p - 0.5 * erfc(-z / M_SQRT2)) / density;
        }
        q[i] = bf16_of(z * WEIGHT_DEVIATION);
        q[QUANTILES - 1 - i] = q[i] | 0x8000u;
    }
}

static void fill_block(struct synth *s, enum fill fill, size_t count)
{
    if (fill == FILL_ONES) {
        for (size_t i = 0; i < count; i++)
            s->block[i] = BF16_ONE;
        return;
    }
    for (size_t i = 0; i < count; i += 4) { /* may end up to 3 values later */
        uint64_t bits = rng_u64(&s->rng);
        for (size_t k = 0; k < 4; k++)
            s->block[i + k] = s->quantiles[bits >> (16 * k) & 0xffffu];
    }
}

/* --- tensors --- */

static uint64_t tensor_bytes(const struct tensor *t)
{
    return (uint64_t)(t->rows > 0 ? t->rows : 1) * t->cols * sizeof(uint16_t);
}

static __attribute__((format(printf, 5, 6))) int add(struct tensor_list *l, uint32_t rows,
                                                     uint32_t cols, enum fill fill,
                                                     const char *format, ...)
{
    if (l->count == l->cap) {
        uint32_t cap = l->cap == 0 ? 256 : 2 * l->cap;
        struct tensor *items = reallocarray(l->items, cap, sizeof *items);
        if (items == NULL)
            return -ENOMEM;
        l->items = items;
        l->cap = cap;
    }
    struct tensor *t = &l->items[l->count++];
    *t = (struct tensor){.rows = rows, .cols = cols, .fill = fill};
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
    return 0;
}

struct projection {
    const char *name;
    uint32_t rows;
    uint32_t cols;
    bool bias;
};

#define PROJECTION_COUNT 7

static void projections(const struct synth_shape *s, struct projection ret[PROJECTION_COUNT])
{
    uint32_t q = s->heads * s->head_dim;
    uint32_t kv = s->kv_heads * s->head_dim;
    const struct projection all[PROJECTION_COUNT] = {
        {"self_attn.q_proj", q, s->hidden, s->qkv_bias},
        {"self_attn.k_proj", kv, s->hidden, s->qkv_bias},
        {"self_attn.v_proj", kv, s->hidden, s->qkv_bias},
        {"self_attn.o_proj", s->hidden, q, false},
        {"mlp.gate_proj", s->ffn, s->hidden, false},
        {"mlp.up_proj", s->ffn, s->hidden, false},
        {"mlp.down_proj", s->hidden, s->ffn, false},
    };
    memcpy(ret, all, sizeof all);
}

static int list_backbone(const struct synth_shape *s, struct tensor_list *l)
{
    struct projection p[PROJECTION_COUNT];
    projections(s, p);
    int r = add(l, s->vocab, s->hidden, FILL_NORMAL, "model.embed_tokens.weight");
    for (uint32_t n = 0; n < s->layers; n++) {
        for (uint32_t i = 0; r == 0 && i < PROJECTION_COUNT; i++) {
            r = add(l, p[i].rows, p[i].cols, FILL_NORMAL, "model.layers.%u.%s.weight", n,
                    p[i].name);
            if (r == 0 && p[i].bias)
                r = add(l, 0, p[i].rows, FILL_NORMAL, "model.layers.%u.%s.bias", n, p[i].name);
        }
        if (r == 0)
            r = add(l, 0, s->hidden, FILL_ONES, "model.layers.%u.input_layernorm.weight", n);
        if (r == 0)
            r = add(l, 0, s->hidden, FILL_ONES, "model.layers.%u.post_attention_layernorm.weight",
                    n);
    }
    if (r == 0)
        r = add(l, 0, s->hidden, FILL_ONES, "model.norm.weight");
    if (r == 0 && !s->tied)
        r = add(l, s->vocab, s->hidden, FILL_NORMAL, "lm_head.weight");
    return r;
}

static int list_adapter(const struct synth_shape *s, uint32_t rank, struct tensor_list *l)
{
    struct projection p[PROJECTION_COUNT];
    projections(s, p);
    int r = 0;
    for (uint32_t n = 0; n < s->layers; n++) {
        for (uint32_t i = 0; r == 0 && i < PROJECTION_COUNT; i++) {
            r = add(l, rank, p[i].cols, FILL_NORMAL,
                    "base_model.model.model.layers.%u.%s.lora_A.weight", n, p[i].name);
            if (r == 0)
                r = add(l, p[i].rows, rank, FILL_NORMAL,
                        "base_model.model.model.layers.%u.%s.lora_B.weight", n, p[i].name);
        }
    }
    return r;
}

static uint64_t list_bytes(const struct tensor_list *l)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < l->count; i++)
        bytes += tensor_bytes(&l->items[i]);
    return bytes;
}

/* Gives every tensor its shard, in order. Returns how many there are. */
static uint32_t assign_shards(struct tensor_list *l)
{
    uint32_t shard = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < l->count; i++) {
        if (bytes > 0 && bytes + tensor_bytes(&l->items[i]) > SHARD_BYTES_MAX) {
            shard++;
            bytes = 0;
        }
        bytes += tensor_bytes(&l->items[i]);
        l->items[i].shard = shard;
    }
    return shard + 1;
}

/* --- files --- */

static int write_all(int fd, const void *data, size_t bytes, const char *path, struct error *err)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = write(fd, (const char *)data + done, bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
        done += (size_t)n;
    }
    return 0;
}

static int open_file(const char *path, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return fd >= 0 ? fd : error_set(err, -errno, "cannot create %s: %s", path, strerror(errno));
}

static int join(char ret[PATH_BYTES], const char *dir, const char *name, struct error *err)
{
    int n = snprintf(ret, PATH_BYTES, "%s/%s", dir, name);
    return n < PATH_BYTES ? 0 : error_set(err, -ENAMETOOLONG, "the path %s is too long", dir);
}

static int write_text(const char *dir, const char *name, const struct buf *text, struct error *err)
{
    char path[PATH_BYTES];
    int r = join(path, dir, name, err);
    if (r < 0)
        return r;
    cleanup_fd int fd = open_file(path, err);
    return fd < 0 ? fd : write_all(fd, text->data, text->len, path, err);
}

static int make_dir(const char *path, struct error *err)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return error_set(err, -errno, "cannot create the directory %s: %s", path, strerror(errno));
    return 0;
}

/* The length, then the JSON header, padded to 8. */
static int make_header(const struct tensor_list *l, uint32_t shard, struct buf *ret)
{
    uint64_t at = 0;
    uint64_t length = 0;
    int r = buf_append(ret, &length, sizeof length);
    if (r == 0)
        r = buf_append_str(ret, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint32_t i = 0; r == 0 && i < l->count; i++) {
        const struct tensor *t = &l->items[i];
        if (t->shard != shard)
            continue;
        char rows[16] = "";
        if (t->rows > 0)
            snprintf(rows, sizeof rows, "%u,", t->rows);
        r = buf_printf(ret,
                       ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s%u],\"data_offsets\":[%llu,%llu]}",
                       t->name, rows, t->cols, (unsigned long long)at,
                       (unsigned long long)(at + tensor_bytes(t)));
        at += tensor_bytes(t);
    }
    if (r == 0)
        r = buf_append_char(ret, '}');
    while (r == 0 && ret->len % 8 != 0)
        r = buf_append_char(ret, ' ');
    if (r < 0)
        return r;
    length = ret->len - sizeof length;
    memcpy(ret->data, &length, sizeof length);
    return 0;
}

static int write_tensor(struct synth *s, int fd, const char *path, const struct tensor *t,
                        struct error *err)
{
    uint64_t left = tensor_bytes(t) / sizeof(uint16_t);
    while (left > 0) {
        size_t n = left < BLOCK_VALUES ? (size_t)left : BLOCK_VALUES;
        fill_block(s, t->fill, n);
        int r = write_all(fd, s->block, n * sizeof(uint16_t), path, err);
        if (r < 0)
            return r;
        left -= n;
        s->bytes_done += n * sizeof(uint16_t);
        if (s->progress != NULL)
            s->progress(s->user, s->bytes_done, s->bytes_total);
    }
    return 0;
}

static int write_shard(struct synth *s, const char *dir, const char *name,
                       const struct tensor_list *l, uint32_t shard, struct error *err)
{
    char path[PATH_BYTES];
    struct buf header;
    int r = join(path, dir, name, err);
    if (r < 0)
        return r;
    cleanup_fd int fd = open_file(path, err);
    if (fd < 0)
        return fd;
    buf_init(&header, JSON_BYTES_MAX);
    r = make_header(l, shard, &header);
    r = r < 0 ? error_set(err, r, "out of memory")
              : write_all(fd, header.data, header.len, path, err);
    buf_free(&header);
    for (uint32_t i = 0; r == 0 && i < l->count; i++)
        if (l->items[i].shard == shard)
            r = write_tensor(s, fd, path, &l->items[i], err);
    return r;
}

static void shard_name(char *to, size_t size, uint32_t shard, uint32_t count)
{
    if (count == 1)
        snprintf(to, size, "model.safetensors");
    else
        snprintf(to, size, "model-%05u-of-%05u.safetensors", shard + 1, count);
}

static int make_index(const struct tensor_list *l, uint32_t shard_count, struct buf *ret)
{
    int r = buf_printf(ret, "{\"metadata\": {\"total_size\": %llu},\n\"weight_map\": {",
                       (unsigned long long)list_bytes(l));
    for (uint32_t i = 0; r == 0 && i < l->count; i++) {
        char name[64];
        shard_name(name, sizeof name, l->items[i].shard, shard_count);
        r = buf_printf(ret, "%s\n\"%s\": \"%s\"", i > 0 ? "," : "", l->items[i].name, name);
    }
    return r < 0 ? r : buf_append_str(ret, "}}\n");
}

static int write_weights(struct synth *s, struct tensor_list *l, struct error *err)
{
    uint32_t shard_count = assign_shards(l);
    int r = 0;
    for (uint32_t shard = 0; r == 0 && shard < shard_count; shard++) {
        char name[64];
        shard_name(name, sizeof name, shard, shard_count);
        r = write_shard(s, s->dir, name, l, shard, err);
    }
    if (r < 0 || shard_count == 1)
        return r;
    struct buf index;
    buf_init(&index, JSON_BYTES_MAX);
    r = make_index(l, shard_count, &index);
    r = r < 0 ? error_set(err, r, "out of memory")
              : write_text(s->dir, "model.safetensors.index.json", &index, err);
    buf_free(&index);
    return r;
}

static int write_texts(struct synth *s, struct error *err)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json"};
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < sizeof names / sizeof names[0]; i++) {
        struct buf text;
        buf_init(&text, JSON_BYTES_MAX);
        if (i == 0)
            r = synth_config_json(&s->shape, &text);
        else if (i == 1)
            r = synth_generation_json(&text);
        else if (i == 2)
            r = synth_tokenizer_json(&s->shape, &text);
        else
            r = synth_tokenizer_config_json(&text);
        r = r < 0 ? error_set(err, r, "out of memory") : write_text(s->dir, names[i], &text, err);
        buf_free(&text);
    }
    return r;
}

static int write_adapter(struct synth *s, uint32_t index, const struct tensor_list *l,
                         struct error *err)
{
    char name[64];
    char dir[PATH_BYTES];
    struct buf text;
    snprintf(name, sizeof name, "adapters/adapter-%u", index);
    int r = join(dir, s->dir, name, err);
    if (r == 0)
        r = make_dir(dir, err);
    if (r < 0)
        return r;
    /* A stream of its own: adapter N is the same however many there are. */
    rng_seed(&s->rng, s->options->seed + UINT64_C(0x9e3779b97f4a7c15) * (index + 1));
    buf_init(&text, JSON_BYTES_MAX);
    r = synth_adapter_json(&s->shape, s->options->rank, &text);
    r = r < 0 ? error_set(err, r, "out of memory")
              : write_text(dir, "adapter_config.json", &text, err);
    buf_free(&text);
    return r < 0 ? r : write_shard(s, dir, "adapter_model.safetensors", l, 0, err);
}

static int write_everything(struct synth *s, struct tensor_list *backbone,
                            struct tensor_list *adapter, struct error *err)
{
    char path[PATH_BYTES];
    int r = make_dir(s->dir, err);
    if (r == 0)
        r = write_texts(s, err);
    rng_seed(&s->rng, s->options->seed);
    if (r == 0)
        r = write_weights(s, backbone, err);
    if (r == 0 && s->options->adapter_count > 0) {
        r = join(path, s->dir, "adapters", err);
        if (r == 0)
            r = make_dir(path, err);
    }
    for (uint32_t i = 0; r == 0 && i < s->options->adapter_count; i++)
        r = write_adapter(s, i, adapter, err);
    if (r == 0 && rename(s->dir, s->options->dir) < 0)
        r = error_set(err, -errno, "cannot rename %s to %s: %s", s->dir, s->options->dir,
                      strerror(errno));
    return r;
}

static int check_options(const struct synth_options *o, struct synth *s, struct error *err)
{
    const struct synth_shape *shape = synth_shape_find(o->shape);
    if (shape == NULL) {
        struct buf names;
        buf_init(&names, 1024);
        (void)synth_shape_names(&names); /* the list only helps */
        error_set(err, -EINVAL, "no shape \"%s\": there are %s", o->shape,
                  names.data != NULL ? names.data : "others");
        buf_free(&names);
        return -EINVAL;
    }
    if (o->adapter_count > SYNTH_ADAPTERS_MAX || o->rank == 0 || o->rank > SYNTH_RANK_MAX)
        return error_set(err, -EINVAL, "at most %u adapters of rank 1 to %u", SYNTH_ADAPTERS_MAX,
                         SYNTH_RANK_MAX);
    s->shape = *shape;
    if (o->layers > 0)
        s->shape.layers = o->layers;
    if (o->layers > 256)
        return error_set(err, -EINVAL, "at most 256 layers");
    size_t len = strlen(o->dir);
    while (len > 1 && o->dir[len - 1] == '/')
        len--;
    int n = snprintf(s->dir, sizeof s->dir, "%.*s.partial", (int)len, o->dir);
    if (len == 0 || n < 0 || (size_t)n >= sizeof s->dir - 64)
        return error_set(err, -EINVAL, "the name of the directory is empty or too long");
    struct stat st;
    if (lstat(o->dir, &st) == 0)
        return error_set(err, -EEXIST, "%s exists already: remove it or choose another directory",
                         o->dir);
    return 0;
}

int synth_write(const struct synth_options *o, synth_progress_fn progress, void *user,
                struct error *err)
{
    struct synth s = {.options = o, .progress = progress, .user = user};
    struct tensor_list backbone = {0};
    struct tensor_list adapter = {0};
    int r = check_options(o, &s, err);
    if (r < 0)
        return r;
    s.quantiles = calloc(QUANTILES, sizeof *s.quantiles);
    s.block = calloc(BLOCK_VALUES + 4, sizeof *s.block); /* fill_block rounds up to 4 */
    r = s.quantiles != NULL && s.block != NULL ? list_backbone(&s.shape, &backbone) : -ENOMEM;
    if (r == 0)
        r = list_adapter(&s.shape, o->rank, &adapter);
    if (r < 0) {
        error_set(err, r, "out of memory");
    } else {
        make_quantiles(s.quantiles);
        s.bytes_total = list_bytes(&backbone) + o->adapter_count * list_bytes(&adapter);
        r = write_everything(&s, &backbone, &adapter, err);
    }
    free(backbone.items);
    free(adapter.items);
    free(s.quantiles);
    free(s.block);
    return r;
}
