/*
 * dLoRA-like (OSDI'24). Models: always-on engines as vLLM's; while an engine decodes for one
 * function alone its adapter is merged into the weights, so that steps have no low-rank products; a
 * prompt of another function has that undone first. Requests go where their adapter runs already as
 * long as that engine is not much busier than the others.
 * Leaves out: migration of requests under way. In its favour: it never merges in vain but by
 * arrivals that nobody knows, and undoes a merge in no time when it has nothing to do.
 */
#include "sim/systems.h"

/* A merge reads and writes the weights that adapters are on: a third of them, the attention's. */
#define MERGED_SHARE (1.0 / 3)

/* By the fastest pass over the weights: a backbone's are read once in a step. */
static double merge_us_byte(const struct profile *p)
{
    double least =
        p->backbones[0].steps[PROFILE_PAGED].linear.step_us / (double)p->backbones[0].bytes;
    for (uint32_t b = 1; b < p->backbone_count; b++) {
        const struct profile_backbone *m = &p->backbones[b];
        double us_byte = m->steps[PROFILE_PAGED].linear.step_us / (double)m->bytes;
        least = us_byte < least ? us_byte : least;
    }
    return 2 * MERGED_SHARE * least;
}

static void set_up(struct system_setup *s, const struct system_options *o)
{
    s->billing = FIGURES_ALWAYS_ON;
    s->is_always_on = true;
    s->keeps_together = true;
    s->world.merge_us_byte = merge_us_byte(o->profile);
}

const struct system system_dlora = {
    .name = "dlora",
    .title = "dLoRA-like, always on",
    .models = "always on; merged while one function alone decodes, requests of one together",
    .leaves_out = "migration of running requests",
    .set_up = set_up,
};
