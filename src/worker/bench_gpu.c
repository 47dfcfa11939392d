/* The engine's benchmarks on a GPU: gpubench's figures under the names that they have on the host.
 */
#include "worker/bench_model.h"

#include "gpu/device.h"
#include "gpubench/figures.h"

#include <errno.h>
#include <string.h>

static void print_figure(void *context, const struct figure *f)
{
    const struct bench *b = context;
    json_t *line = json_object();
    bench_set_text(line, "bench", b->name);
    bench_set_text(line, "device", "gpu");
    bench_set_text(line, "shape", b->shape);
    bench_set_text(line, "quant", image_quant_name(b->dtype));
    bench_set_text(line, "cell", f->cell);
    bench_set_text(line, "what", f->what);
    bench_set(line, "value", f->value);
    bench_set_text(line, "unit", f->unit);
    if (f->ceiling > 0) {
        bench_set(line, "ceiling", f->ceiling);
        bench_set(line, "share", f->value / f->ceiling);
    }
    if (f->goal > 0)
        bench_set(line, f->is_cost ? "at_most" : "at_least", f->goal);
    bench_print(line);
}

int bench_on_gpu(struct bench *b, struct error *err)
{
    static const struct {
        const char *name, *stage;
    } names[] = {
        {"decode", "decode"}, {"batch", "batch"}, {"mixed", "batch"}, {"prefill", "prefill"}};
    struct figure_options o = {
        .index = b->gpu,
        .shape = b->shape,
        .weights = image_quant_name(b->dtype),
        .context = 512,
        .prompt_tokens = b->tokens,
        .batch = b->batch,
        .steps = b->tokens,
        .rounds = b->runs,
        .stages = strcmp(b->name, "ceilings") == 0 ? FIGURES_CEILINGS : 0,
        .report = print_figure,
        .context_of_report = b,
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(b->name, names[i].name) == 0)
            o.stages = figures_stage(names[i].stage);
    }
    if (o.stages == 0)
        return error_set(err, -EINVAL,
                         "a GPU is measured by ceilings, decode, batch, mixed and prefill");
    int r = engine_gpu_open(&o.gpu, o.index, err);
    if (r == 0)
        r = figures_run(&o, err);
    gpu_device_close(o.gpu);
    return r;
}
