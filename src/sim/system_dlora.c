/*
 * dLoRA-like (OSDI'24). Models: always-on engines as vLLM's; a batch of one adapter alone runs
 * merged, without the low-rank products; requests go where their adapter runs already as long as
 * that engine is not much busier than the others.
 * Leaves out: migration of requests under way, the time of merging itself (its one-shot kernel
 * takes milliseconds).
 */
#include "sim/systems.h"

static void set_up(struct system_setup *s, const struct system_options *o)
{
    (void)o;
    s->billing = FIGURES_ALWAYS_ON;
    s->is_always_on = true;
    s->keeps_together = true;
    s->world.merges = true;
}

const struct system system_dlora = {
    .name = "dlora",
    .title = "dLoRA-like, always on",
    .models = "always on; merged while a batch is of one adapter, requests of one adapter together",
    .leaves_out = "migration, the time of merging",
    .set_up = set_up,
};
