/*
 * S-LoRA- or LoRAX-like (MLSys'24). Models: always-on engines as vLLM's; adapters live in host
 * memory and are copied to the device each time that a batch takes in one that the batch before had
 * not.
 * Leaves out: that such copies may overlap with the step before, the unified pool's fragmentation
 * (keys and values always fit here).
 */
#include "sim/systems.h"

static void set_up(struct system_setup *s, const struct system_options *o)
{
    s->billing = FIGURES_ALWAYS_ON;
    s->is_always_on = true;
    s->world.swap_us =
        (uint64_t)((double)o->profile->adapter_bytes * o->profile->link_us_byte + 0.5);
}

const struct system system_slora = {
    .name = "slora",
    .title = "S-LoRA-like, always on",
    .models = "always on; adapters in host memory, copied when a batch needs them",
    .leaves_out = "copies that overlap with steps",
    .set_up = set_up,
};
