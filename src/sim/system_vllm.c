/*
 * vLLM- or SGLang-like. Models: an engine for each backbone, always on, all adapters in its one
 * process, continuous batches with chunked prefill over paged KV memory; as few devices as hold the
 * objectives, billed by the hour whether used or not.
 * Leaves out: prefix caching (of no use with these prompts), the limit on adapters in one batch
 * (8 functions are within it), what the front end in Python adds to each request, any isolation.
 */
#include "sim/systems.h"

static void set_up(struct system_setup *s, const struct system_options *o)
{
    (void)o;
    s->billing = FIGURES_ALWAYS_ON;
    s->is_always_on = true;
}

const struct system system_vllm = {
    .name = "vllm",
    .title = "vLLM-like, always on",
    .models = "one process with all adapters for each backbone, continuous batches, always on",
    .leaves_out = "its front end's time, isolation",
    .set_up = set_up,
};
