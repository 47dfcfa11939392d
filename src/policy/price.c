/* See price.h. */
#include "policy/price.h"

#include <assert.h>

struct price_table price_table_default(enum price_device device, uint32_t vcpus)
{
    assert(vcpus > 0);
    bool is_gpu = device == PRICE_GPU;
    return (struct price_table){
        .gb_s_active_usd =
            (is_gpu ? PRICE_GPU_ACTIVE_GB_S_CU : PRICE_MEMORY_GB_S_CU) * PRICE_CU_USD,
        .gb_s_idle_usd = (is_gpu ? PRICE_GPU_IDLE_GB_S_CU : PRICE_MEMORY_GB_S_CU) * PRICE_CU_USD,
        .device_s_usd = vcpus * PRICE_VCPU_S_CU * PRICE_CU_USD,
        .request_usd = PRICE_REQUEST_CU * PRICE_CU_USD,
    };
}

/* What is nothing, or less by a rounding of the meters, costs nothing. */
static uint64_t nano_of(double units, double unit_usd)
{
    double nano = units * unit_usd * 1e9;
    if (!(nano > 0))
        return 0;
    return nano < (double)PRICE_ITEM_MAX ? (uint64_t)(nano + 0.5) : PRICE_ITEM_MAX;
}

struct price_items price_receipt(const struct price_table *t, const struct price_usage *u)
{
    if (!u->completed)
        return (struct price_items){0};
    /* Token counts come from a worker: no more can have been found than was asked for. */
    uint32_t cached = u->cached_tokens < u->prompt_tokens ? u->cached_tokens : u->prompt_tokens;
    return (struct price_items){
        .own = nano_of(u->own_byte_s / PRICE_GB_BYTES, t->gb_s_active_usd),
        .backbone = nano_of(u->backbone_byte_s / PRICE_GB_BYTES, t->gb_s_active_usd),
        .device = nano_of((double)u->device_us / 1e6, t->device_s_usd),
        .request = nano_of(1, t->request_usd),
        .prompt = nano_of((u->prompt_tokens - cached) / 1e3, t->prompt_1k_usd),
        .cached = nano_of(cached / 1e3, t->cached_1k_usd),
        .generated = nano_of(u->new_tokens / 1e3, t->new_1k_usd),
    };
}

struct price_items price_idle(const struct price_table *t, double byte_s)
{
    return (struct price_items){.idle = nano_of(byte_s / PRICE_GB_BYTES, t->gb_s_idle_usd)};
}

uint64_t price_total(const struct price_items *p)
{
    return p->own + p->backbone + p->idle + p->device + p->request + p->prompt + p->cached +
           p->generated;
}
