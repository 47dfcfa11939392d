/* See bed.h. */
#include "gpubench/bed.h"

#include "gpu/device.h"
#include "gpubench/shapes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COPY_BYTES (UINT64_C(2) << 30)
#define HOST_BYTES (UINT64_C(512) << 20)

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bed_median(double *values, uint32_t count)
{
    qsort(values, count, sizeof(*values), by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

uint32_t bed_rounds(const struct bed *b)
{
    return b->o->rounds < ROUNDS_MAX ? b->o->rounds : ROUNDS_MAX;
}

void bed_tell(const struct bed *b, const struct figure *f)
{
    b->o->report(b->o->context_of_report, f);
}

void bed_prompt(uint32_t *ret, uint32_t count, uint32_t i, uint32_t vocab)
{
    for (uint32_t k = 0; k < count; k++)
        ret[k] = (k * 7919 + i * 104729 + 13) % vocab;
}

/* --- ceilings --- */

/* Bytes a second of copies on the card, read and written ones counted. */
static int copy_rate(struct bed *b, struct error *err)
{
    struct gpu_device *d = b->o->gpu;
    struct gpu_memory *from = NULL, *to = NULL;
    struct gpu_timer *timer = NULL;
    double rates[ROUNDS_MAX];
    uint32_t rounds = bed_rounds(b);
    int r = gpu_memory_create(&from, gpu_device_context(d), COPY_BYTES, err);
    if (r == 0)
        r = gpu_memory_create(&to, gpu_device_context(d), COPY_BYTES, err);
    if (r == 0)
        r = gpu_timer_open(&timer, d, err);
    for (uint32_t i = 0; r == 0 && i < rounds + 1; i++) {
        double us = 0;
        gpu_timer_begin(timer);
        gpu_move(d, gpu_memory_address(to), gpu_memory_address(from), COPY_BYTES);
        gpu_timer_end(timer);
        r = gpu_timer_us(timer, &us, err);
        if (i > 0) /* the first one warms up */
            rates[i - 1] = 2.0 * (double)COPY_BYTES * 1e6 / us;
    }
    gpu_timer_close(timer);
    gpu_memory_free(to);
    gpu_memory_free(from);
    if (r < 0)
        return r;
    b->copy_bytes_s = bed_median(rates, rounds);
    bed_tell(b, &(struct figure){.cell = "ceiling copy",
                                 .what = "copies on the card, read and written",
                                 .unit = "GB/s",
                                 .value = b->copy_bytes_s / 1e9});
    return 0;
}

static int host_rate(struct bed *b, struct error *err)
{
    struct gpu_device *d = b->o->gpu;
    struct gpu_memory *to = NULL;
    struct gpu_timer *timer = NULL;
    double rates[ROUNDS_MAX];
    uint32_t rounds = bed_rounds(b);
    void *from = gpu_host_allocate(d, HOST_BYTES);
    int r = from ? gpu_memory_create(&to, gpu_device_context(d), HOST_BYTES, err)
                 : error_set(err, -ENOMEM, "no memory that the GPU can read");
    if (r == 0)
        r = gpu_timer_open(&timer, d, err);
    for (uint32_t i = 0; r == 0 && i < rounds + 1; i++) {
        double us = 0;
        gpu_timer_begin(timer);
        gpu_send(d, gpu_memory_address(to), from, HOST_BYTES);
        gpu_timer_end(timer);
        r = gpu_timer_us(timer, &us, err);
        if (i > 0)
            rates[i - 1] = (double)HOST_BYTES * 1e6 / us;
    }
    gpu_timer_close(timer);
    gpu_memory_free(to);
    gpu_host_free(d, from);
    if (r < 0)
        return r;
    b->host_bytes_s = bed_median(rates, rounds);
    bed_tell(b, &(struct figure){.cell = "ceiling upload",
                                 .what = "copies from the host's pinned memory",
                                 .unit = "GB/s",
                                 .value = b->host_bytes_s / 1e9});
    return 0;
}

/* --- the model --- */

static int form_of(const char *weights, enum image_dtype *ret, struct error *err)
{
    static const struct {
        const char *name;
        enum image_dtype dtype;
    } forms[] = {{"bf16", IMAGE_PANELS}, {"int8", IMAGE_INT8}, {"int4", IMAGE_INT4}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (strcmp(forms[i].name, weights) == 0) {
            *ret = forms[i].dtype;
            return 0;
        }
    }
    return error_set(err, -EINVAL, "weights \"%s\": there are bf16, int8 and int4", weights);
}

int bed_open(struct bed *ret, const struct figure_options *o, struct error *err)
{
    enum image_dtype form = IMAGE_PANELS;
    *ret = (struct bed){.o = o};
    int r = form_of(o->weights, &form, err);
    if (r == 0)
        r = shape_find(o->shape, &ret->config, err);
    if (r == 0)
        r = copy_rate(ret, err);
    if (r == 0)
        r = host_rate(ret, err);
    if (r == 0)
        r = synthetic_backbone_open(&ret->b, &ret->config, form, 1, err);
    if (r == 0)
        r = gpu_memory_create_shared(&ret->memory, gpu_device_context(o->gpu), ret->b.bytes, err);
    return r == 0 ? gpu_memory_upload(ret->memory, ret->b.base, ret->b.bytes, NULL, NULL, err) : r;
}

void bed_close(struct bed *b)
{
    gpu_memory_free(b->memory);
    synthetic_backbone_close(&b->b);
}
