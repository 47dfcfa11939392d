/* See ops_gpu.h. */
#include "engine/ops_gpu.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Attention of few tiles is cut into spans, as far as their results have room. */
#define SPANS_BYTES_MAX (UINT64_C(64) << 20)

/* --- adapters --- */

static struct gpu_adapter *find_adapter(const struct forward_gpu *g, const struct adapter *a)
{
    for (uint32_t i = 0; i < g->adapter_count; i++) {
        if (g->adapters[i].adapter == a)
            return &g->adapters[i];
    }
    return NULL;
}

const void *gpu_place(const struct forward *f, const struct adapter *a, const void *data)
{
    const struct forward_gpu *g = f->gpu;
    const struct image *im = &f->backbone->image;
    uintptr_t at = (uintptr_t)data;
    if (!data)
        return NULL;
    if (a && at - (uintptr_t)a->image.base < a->image.bytes)
        return (const void *)(gpu_memory_address(find_adapter(g, a)->memory) + at -
                              (uintptr_t)a->image.base);
    assert(at - (uintptr_t)im->base < im->bytes);
    return (const void *)(g->backbone + at - (uintptr_t)im->base);
}

bool gpu_reads_matrix(uint32_t dtype)
{
    return dtype == IMAGE_PANELS || dtype == IMAGE_INT8 || dtype == IMAGE_INT4;
}

bool gpu_reads_embedding(uint32_t dtype)
{
    return dtype == IMAGE_BF16 || gpu_reads_matrix(dtype);
}

/* Each form has its readers, and what is in another one would be read as something else. */
static bool is_readable(const struct image_tensor *t)
{
    bool is_embedding = t->role == TENSOR_EMBED;
    if (!backbone_role_is_matrix(t->role) || t->part == TENSOR_DORA ||
        t->part == TENSOR_LORA_SCALES)
        return true; /* float, as adapter_open has seen */
    if (t->part == TENSOR_LORA_A)
        return t->dtype == IMAGE_BF16 || (!is_embedding && t->dtype == IMAGE_CODES);
    if (t->part == TENSOR_LORA_B)
        return t->dtype == IMAGE_PANELS ||
               t->dtype == (is_embedding ? IMAGE_BF16 : IMAGE_CODE_PANELS);
    return is_embedding ? gpu_reads_embedding(t->dtype) : gpu_reads_matrix(t->dtype);
}

static int check_adapter(const struct adapter *a, struct error *err)
{
    for (uint32_t i = 0; i < a->image.tensor_count; i++) {
        const struct image_tensor *t = &a->image.tensors[i];
        if (!is_readable(t))
            return error_set(err, -ENOTSUP,
                             "a GPU computes adapters in bf16 or int8, and %s of layer %u of this "
                             "one is in another form: deploy it with --adapter-quant bf16",
                             image_role_name(t->role), t->layer);
    }
    return 0;
}

/* Room for A x of the largest rank that any adapter has. */
static int make_room(struct forward *f, uint32_t rank, struct error *err)
{
    struct forward_gpu *g = f->gpu;
    struct gpu_memory *larger;
    if (rank <= g->rank_max)
        return 0;
    int r = gpu_memory_create(&larger, gpu_device_context(g->device),
                              3 * (uint64_t)f->rows_max * rank * sizeof(float), err);
    if (r < 0)
        return r;
    gpu_layers_forget(f); /* they write to what goes */
    gpu_memory_free(g->shrunk);
    g->shrunk = larger;
    g->rank_max = rank;
    return 0;
}

static struct gpu_adapter *free_place(struct forward_gpu *g)
{
    struct gpu_adapter *place = find_adapter(g, NULL);
    if (place)
        return place;
    struct gpu_adapter *more = realloc(g->adapters, (g->adapter_count + 1) * sizeof(*more));
    if (!more)
        return NULL;
    g->adapters = more;
    g->adapters[g->adapter_count] = (struct gpu_adapter){0};
    return &g->adapters[g->adapter_count++];
}

int gpu_adapter_open(struct forward *f, const struct adapter *a, struct error *err)
{
    struct forward_gpu *g = f->gpu;
    struct gpu_adapter *place = find_adapter(g, a);
    if (place) {
        place->users++;
        return 0;
    }
    int r = check_adapter(a, err);
    if (r == 0)
        r = make_room(f, a->config->rank_max, err);
    if (r < 0)
        return r;
    place = free_place(g);
    struct gpu_memory *memory = NULL;
    r = place ? gpu_memory_create(&memory, gpu_device_context(g->device), a->image.bytes, err)
              : error_set(err, -ENOMEM, "no memory for the table of adapters");
    if (r == 0)
        r = gpu_memory_write(memory, 0, a->image.base, a->image.bytes, err);
    if (r < 0) {
        gpu_memory_free(memory);
        return r;
    }
    *place = (struct gpu_adapter){a, memory, 1};
    return 0;
}

void gpu_adapter_close(struct forward *f, const struct adapter *a)
{
    struct gpu_adapter *place = find_adapter(f->gpu, a);
    assert(place && place->users > 0);
    if (--place->users > 0)
        return;
    gpu_layers_forget(f); /* they read what goes, as does the table of uses */
    f->gpu->group_count = 0;
    gpu_memory_free(place->memory);
    *place = (struct gpu_adapter){0};
}

/* --- what adapters do --- */

uint32_t gpu_linear_count(const struct forward *f)
{
    return f->backbone->config->layer_count * LINEAR_LAYER_COUNT + 1;
}

uint32_t gpu_linear_at(const struct forward *f, uint32_t layer, enum linear_index index)
{
    return index == LINEAR_HEAD ? gpu_linear_count(f) - 1 : layer * LINEAR_LAYER_COUNT + index;
}

static struct cuda_lora_use use_of(const struct forward *f, const struct lora_group *group,
                                   uint32_t layer, enum linear_index index)
{
    const struct lora *l = adapter_linear(group->adapter, layer, index);
    if (!l->a.data)
        return (struct cuda_lora_use){0};
    return (struct cuda_lora_use){.a = gpu_place(f, group->adapter, l->a.data),
                                  .b = gpu_place(f, group->adapter, l->b.data),
                                  .rank_scales = gpu_place(f, group->adapter, l->rank_scales),
                                  .rank = l->a.rows,
                                  .scale = l->scale * group->scale};
}

static bool same_groups(const struct forward_gpu *g, const struct batch *b)
{
    if (g->group_count != b->group_count)
        return false;
    for (uint32_t i = 0; i < b->group_count; i++) {
        if (g->groups[i].adapter != b->groups[i].adapter ||
            g->groups[i].scale != b->groups[i].scale)
            return false;
    }
    return true;
}

/* Decoding goes on with the same adapters for many steps, so this is seldom sent. */
static void send_uses(struct forward *f, const struct batch *b)
{
    struct forward_gpu *g = f->gpu;
    uint32_t count = gpu_linear_count(f);
    if (b->group_count == 0 || same_groups(g, b))
        return;
    memcpy(g->groups, b->groups, b->group_count * sizeof(*g->groups));
    g->group_count = b->group_count;
    memset(g->ranks, 0, count * sizeof(*g->ranks));
    for (uint32_t at = 0; at < count; at++) {
        bool is_head = at + 1 == count;
        uint32_t layer = is_head ? 0 : at / LINEAR_LAYER_COUNT;
        enum linear_index index = is_head ? LINEAR_HEAD : at % LINEAR_LAYER_COUNT;
        for (uint32_t i = 0; i < b->group_count; i++) {
            struct cuda_lora_use *use = &g->here.uses[at * b->group_count + i];
            *use = use_of(f, &b->groups[i], layer, index);
            if (use->rank > g->ranks[at])
                g->ranks[at] = use->rank;
        }
    }
    gpu_send(g->device, (uintptr_t)g->there.uses, g->here.uses,
             (uint64_t)count * b->group_count * sizeof(*g->here.uses));
}

/* --- the rows --- */

struct angle_job {
    struct forward *forward;
    const struct batch *batch;
};

static void angle_chunk(void *argument, uint32_t row, uint32_t thread)
{
    const struct angle_job *job = argument;
    const struct forward *f = job->forward;
    const struct gpu_tables *t = &f->gpu->here;
    const struct forward_row *r = &job->batch->rows[row];
    (void)thread;
    for (uint32_t kind = 0; kind < MODEL_LAYER_KIND_COUNT; kind++) {
        size_t at = (size_t)row * f->ropes[kind].half_dim;
        if (f->has_kind[kind])
            rope_angles(&f->ropes[kind], r->position, r->is_long, t->cos[kind] + at,
                        t->sin[kind] + at);
    }
}

/* Rows of one sequence lie together: its blocks are written once. */
static uint32_t put_rows(struct forward *f, const struct batch *b)
{
    struct forward_gpu *g = f->gpu;
    uint32_t blocks = 0, first = 0, group = 0;
    for (uint32_t r = 0; r < b->row_count; r++) {
        const struct forward_row *row = &b->rows[r];
        if (r == 0 || row->kv != b->rows[r - 1].kv) {
            assert(blocks + row->kv->count <= (uint64_t)g->sequences_max * g->blocks_max);
            first = blocks;
            memcpy(g->here.blocks + blocks, row->kv->ids, row->kv->count * sizeof(uint32_t));
            blocks += row->kv->count;
        }
        while (group < b->group_count && r >= b->groups[group].row + b->groups[group].row_count)
            group++;
        bool adapted = group < b->group_count && r >= b->groups[group].row;
        g->here.rows[r] =
            (struct cuda_row){row->token, row->position, first, adapted ? group : CUDA_GROUP_NONE};
    }
    return blocks;
}

static void put_tiles(struct forward *f, const struct batch *b)
{
    struct forward_gpu *g = f->gpu;
    g->tile_count = 0;
    for (uint32_t r = 0; r < b->row_count; r++) {
        struct cuda_tile *t = g->tile_count > 0 ? &g->here.tiles[g->tile_count - 1] : NULL;
        if (t && t->row_count < g->tile_rows_max && b->rows[r].kv == b->rows[r - 1].kv &&
            b->rows[r].position == b->rows[r - 1].position + 1)
            t->row_count++;
        else
            g->here.tiles[g->tile_count++] = (struct cuda_tile){r, 1};
    }
}

void gpu_tables_send(struct forward *f, const struct batch *b)
{
    struct forward_gpu *g = f->gpu;
    struct angle_job job = {f, b};
    uint32_t blocks = put_rows(f, b);
    put_tiles(f, b);
    forward_run(f, (uint64_t)b->row_count * f->backbone->config->rotary_dim * 64, angle_chunk, &job,
                b->row_count);
    const uint8_t *end = (const uint8_t *)(g->here.blocks + blocks);
    gpu_send(g->device, (uintptr_t)g->there.rows, g->here.rows,
             (uint64_t)(end - (const uint8_t *)g->here.rows));
    send_uses(f, b);
}

void gpu_tables_send_wanted(struct forward *f, const uint32_t *rows, uint32_t count)
{
    struct forward_gpu *g = f->gpu;
    for (uint32_t i = 0; i < count; i++) {
        g->here.wanted[i] = g->here.rows[rows[i]];
        g->here.from[i] = rows[i];
    }
    gpu_send(g->device, (uintptr_t)g->there.wanted, g->here.wanted,
             count * sizeof(struct cuda_row));
    gpu_send(g->device, (uintptr_t)g->there.from, g->here.from, count * sizeof(uint32_t));
}

/* --- memory --- */

/* Tables that are sent with each batch come first; the blocks, of which there are more or fewer,
 * last of them. */
static uint64_t lay_out_tables(const struct forward *f, struct gpu_tables *t, uint8_t *base)
{
    const struct forward_gpu *g = f->gpu;
    uint64_t rows = f->rows_max, at = 0;
    t->rows = forward_carve(base, &at, rows * sizeof(*t->rows));
    t->tiles = forward_carve(base, &at, rows * sizeof(*t->tiles));
    for (uint32_t kind = 0; kind < MODEL_LAYER_KIND_COUNT; kind++) {
        uint64_t bytes = f->has_kind[kind] ? rows * f->ropes[kind].half_dim * sizeof(float) : 0;
        t->cos[kind] = forward_carve(base, &at, bytes);
        t->sin[kind] = forward_carve(base, &at, bytes);
    }
    t->blocks =
        forward_carve(base, &at, (uint64_t)g->sequences_max * g->blocks_max * sizeof(uint32_t));
    t->wanted = forward_carve(base, &at, FORWARD_DRAW_ROWS_MAX * sizeof(*t->wanted));
    t->from = forward_carve(base, &at, FORWARD_DRAW_ROWS_MAX * sizeof(*t->from));
    t->draws = forward_carve(base, &at, FORWARD_DRAW_ROWS_MAX * sizeof(*t->draws));
    t->drawn = forward_carve(base, &at, FORWARD_DRAW_ROWS_MAX * sizeof(*t->drawn));
    t->uses = forward_carve(base, &at,
                            (uint64_t)gpu_linear_count(f) * g->sequences_max * sizeof(*t->uses));
    return at;
}

/* Tables, then activations. */
static uint64_t lay_out(struct forward *f, uint8_t *base)
{
    struct forward_gpu *g = f->gpu;
    const struct model_config *c = f->backbone->config;
    struct activations *a = &f->act;
    uint32_t widest = c->ffn > f->h_width ? c->ffn : f->h_width;
    uint64_t row = (uint64_t)f->rows_max * sizeof(float), at = lay_out_tables(f, &g->there, base);
    a->x = forward_carve(base, &at, row * c->hidden);
    a->h = forward_carve(base, &at,
                         (uint64_t)f->rows_max * gpu_half_stride(widest) * sizeof(uint16_t));
    a->q = forward_carve(base, &at, row * f->q_width);
    a->k = forward_carve(base, &at, row * f->kv_width);
    a->v = forward_carve(base, &at, row * f->kv_width);
    a->y = forward_carve(base, &at, row * c->hidden);
    a->gate = forward_carve(base, &at, row * c->ffn);
    g->up = forward_carve(base, &at, row * c->ffn);
    g->logits =
        forward_carve(base, &at, (uint64_t)FORWARD_DRAW_ROWS_MAX * c->vocab_count * sizeof(float));
    g->spans = forward_carve(base, &at, g->spans_bytes);
    return at;
}

/* The host's part: tables, the logits, and what sampling takes. */
static int open_host(struct forward *f, struct error *err)
{
    struct forward_gpu *g = f->gpu;
    uint32_t vocab = f->backbone->config->vocab_count, threads = pool_threads(f->pool);
    uint64_t at = lay_out_tables(f, &g->here, NULL);
    uint64_t logits = at, bytes = (uint64_t)FORWARD_LOGIT_ROWS_MAX * vocab * sizeof(float);
    uint64_t sample = (uint64_t)vocab * sizeof(union sampler_scratch);
    forward_carve(NULL, &at, bytes);
    uint64_t scratch = at;
    for (uint32_t t = 0; t < threads; t++)
        forward_carve(NULL, &at, sample);
    g->host = gpu_host_allocate(g->device, at);
    if (!g->host)
        return error_set(err, -ENOMEM, "no %llu bytes of memory that the GPU can read",
                         (unsigned long long)at);
    lay_out_tables(f, &g->here, g->host);
    f->act.logits = forward_carve(g->host, &logits, bytes);
    for (uint32_t t = 0; t < threads; t++)
        f->scratch[t].sample = forward_carve(g->host, &scratch, sample);
    return 0;
}

int gpu_tables_open(struct forward *f, const struct forward_options *o, struct error *err)
{
    struct forward_gpu *g = f->gpu;
    const struct model_config *c = f->backbone->config;
    uint32_t heads = c->head_count / c->kv_head_count;
    uint64_t spans = (o->context_max + CUDA_SPAN_TOKENS - 1) / CUDA_SPAN_TOKENS;
    uint64_t queries = CUDA_SPAN_QUERIES(heads);
    uint64_t blocks = 2ull * gpu_device_look(g->device)->multiprocessors;
    g->sequences_max = o->sequences_max;
    g->blocks_max = kv_blocks_for(o->context_max);
    g->tile_rows_max = heads < CUDA_TILE_QUERIES ? CUDA_TILE_QUERIES / heads : 1;
    g->spans_bytes = blocks * spans * queries * (c->head_dim + 2) * sizeof(float);
    if (g->spans_bytes > SPANS_BYTES_MAX)
        g->spans_bytes = SPANS_BYTES_MAX;
    g->groups = calloc(g->sequences_max, sizeof(*g->groups));
    g->ranks = calloc(gpu_linear_count(f), sizeof(*g->ranks));
    if (!g->groups || !g->ranks)
        return error_set(err, -ENOMEM, "no memory for the tables of a batch");
    int r = gpu_memory_create(&g->memory, gpu_device_context(g->device), lay_out(f, NULL), err);
    if (r < 0)
        return r;
    lay_out(f, (uint8_t *)(uintptr_t)gpu_memory_address(g->memory));
    return open_host(f, err);
}

void gpu_tables_close(struct forward *f)
{
    struct forward_gpu *g = f->gpu;
    for (uint32_t i = 0; i < g->adapter_count; i++)
        gpu_memory_free(g->adapters[i].memory);
    gpu_memory_free(g->shrunk);
    gpu_memory_free(g->memory);
    gpu_host_free(g->device, g->host);
    free(g->adapters);
    free(g->groups);
    free(g->ranks);
}
