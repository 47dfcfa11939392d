/* adapter_config.json with its regular expressions: bounded time, sane ranks and scales. */
#include "weights/adapter.h"
#include "weights/peft.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const modules[] = {"model.layers.0.self_attn.q_proj",
                                          "model.layers.1.mlp.down_proj",
                                          "model.layers.255.self_attn.o_proj", "lm_head"};
    struct peft *p = NULL;
    struct error err = {0};
    if (peft_parse((const char *)data, size, &p, &err) < 0)
        return 0;
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        struct peft_module m;
        if (peft_find_module(p, modules[i], &m, &err) == 0 &&
            (m.rank == 0 || m.rank > ADAPTER_RANK_MAX || !isfinite(m.scale)))
            abort();
    }
    peft_free(p);
    return 0;
}
