/*
 * oneDNN's matrix products, to stand beside ours: built where its header is, run by `sllora bench
 * kernels` as build/sllora-onednn with OMP_NUM_THREADS set. Reads lines
 *
 *   TYPE ROWS IN OUT BYTES
 *
 * (TYPE bf16, f32 or int8) and answers each with the microseconds of one product [ROWS, IN] x
 * [IN, OUT], measured for 10 ms, or with 0 where there is none. Weights are in the format that
 * oneDNN prefers, in as many copies as take BYTES, used in turn.
 */
#include <oneapi/dnnl/dnnl.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if DNNL_VERSION_MAJOR == 2

#define RUN_NS 10000000 /* as ours */
#define SETTLE_US 2000  /* for OpenMP's threads to stop spinning, before our turn */
#define COPY_ALIGN 4096u
#define VALUE_BYTE 0x3c /* small numbers in all types */

struct request {
    char type[8];
    int64_t rows, in, out;
    uint64_t bytes;
};

struct product {
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, y, w;
    char *arena; /* weights, then x, then y */
    size_t arena_bytes, copy_bytes;
    uint64_t copies;
};

static dnnl_engine_t engine;
static dnnl_stream_t stream;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static size_t aligned(size_t bytes)
{
    return (bytes + COPY_ALIGN - 1) / COPY_ALIGN * COPY_ALIGN;
}

static int describe(const struct request *q, dnnl_primitive_desc_t *ret)
{
    dnnl_data_type_t w_type = strcmp(q->type, "bf16") == 0   ? dnnl_bf16
                              : strcmp(q->type, "int8") == 0 ? dnnl_s8
                                                             : dnnl_f32;
    dnnl_data_type_t x_type = w_type == dnnl_s8 ? dnnl_u8 : w_type;
    dnnl_memory_desc_t x, w, y;
    dnnl_matmul_desc_t matmul;
    const dnnl_dims_t x_dims = {q->rows, q->in}, w_dims = {q->in, q->out},
                      y_dims = {q->rows, q->out};
    return dnnl_memory_desc_init_by_tag(&x, 2, x_dims, x_type, dnnl_ab) == dnnl_success &&
           dnnl_memory_desc_init_by_tag(&w, 2, w_dims, w_type, dnnl_format_tag_any) ==
               dnnl_success &&
           dnnl_memory_desc_init_by_tag(&y, 2, y_dims, dnnl_f32, dnnl_ab) == dnnl_success &&
           dnnl_matmul_desc_init(&matmul, &x, &w, NULL, &y) == dnnl_success &&
           dnnl_primitive_desc_create(ret, &matmul, NULL, engine, NULL) == dnnl_success;
}

static int open_memory(struct product *p, const struct request *q)
{
    const dnnl_memory_desc_t *x = dnnl_primitive_desc_query_md(p->desc, dnnl_query_src_md, 0);
    const dnnl_memory_desc_t *w = dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0);
    const dnnl_memory_desc_t *y = dnnl_primitive_desc_query_md(p->desc, dnnl_query_dst_md, 0);
    size_t x_bytes = aligned(dnnl_memory_desc_get_size(x));
    p->copy_bytes = aligned(dnnl_memory_desc_get_size(w));
    p->copies = q->bytes / p->copy_bytes + 1;
    size_t weights_bytes = p->copies * p->copy_bytes;
    p->arena_bytes = weights_bytes + x_bytes + aligned(dnnl_memory_desc_get_size(y));
    void *arena =
        mmap(NULL, p->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED)
        return 0;
    p->arena = arena;
    madvise(arena, p->arena_bytes, MADV_HUGEPAGE);
    memset(arena, VALUE_BYTE, p->arena_bytes);
    return dnnl_memory_create(&p->w, w, engine, p->arena) == dnnl_success &&
           dnnl_memory_create(&p->x, x, engine, p->arena + weights_bytes) == dnnl_success &&
           dnnl_memory_create(&p->y, y, engine, p->arena + weights_bytes + x_bytes) == dnnl_success;
}

static void product_close(struct product *p)
{
    dnnl_memory_destroy(p->x);
    dnnl_memory_destroy(p->w);
    dnnl_memory_destroy(p->y);
    dnnl_primitive_destroy(p->primitive);
    dnnl_primitive_desc_destroy(p->desc);
    if (p->arena != NULL)
        munmap(p->arena, p->arena_bytes);
    memset(p, 0, sizeof *p);
}

static int product_open(struct product *p, const struct request *q)
{
    return describe(q, &p->desc) && dnnl_primitive_create(&p->primitive, p->desc) == dnnl_success &&
           open_memory(p, q);
}

static double measure(const struct product *p)
{
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_SRC, p->x}, {DNNL_ARG_WEIGHTS, p->w}, {DNNL_ARG_DST, p->y}};
    uint64_t products = 0, began_ns = 0, took_ns = 0;
    for (int64_t i = -1; took_ns < RUN_NS; i++) { /* the first one warms */
        if (i == 0)
            began_ns = now_ns();
        dnnl_memory_set_data_handle(p->w, p->arena + (uint64_t)(i + 1) % p->copies * p->copy_bytes);
        dnnl_primitive_execute(p->primitive, stream, 3, arguments);
        dnnl_stream_wait(stream);
        if (i >= 0) {
            products++;
            took_ns = now_ns() - began_ns;
        }
    }
    usleep(SETTLE_US);
    return (double)took_ns / 1e3 / (double)products;
}

int main(void)
{
    struct request q, known = {.type = ""};
    struct product p = {0};
    char line[256];
    int is_open = 0;
    if (dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) != dnnl_success)
        return 1;
    while (fgets(line, sizeof line, stdin) != NULL) {
        memset(&q, 0, sizeof q);
        if (sscanf(line, "%7s %ld %ld %ld %lu", q.type, &q.rows, &q.in, &q.out, &q.bytes) != 5)
            return 1;
        if (memcmp(&q, &known, sizeof q) != 0) {
            product_close(&p);
            is_open = product_open(&p, &q);
            known = q;
        }
        printf("%.3f\n", is_open ? measure(&p) : 0);
        fflush(stdout);
    }
    product_close(&p);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return 0;
}

#else

int main(void)
{
    fprintf(stderr, "this was made for oneDNN 2; %d is installed\n", DNNL_VERSION_MAJOR);
    return 1;
}

#endif
