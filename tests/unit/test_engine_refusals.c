/* What the engine refuses, each with its code and a sentence that names what is wrong. */
#include "unit/engine_fixture.h"

#include <errno.h>
#include <math.h>

#define PROMPT 10u

static uint32_t prompt[600];

static const struct engine_options options = {.threads = 1,
                                              .sequences_max = 2,
                                              .rows_max = 8,
                                              .kv_bytes = 1 << 20,
                                              .adapters_max = 2,
                                              .context_max = 200};

static struct fixture_model *model(void)
{
    return fixture_model_new(&fixture_families[0], IMAGE_F32, 1);
}

static struct engine_request request(void)
{
    return (struct engine_request){.tokens = prompt,
                                   .token_count = PROMPT,
                                   .tokens_new_max = 5,
                                   .adapter_slot = -1,
                                   .adapter_scale = 1,
                                   .sampling = {.top_p = 1}};
}

static void refuse(struct engine *e, const struct engine_request *r, int code, const char *word)
{
    struct error err = {0};
    uint32_t id = 77;
    int rc = engine_add(e, r, &id, &err);
    if (rc != code || err.code != code || !strstr(err.text, word))
        fail_msg("code %d instead of %d, text \"%s\" without \"%s\"", rc, code, err.text, word);
    assert_int_equal(id, 77);
    assert_false(engine_has_work(e));
}

static void test_requests(void **state)
{
    (void)state;
    struct fixture_model *m = model();
    struct engine *e = fixture_engine(m, &options, NULL, 0);
    struct engine_request r;

    r = request(), r.token_count = 0;
    refuse(e, &r, -EINVAL, "empty");
    r = request(), prompt[7] = m->config.vocab_count;
    refuse(e, &r, -EINVAL, "token 7");
    prompt[7] = 0;
    r = request(), r.token_count = 201;
    refuse(e, &r, -E2BIG, "201");
    r = request(), r.tokens_new_max = 191;
    refuse(e, &r, -E2BIG, "191");
    r = request(), r.tokens_new_max = UINT32_MAX;
    refuse(e, &r, -E2BIG, "context");
    r = request(), r.tokens_new_max = 0;
    refuse(e, &r, -EINVAL, "no new token");
    r = request(), r.adapter_slot = 0;
    refuse(e, &r, -EINVAL, "slot 0");
    r = request(), r.adapter_slot = 2;
    refuse(e, &r, -EINVAL, "slot 2");
    r = request(), r.adapter_slot = -2;
    refuse(e, &r, -EINVAL, "slot -2");
    r = request(), r.top_logprobs = ENGINE_TOP_LOGPROBS_MAX + 1;
    refuse(e, &r, -EINVAL, "top_logprobs");
    r = request(), r.stop_token_count = ENGINE_STOP_TOKENS_MAX + 1;
    refuse(e, &r, -EINVAL, "stop tokens");
    r = request(), r.stop_token_count = 1, r.stop_tokens[0] = m->config.vocab_count;
    refuse(e, &r, -EINVAL, "stop token");
    r = request(), r.tokens_new_min = 6;
    refuse(e, &r, -EINVAL, "tokens_new_min");
    engine_close(e);
    fixture_model_free(m);
}

static void test_sampling_parameters(void **state)
{
    static const float temperatures[] = {-0.1f, 100.1f, INFINITY, NAN};
    static const float top_ps[] = {0, -1, 1.001f, NAN};
    static const float min_ps[] = {-0.1f, 1, INFINITY, NAN};
    (void)state;
    struct fixture_model *m = model();
    struct engine *e = fixture_engine(m, &options, NULL, 0);
    for (uint32_t i = 0; i < 4; i++) {
        struct engine_request r = request();
        r.sampling.temperature = temperatures[i];
        refuse(e, &r, -EINVAL, "temperature");
        r = request();
        r.sampling.top_p = top_ps[i];
        refuse(e, &r, -EINVAL, "top_p");
        r = request();
        r.sampling.min_p = min_ps[i];
        refuse(e, &r, -EINVAL, "min_p");
    }
    engine_close(e);
    fixture_model_free(m);
}

static void test_penalties_and_biases(void **state)
{
    static const float penalties[] = {-2.1f, 2.1f, INFINITY, NAN};
    static const float repetitions[] = {-0.1f, 100.1f, INFINITY, NAN};
    static const float values[] = {-100.1f, 100.1f, INFINITY, NAN};
    static struct engine_bias biases[ENGINE_BIASES_MAX + 1];
    (void)state;
    struct fixture_model *m = model();
    struct engine *e = fixture_engine(m, &options, NULL, 0);
    struct engine_request r;
    for (uint32_t i = 0; i < 4; i++) {
        r = request(), r.penalties.presence = penalties[i];
        refuse(e, &r, -EINVAL, "presence penalty");
        r = request(), r.penalties.frequency = penalties[i];
        refuse(e, &r, -EINVAL, "frequency penalty");
        r = request(), r.penalties.repetition = repetitions[i];
        refuse(e, &r, -EINVAL, "repetition penalty");
        biases[1] = (struct engine_bias){7, values[i]};
        r = request(), r.biases = biases, r.bias_count = 2;
        refuse(e, &r, -EINVAL, "bias of token 7");
    }
    biases[1] = (struct engine_bias){m->config.vocab_count, 1};
    refuse(e, &r, -EINVAL, "a bias for token");
    r = request(), r.biases = biases, r.bias_count = ENGINE_BIASES_MAX + 1;
    refuse(e, &r, -EINVAL, "biases");
    engine_close(e);
    fixture_model_free(m);
}

static void test_adapter_scales(void **state)
{
    static const float scales[] = {0, -0.5f, 1.001f, NAN};
    (void)state;
    struct fixture_model *m = model();
    struct fixture_adapter *a = fixture_adapter_new(m, IMAGE_F32, 4, 0x7f, 9);
    struct engine *e = fixture_engine(m, &options, &a, 1);
    for (uint32_t i = 0; i < 4; i++) {
        struct engine_request r = request();
        r.adapter_slot = 0;
        r.adapter_scale = scales[i];
        refuse(e, &r, -EINVAL, "adapter_scale");
    }
    engine_close(e);
    fixture_adapter_free(a);
    fixture_model_free(m);
}

static void test_no_room(void **state)
{
    (void)state;
    struct fixture_model *m = model();
    struct engine_options o = options;
    struct engine_request r = request();
    struct error err = {0};
    uint32_t id;
    o.kv_bytes = 3 * fixture_kv_block_bytes(m);
    struct engine *e = fixture_engine(m, &o, NULL, 0);
    assert_int_equal(engine_context_max(e), 48);
    r.token_count = 49;
    refuse(e, &r, -ENOSPC, "holds 48");
    r.token_count = 48;
    assert_int_equal(engine_add(e, &r, &id, &err), 0);
    assert_int_equal(engine_add(e, &r, &id, &err), 0);
    assert_int_equal(engine_add(e, &r, &id, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "all 2 sequences"));
    engine_remove(e, id);
    engine_remove(e, id); /* an unknown id is nobody */
    assert_int_equal(engine_add(e, &r, &id, &err), 0);

    /* Logits of a prompt need room in the same pool. */
    struct engine_output outputs[8];
    struct engine_step_stats stats;
    float *logits = calloc((size_t)PROMPT * m->config.vocab_count, sizeof(*logits));
    assert_int_equal(engine_logits(e, prompt, PROMPT, -1, logits, &err), 0);
    assert_int_equal(engine_step(e, outputs, 8, &stats, &err), 0);
    assert_int_equal(engine_logits(e, prompt, PROMPT, -1, logits, &err), -ENOSPC);
    assert_int_equal(engine_logits(e, prompt, 0, -1, logits, &err), -EINVAL);
    assert_int_equal(engine_logits(e, prompt, 201, -1, logits, &err), -E2BIG);
    assert_int_equal(engine_logits(e, prompt, PROMPT, 1, logits, &err), -EINVAL);
    assert_int_equal(engine_step(e, outputs, 0, &stats, &err), -EINVAL);
    free(logits);
    engine_close(e);
    fixture_model_free(m);
}

static void refuse_options(const struct fixture_model *m, const struct engine_options *o,
                           const char *word)
{
    struct engine *e = NULL;
    struct error err = {0};
    int rc = engine_open(&e, &m->backbone, o, &err);
    if (rc != -EINVAL || !strstr(err.text, word))
        fail_msg("code %d, text \"%s\" without \"%s\"", rc, err.text, word);
    assert_null(e);
}

static void test_options(void **state)
{
    (void)state;
    struct fixture_model *m = model();
    struct engine_options o;
    o = options, o.sequences_max = 0;
    refuse_options(m, &o, "sequences_max");
    o = options, o.sequences_max = 5000, o.rows_max = 5000;
    refuse_options(m, &o, "sequences_max");
    o = options, o.rows_max = 1;
    refuse_options(m, &o, "rows_max");
    o = options, o.rows_max = 1000000;
    refuse_options(m, &o, "rows_max");
    o = options, o.adapters_max = 1000000;
    refuse_options(m, &o, "adapters_max");
    o = options, o.context_max = 257;
    refuse_options(m, &o, "context");
    o = options, o.kv_bytes = 100;
    refuse_options(m, &o, "KV");
    o = options, o.threads = 1000000;
    refuse_options(m, &o, "threads");
    fixture_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_sampling_parameters),
        cmocka_unit_test(test_penalties_and_biases),
        cmocka_unit_test(test_adapter_scales),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
