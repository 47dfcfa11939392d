/*
 * An engine on a GPU, but for its numbers (test_parity, test_gpubench): whose memory comes and
 * goes, what is refused, what a failure on the device comes to. On the driver of the tests.
 */
#include "engine/engine.h"
#include "engine/sampler.h"
#include "gpu/device.h"
#include "gpu/range.h"
#include "gpubench/shapes.h"
#include "gpubench/synthetic.h"

#include "unit/fake_gpu.h"

#define MIB ((uint64_t)1 << 20)

struct world {
    struct gpu_device *gpu;
    struct synthetic_backbone b;
    struct gpu_memory *memory;
    struct engine *engine;
};

static void must(int r, const struct error *err)
{
    if (r < 0)
        fail_msg("%s (%d)", err->text, r);
}

static struct engine_options options_of(const struct world *w)
{
    return (struct engine_options){.threads = 1,
                                   .sequences_max = 4,
                                   .rows_max = 64,
                                   .kv_bytes = 64 * MIB,
                                   .adapters_max = 4,
                                   .gpu = w->gpu,
                                   .backbone_address =
                                       w->memory ? gpu_memory_address(w->memory) : 0};
}

static void open_device(struct world *w, const char *settings)
{
    struct error err = {0};
    *w = (struct world){0};
    setenv("FAKE_CUDA", settings, 1);
    must(engine_gpu_open(&w->gpu, 0, &err), &err);
}

static void open_model(struct world *w)
{
    struct model_config c;
    struct error err = {0};
    (void)shape_small(0, &c);
    must(synthetic_backbone_open(&w->b, &c, IMAGE_PANELS, 1, &err), &err);
    must(gpu_memory_create(&w->memory, gpu_device_context(w->gpu), w->b.bytes, &err), &err);
    must(gpu_memory_upload(w->memory, w->b.base, w->b.bytes, NULL, NULL, &err), &err);
}

static void open_world(struct world *w, const char *settings)
{
    struct error err = {0};
    open_device(w, settings);
    open_model(w);
    const struct engine_options o = options_of(w);
    must(engine_open(&w->engine, &w->b.backbone, &o, &err), &err);
}

static void close_world(struct world *w)
{
    engine_close(w->engine);
    gpu_memory_free(w->memory);
    synthetic_backbone_close(&w->b);
    gpu_device_close(w->gpu);
}

static uint64_t free_bytes(const struct world *w)
{
    uint64_t bytes = 0;
    struct error err = {0};
    must(gpu_device_free_bytes(w->gpu, &bytes, &err), &err);
    return bytes;
}

static uint32_t add(struct engine *e, uint32_t tokens, int32_t slot)
{
    uint32_t prompt[512], id;
    struct error err = {0};
    for (uint32_t i = 0; i < tokens; i++)
        prompt[i] = i * 7 % 300;
    const struct engine_request q = {.tokens = prompt,
                                     .token_count = tokens,
                                     .tokens_new_max = 4,
                                     .adapter_slot = slot,
                                     .adapter_scale = 1,
                                     .sampling = {.top_p = 1}};
    must(engine_add(e, &q, &id, &err), &err);
    return id;
}

static int step(struct engine *e, struct error *err)
{
    struct engine_output out[8];
    struct engine_step_stats stats;
    return engine_step(e, out, 8, &stats, err);
}

static void run(struct engine *e)
{
    struct error err = {0};
    while (engine_has_work(e))
        must(step(e, &err), &err);
}

/* --- memory --- */

static void test_kv_memory_comes_and_goes(void **state)
{
    struct world w;
    (void)state;
    open_world(&w, "");
    uint64_t before = free_bytes(&w);
    uint32_t id = add(w.engine, 400, -1);
    run(w.engine);
    assert_true(free_bytes(&w) < before);
    engine_remove(w.engine, id);
    assert_true(free_bytes(&w) < before); /* kept for the next one */
    engine_trim(w.engine);
    assert_true(free_bytes(&w) == before);
    add(w.engine, 400, -1);
    run(w.engine);
    assert_true(free_bytes(&w) < before);
    close_world(&w);
}

/* A device that is full: the sequence that has no room waits for the other's to end, and both give
 * what they would alone. */
static void test_a_full_device(void **state)
{
    struct world w;
    struct error err = {0};
    (void)state;
    open_world(&w, "free=64");
    uint64_t left = free_bytes(&w) - 4 * MIB; /* one step of the range */
    struct gpu_memory *rest;
    must(gpu_memory_create(&rest, gpu_device_context(w.gpu), left, &err), &err);
    uint32_t first = add(w.engine, 200, -1), second = add(w.engine, 200, -1);
    for (uint32_t i = 0; i < 100 && engine_has_work(w.engine); i++)
        must(step(w.engine, &err), &err);
    assert_false(engine_has_work(w.engine));
    engine_remove(w.engine, first);
    engine_remove(w.engine, second);
    gpu_memory_free(rest);
    close_world(&w);
}

static void test_adapters_are_there_once(void **state)
{
    struct world w;
    struct synthetic_adapter a;
    struct error err = {0};
    const struct synthetic_lora lora = {.rank = 8, .scale = 1, .seed = 3};
    (void)state;
    open_world(&w, "");
    must(synthetic_adapter_open(&a, &w.b, &lora, &err), &err);
    uint64_t before = free_bytes(&w);
    must(engine_adapter_set(w.engine, 0, &a.adapter, &a.digest, &err), &err);
    uint64_t once = free_bytes(&w);
    assert_true(once < before);
    must(engine_adapter_set(w.engine, 1, &a.adapter, &a.digest, &err), &err);
    must(engine_adapter_set(w.engine, 1, &a.adapter, &a.digest, &err), &err);
    assert_true(free_bytes(&w) == once);
    for (uint32_t i = 0; i < 2; i++) { /* decoding is recorded, and the record forgotten in time */
        uint32_t id = add(w.engine, 20, 1);
        run(w.engine);
        engine_remove(w.engine, id);
        engine_trim(w.engine);
        assert_int_equal(engine_adapter_clear(w.engine, i), 0);
        if (i == 0)
            assert_true(free_bytes(&w) == once);
    }
    assert_true(free_bytes(&w) > once);
    must(engine_adapter_set(w.engine, 2, &a.adapter, &a.digest, &err), &err);
    add(w.engine, 20, 2);
    run(w.engine);
    close_world(&w);
    synthetic_adapter_close(&a);
}

static void test_a_range(void **state)
{
    struct world w;
    struct gpu_range *r;
    struct error err = {0};
    (void)state;
    open_device(&w, "free=12");
    must(gpu_range_open(&r, gpu_device_context(w.gpu), 100 * MIB, &err), &err); /* 4 MiB a step */
    assert_true(gpu_range_bytes(r) == 0);
    must(gpu_range_take(r, 0, MIB, &err), &err);
    must(gpu_range_take(r, MIB, 2 * MIB, &err), &err); /* memory is there already */
    assert_true(gpu_range_bytes(r) == 4 * MIB);
    assert_int_equal(gpu_range_take(r, 80 * MIB, 12 * MIB, &err), -ENOMEM);
    assert_true(gpu_range_bytes(r) == 4 * MIB); /* nothing of it was taken */
    must(gpu_range_take(r, 3 * MIB, 2 * MIB, &err), &err);
    assert_true(gpu_range_bytes(r) == 8 * MIB);
    gpu_range_give_back(r, 3 * MIB, 2 * MIB);
    gpu_range_give_back(r, 0, MIB);
    assert_true(gpu_range_bytes(r) == 4 * MIB);
    gpu_range_give_back(r, MIB, 2 * MIB);
    assert_true(gpu_range_bytes(r) == 0);
    must(gpu_range_take(r, 91 * MIB, 7 * MIB, &err), &err);
    gpu_range_close(r);
    assert_true(free_bytes(&w) == 12 * MIB);
    gpu_device_close(w.gpu);
}

/* --- draws --- */

#define DRAWN 6u

/* A prompt of its own; what it draws goes to ret_tokens [DRAWN], from `others` among others. */
static void draw_tokens(struct world *w, const struct engine_sampling *s, bool others,
                        uint32_t *ret_tokens)
{
    static const uint32_t prompt[] = {5, 9, 2, 14, 3};
    struct engine_request q = {.tokens = prompt,
                               .token_count = 5,
                               .tokens_new_max = DRAWN,
                               .adapter_slot = -1,
                               .sampling = *s};
    struct engine_output out[8];
    struct engine_step_stats stats;
    struct error err = {0};
    uint32_t ids[4], count = 0, drawn = 0;
    must(engine_add(w->engine, &q, &ids[count++], &err), &err);
    if (others) {
        ids[count++] = add(w->engine, 9, -1); /* greedy */
        q.sampling.seed += 1;
        must(engine_add(w->engine, &q, &ids[count++], &err), &err);
        q.logprobs = true; /* the host draws this one */
        must(engine_add(w->engine, &q, &ids[count++], &err), &err);
    }
    while (engine_has_work(w->engine)) {
        must(engine_step(w->engine, out, 8, &stats, &err), &err);
        for (uint32_t i = 0; i < stats.output_count; i++)
            if (out[i].sequence == ids[0] && out[i].has_token)
                ret_tokens[drawn++] = out[i].token;
    }
    assert_int_equal(drawn, DRAWN);
    for (uint32_t i = 0; i < count; i++)
        engine_remove(w->engine, ids[i]);
}

/* The same from a seed, alone and among others, and what the host draws from the same logits. */
static void test_draws(void **state)
{
    static const struct engine_sampling samplings[] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_p = 1, .seed = 7},
        {.temperature = 1, .top_p = 1, .seed = 8},
        {.temperature = 2, .top_p = 0.8f, .top_k = 40, .min_p = 0.01f, .seed = 9},
    };
    const struct kernels *k = kernels_get(KERNEL_ISA_REF);
    struct world w;
    (void)state;
    open_world(&w, "");
    uint32_t vocab = w.b.backbone.config->vocab_count, drawn[4][DRAWN];
    float *logits = calloc((5 + DRAWN) * (size_t)vocab, sizeof(*logits));
    union sampler_scratch *scratch = calloc(vocab, sizeof(*scratch));
    assert_true(logits && scratch);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t again[DRAWN], all[5 + DRAWN] = {5, 9, 2, 14, 3};
        struct error err = {0};
        draw_tokens(&w, &samplings[i], false, drawn[i]);
        draw_tokens(&w, &samplings[i], true, again);
        assert_memory_equal(again, drawn[i], sizeof again);
        memcpy(all + 5, drawn[i], sizeof drawn[i]);
        must(engine_logits(w.engine, all, 5 + DRAWN, -1, logits, &err), &err);
        for (uint32_t d = 0; d < DRAWN; d++)
            assert_int_equal(
                sampler_draw(k, logits + (4 + d) * (size_t)vocab, vocab, &samplings[i], d, scratch),
                drawn[i][d]);
    }
    assert_memory_not_equal(drawn[1], drawn[2], sizeof drawn[1]); /* seeds differ */
    free(scratch);
    free(logits);
    close_world(&w);
}

/* --- what is refused, what fails --- */

static void test_refusals(void **state)
{
    struct world w;
    struct error err = {0};
    (void)state;
    open_device(&w, "");
    open_model(&w);
    struct engine_options o = options_of(&w);
    o.kv_dtype = ENGINE_KV_INT8;
    assert_int_equal(engine_open(&w.engine, &w.b.backbone, &o, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "KV cache in bf16"));
    ((struct weight *)&w.b.backbone.layers[1].linears[LINEAR_UP].weight)->dtype = IMAGE_F32;
    o = options_of(&w);
    assert_int_equal(engine_open(&w.engine, &w.b.backbone, &o, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "--quant bf16"));
    close_world(&w);

    open_device(&w, "");
    open_model(&w);
    assert_int_equal(engine_gpu_check(&w.b.backbone, &err), 0);
    for (uint32_t dim = 257; dim <= 258; dim++) {
        ((struct model_config *)(uintptr_t)w.b.backbone.config)->head_dim = dim;
        assert_int_equal(engine_gpu_check(&w.b.backbone, &err), -ENOTSUP);
        assert_non_null(strstr(err.text, "heads of up to 256 values"));
    }
    close_world(&w);

    open_device(&w, "free=2");
    open_model(&w);
    o = options_of(&w);
    assert_int_equal(engine_open(&w.engine, &w.b.backbone, &o, &err), -ENOMEM);
    assert_non_null(strstr(err.text, "GiB free"));
    close_world(&w);
}

/* A tensor in a form that no kernel reads would be read as one of another. */
static void test_adapters_in_another_form(void **state)
{
    static const uint32_t forms[] = {IMAGE_F32, IMAGE_PANELS, IMAGE_CODE_PANELS};
    const struct synthetic_lora lora = {.rank = 8, .scale = 1, .seed = 3};
    struct world w;
    struct synthetic_adapter a;
    struct error err = {0};
    (void)state;
    open_world(&w, "");
    must(synthetic_adapter_open(&a, &w.b, &lora, &err), &err);
    uint64_t before = free_bytes(&w);
    struct image_tensor *first = (struct image_tensor *)(uintptr_t)a.adapter.image.tensors;
    assert_int_equal(first->part, TENSOR_LORA_A);
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        first->dtype = (uint16_t)forms[i];
        assert_int_equal(engine_adapter_set(w.engine, 0, &a.adapter, &a.digest, &err), -ENOTSUP);
        assert_non_null(strstr(err.text, "--adapter-quant bf16"));
    }
    assert_true(free_bytes(&w) == before);
    first->dtype = IMAGE_BF16;
    must(engine_adapter_set(w.engine, 0, &a.adapter, &a.digest, &err), &err);
    close_world(&w);
    synthetic_adapter_close(&a);
}

static void test_kernels_for_another_gpu(void **state)
{
    struct gpu_device *d;
    struct error err = {0};
    (void)state;
    setenv("FAKE_CUDA", "module=209", 1);
    assert_int_equal(engine_gpu_open(&d, 0, &err), -ENOEXEC);
    assert_non_null(strstr(err.text, "build it where nvcc is"));
    setenv("FAKE_CUDA", "", 1);
    assert_int_equal(engine_gpu_open(&d, 5, &err), -ENODEV);
}

/* The backbone's address leads nowhere: the step says so, and so does every one after it. */
static void test_a_fault_in_a_kernel(void **state)
{
    struct world w;
    struct error err = {0};
    (void)state;
    open_device(&w, "");
    open_model(&w);
    struct engine_options o = options_of(&w);
    o.backbone_address += UINT64_C(1) << 40;
    must(engine_open(&w.engine, &w.b.backbone, &o, &err), &err);
    add(w.engine, 5, -1);
    assert_int_equal(step(w.engine, &err), -EFAULT);
    assert_non_null(strstr(err.text, "a kernel touched memory that it must not"));
    assert_true(gpu_has_failed(w.gpu));
    close_world(&w);
}

static int load_driver(void **state)
{
    (void)state;
    load_fake();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_memory_comes_and_goes),
        cmocka_unit_test(test_a_full_device),
        cmocka_unit_test(test_adapters_are_there_once),
        cmocka_unit_test(test_a_range),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_adapters_in_another_form),
        cmocka_unit_test(test_kernels_for_another_gpu),
        cmocka_unit_test(test_a_fault_in_a_kernel), /* the last: the driver is of no use after it */
    };
    return cmocka_run_group_tests(tests, load_driver, NULL);
}
