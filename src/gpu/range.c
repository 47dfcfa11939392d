/* See range.h. */
#include "gpu/range.h"

#include "gpu/library.h"
#include "gpu/parts.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Asking a device for memory takes a tenth of a millisecond, for little as for much. So steps are
 * as large as leave a range in parts enough. */
#define STEP_BYTES_MAX (UINT64_C(32) << 20)
#define STEPS_LEAST 16u

struct step {
    uint64_t handle;
    uint32_t takers; /* 0: it has no memory */
};

struct gpu_range {
    const struct gpu_context *context;
    uint64_t address, bytes, step_bytes;
    struct step *steps; /* [step_count] */
    uint64_t step_count, taken_count;
};

static struct cuda_allocation allocation_of(const struct gpu_context *c)
{
    return (struct cuda_allocation){.type = CUDA_ALLOCATION_PINNED,
                                    .location = {CUDA_LOCATION_DEVICE, c->device}};
}

static int check(const struct gpu_range *r, int result, struct error *err)
{
    return gpu_check_result(r->context->driver, result, "no memory of the GPU for a KV cache", err);
}

static uint64_t step_for(uint64_t granularity, uint64_t bytes)
{
    uint64_t step = granularity;
    while (step * 2 <= STEP_BYTES_MAX && step * 2 * STEPS_LEAST <= bytes)
        step *= 2;
    return step;
}

int gpu_range_open(struct gpu_range **ret, const struct gpu_context *c, uint64_t bytes,
                   struct error *err)
{
    const struct cuda_allocation a = allocation_of(c);
    size_t granularity = 0;
    struct gpu_range *r = calloc(1, sizeof *r);
    if (r == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r->context = c;
    int rc = check(r, c->driver->granularity(&granularity, &a, CUDA_GRANULARITY_RECOMMENDED), err);
    if (rc == 0 && (granularity == 0 || bytes == 0 || bytes > UINT64_MAX / 2))
        rc = error_set(err, -EINVAL, "no GPU has a range of %llu bytes", (unsigned long long)bytes);
    if (rc == 0) {
        r->step_bytes = step_for(granularity, bytes);
        r->step_count = (bytes + r->step_bytes - 1) / r->step_bytes;
        r->bytes = r->step_count * r->step_bytes;
        r->steps = calloc(r->step_count, sizeof *r->steps);
        rc = r->steps == NULL
                 ? error_set(err, -ENOMEM, "out of memory")
                 : check(r, c->driver->address_reserve(&r->address, r->bytes, 0, 0, 0), err);
    }
    if (rc < 0) {
        r->address = 0;
        gpu_range_close(r);
        return rc;
    }
    *ret = r;
    return 0;
}

static uint64_t address_of(const struct gpu_range *r, uint64_t step)
{
    return r->address + step * r->step_bytes;
}

/* Memory for one step, mapped; whatever fails, nothing is left. */
static int fill_step(struct gpu_range *r, uint64_t i, struct error *err)
{
    const struct gpu_driver *d = r->context->driver;
    const struct cuda_allocation a = allocation_of(r->context);
    const struct cuda_access access = {a.location, CUDA_ACCESS_READ_WRITE};
    uint64_t handle;
    int rc = check(r, d->memory_create(&handle, r->step_bytes, &a, 0), err);
    if (rc < 0)
        return rc;
    rc = check(r, d->memory_map(address_of(r, i), r->step_bytes, 0, handle, 0), err);
    bool is_mapped = rc == 0;
    if (rc == 0)
        rc = check(r, d->access_set(address_of(r, i), r->step_bytes, &access, 1), err);
    if (rc == 0) {
        r->steps[i].handle = handle;
        r->taken_count++;
        return 0;
    }
    if (is_mapped)
        (void)d->memory_unmap(address_of(r, i), r->step_bytes);
    (void)d->memory_release(handle);
    return rc;
}

static void empty_step(struct gpu_range *r, uint64_t i)
{
    const struct gpu_driver *d = r->context->driver;
    (void)d->memory_unmap(address_of(r, i), r->step_bytes);
    (void)d->memory_release(r->steps[i].handle);
    r->steps[i].handle = 0;
    r->taken_count--;
}

void gpu_range_close(struct gpu_range *r)
{
    if (r == NULL)
        return;
    for (uint64_t i = 0; r->steps != NULL && i < r->step_count; i++) {
        if (r->steps[i].takers > 0)
            empty_step(r, i);
    }
    if (r->address != 0)
        (void)r->context->driver->address_free(r->address, r->bytes);
    free(r->steps);
    free(r);
}

uint64_t gpu_range_address(const struct gpu_range *r)
{
    return r->address;
}

uint64_t gpu_range_bytes(const struct gpu_range *r)
{
    return r->taken_count * r->step_bytes;
}

int gpu_range_take(struct gpu_range *r, uint64_t offset, uint64_t bytes, struct error *err)
{
    assert(bytes > 0 && offset <= r->bytes && bytes <= r->bytes - offset);
    uint64_t first = offset / r->step_bytes, last = (offset + bytes - 1) / r->step_bytes;
    for (uint64_t i = first; i <= last; i++) {
        int rc = r->steps[i].takers == 0 ? fill_step(r, i, err) : 0;
        if (rc < 0) {
            if (i > first)
                gpu_range_give_back(r, offset, address_of(r, i) - r->address - offset);
            return rc;
        }
        r->steps[i].takers++;
    }
    return 0;
}

void gpu_range_give_back(struct gpu_range *r, uint64_t offset, uint64_t bytes)
{
    uint64_t last = (offset + bytes - 1) / r->step_bytes;
    for (uint64_t i = offset / r->step_bytes; i <= last; i++) {
        assert(r->steps[i].takers > 0);
        if (--r->steps[i].takers == 0)
            empty_step(r, i);
    }
}
