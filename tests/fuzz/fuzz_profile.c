/* Bytes as a profile: no document crashes the reader or makes a profile that no world can be made
 * with, and what is refused is refused with a sentence that names it. */
#include "sim/systems.h"

#include <assert.h>
#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_step(const struct profile_step *s)
{
    assert(isfinite(s->linear.step_us) && s->linear.step_us >= 1);
    assert(isfinite(s->linear.prompt_us) && s->linear.prompt_us >= 0);
    assert(isfinite(s->linear.decode_us) && s->linear.decode_us >= 0);
    assert(isfinite(s->context_us) && s->context_us >= 0);
    assert(isfinite(s->lora_us) && s->lora_us >= 0);
}

static void check(const struct profile *p)
{
    assert(strlen(p->name) > 0 && strlen(p->device_name) > 0);
    assert(p->node_devices > 0 && p->vcpus > 0 && p->step_rows > 0 && p->kv_step_bytes > 0);
    assert(isfinite(p->disk_us_byte) && p->disk_us_byte > 0);
    assert(isfinite(p->link_us_byte) && p->link_us_byte > 0);
    assert(p->backbone_count > 0 && p->backbone_count <= PROFILE_BACKBONES_MAX);
    for (uint32_t b = 0; b < p->backbone_count; b++) {
        const struct profile_backbone *m = &p->backbones[b];
        assert(m->kv_token_bytes > 0);
        assert(m->bytes + m->work_bytes + p->worker_bytes + p->kv_step_bytes <= p->device_bytes);
        for (int e = 0; e < PROFILE_ENGINES; e++)
            check_step(&m->steps[e]);
    }
    struct sched_config c = world_config(p, 4, 8);
    c.devices_max = 4;
    c.nodes_max = 4;
    c.functions_max = 8;
    c.backbones_max = p->backbone_count;
    c.owners_max = 8;
    assert(sched_bytes(&c) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct profile p;
    struct error err = {0};
    if (profile_parse(&p, "fuzz", (const char *)data, size, &err) == 0) {
        check(&p);
    } else {
        assert(err.code < 0);
        assert(strncmp(err.text, "fuzz", 4) == 0);
    }
    return 0;
}
