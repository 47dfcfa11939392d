/*
 * The whole numeric road against transformers and peft in float32: packer, images, engine. The
 * vectors and the script that made them lie in tests/vectors.
 *
 *   test_parity [NAME ...]     only these models
 */
#include "engine/engine.h"
#include "packing.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define ROOT "tests/vectors/parity"
#define LOGIT_DIFFERENCE_MAX 2e-4
#define CASES_MAX 16
#define TOKENS_MAX 256

struct parity_case {
    char name[32]; /* of the adapter; "" for the bare backbone */
    uint32_t prompt[TOKENS_MAX];
    uint32_t prompt_count;
    uint32_t greedy[TOKENS_MAX];
    uint32_t greedy_count;
    size_t logits_offset;
    int32_t slot;
    struct packed packed;
    struct adapter adapter;
};

struct model {
    const char *name;
    uint32_t vocab;
    float *logits; /* the reference's, all cases */
    struct parity_case cases[CASES_MAX];
    uint32_t case_count;
    struct packed packed;
    struct backbone backbone;
    struct engine *engine;
};

static uint32_t read_ids(const json_t *list, uint32_t *ret)
{
    size_t count = json_array_size(list);
    assert_true(count > 0 && count <= TOKENS_MAX);
    for (size_t i = 0; i < count; i++)
        ret[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)count;
}

static void read_expected(struct model *m)
{
    char path[512];
    snprintf(path, sizeof path, ROOT "/%s/expected.json", m->name);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    m->vocab = (uint32_t)json_integer_value(json_object_get(root, "vocab"));
    const json_t *cases = json_object_get(root, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *from = json_array_get(cases, i);
        struct parity_case *c = &m->cases[m->case_count++];
        const char *adapter = json_string_value(json_object_get(from, "adapter"));
        snprintf(c->name, sizeof c->name, "%s", adapter != NULL ? adapter : "");
        c->prompt_count = read_ids(json_object_get(from, "prompt"), c->prompt);
        c->greedy_count = read_ids(json_object_get(from, "greedy"), c->greedy);
        c->logits_offset = (size_t)json_integer_value(json_object_get(from, "logits_offset"));
    }
    json_decref(root);
    snprintf(path, sizeof path, ROOT "/%s/logits.bin", m->name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    m->logits = malloc(4u << 20);
    assert_true(fread(m->logits, 1, 4u << 20, f) > 0);
    fclose(f);
}

static void must(int r, const struct error *err, const char *what)
{
    if (r < 0)
        fail_msg("%s: %s (%d)", what, err->text, r);
}

static void open_model(struct model *m)
{
    char path[512];
    struct error err = {0};
    read_expected(m);
    snprintf(path, sizeof path, ROOT "/%s", m->name);
    must(packing_pack(&m->packed, path, IMAGE_F32, NULL, NULL, &err), &err, path);
    must(backbone_open(&m->backbone, m->packed.base, m->packed.result.bytes, &err), &err, path);
    const struct engine_options o = {.threads = 2,
                                     .sequences_max = CASES_MAX,
                                     .rows_max = 64,
                                     .kv_bytes = 64u << 20,
                                     .adapters_max = CASES_MAX};
    must(engine_open(&m->engine, &m->backbone, &o, &err), &err, path);
    for (uint32_t i = 0; i < m->case_count; i++) {
        struct parity_case *c = &m->cases[i];
        c->slot = -1;
        if (c->name[0] == '\0')
            continue;
        snprintf(path, sizeof path, ROOT "/%s/adapters/%s", m->name, c->name);
        must(
            packing_pack(&c->packed, path, IMAGE_F32, &m->backbone, &m->packed.result.digest, &err),
            &err, path);
        must(adapter_open(&c->adapter, c->packed.base, c->packed.result.bytes, &m->backbone,
                          &m->packed.result.digest, &err),
             &err, path);
        c->slot = (int32_t)i;
        must(engine_adapter_set(m->engine, i, &c->adapter, &c->packed.result.digest, &err), &err,
             path);
    }
}

static void close_model(struct model *m)
{
    engine_close(m->engine);
    for (uint32_t i = 0; i < m->case_count; i++) {
        if (m->cases[i].slot >= 0)
            adapter_close(&m->cases[i].adapter);
        packing_release(&m->cases[i].packed);
    }
    backbone_close(&m->backbone);
    packing_release(&m->packed);
    free(m->logits);
}

static double compare_logits(const struct model *m, const struct parity_case *c)
{
    struct error err = {0};
    size_t count = (size_t)c->prompt_count * m->vocab;
    float *got = malloc(count * sizeof *got);
    const float *want = m->logits + c->logits_offset / sizeof(float);
    must(engine_logits(m->engine, c->prompt, c->prompt_count, c->slot, got, &err), &err, m->name);
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)got[i] - (double)want[i]);
        if (!(difference <= worst)) {
            worst = difference;
            at = i;
        }
    }
    if (!(worst <= LOGIT_DIFFERENCE_MAX))
        fail_msg("%s %s: logit %zu of position %zu is %.7g, the reference has %.7g", m->name,
                 c->name, at % m->vocab, at / m->vocab, (double)got[at], (double)want[at]);
    free(got);
    return worst;
}

/* Generates for cases [first, first + count) in one batch and compares every token. */
static void generate(const struct model *m, uint32_t first, uint32_t count)
{
    uint32_t ids[CASES_MAX];
    uint32_t done[CASES_MAX] = {0};
    struct error err = {0};
    for (uint32_t i = 0; i < count; i++) {
        const struct parity_case *c = &m->cases[first + i];
        const struct engine_request r = {.tokens = c->prompt,
                                         .token_count = c->prompt_count,
                                         .tokens_new_max = c->greedy_count,
                                         .adapter_slot = c->slot,
                                         .adapter_scale = 1,
                                         .sampling = {.top_p = 1}};
        must(engine_add(m->engine, &r, &ids[i], &err), &err, m->name);
    }
    while (engine_has_work(m->engine)) {
        struct engine_output out[64];
        struct engine_step_stats stats;
        must(engine_step(m->engine, out, 64, &stats, &err), &err, m->name);
        for (uint32_t k = 0; k < stats.output_count; k++) {
            uint32_t i = 0;
            while (i < count && ids[i] != out[k].sequence)
                i++;
            assert_true(i < count);
            const struct parity_case *c = &m->cases[first + i];
            if (!out[k].has_token)
                continue;
            if (done[i] >= c->greedy_count || out[k].token != c->greedy[done[i]])
                fail_msg("%s %s, batch of %u: token %u is %u", m->name, c->name, count, done[i],
                         out[k].token);
            done[i]++;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(done[i], m->cases[first + i].greedy_count);
        engine_remove(m->engine, ids[i]);
    }
}

static void test_model(void **state)
{
    struct model m = {.name = *state};
    open_model(&m);
    double worst = 0;
    for (uint32_t i = 0; i < m.case_count; i++) {
        double difference = compare_logits(&m, &m.cases[i]);
        worst = difference > worst ? difference : worst;
        generate(&m, i, 1);
    }
    /* All adapters in one batch, and the bare backbone among them. */
    generate(&m, 0, m.case_count);
    if (m.case_count == 9)
        generate(&m, 1, 8);
    printf("%-16s %u cases, largest logit difference %.2e\n", m.name, m.case_count, worst);
    close_model(&m);
}

int main(int argc, char **argv)
{
    static char *const all[] = {"llama-mha",      "llama3-gqa",      "llama-bias",
                                "mistral-window", "mistral-headdim", "qwen2-tied",
                                "qwen2-window",   "qwen3",           "qwen3-bias"};
    char *const *names = argc > 1 ? argv + 1 : all;
    size_t count = argc > 1 ? (size_t)(argc - 1) : sizeof all / sizeof all[0];
    struct CMUnitTest tests[32];
    for (size_t i = 0; i < count && i < 32; i++)
        tests[i] = (struct CMUnitTest){names[i], test_model, NULL, NULL, names[i]};
    return _cmocka_run_group_tests("parity", tests, count, NULL, NULL);
}
