/*
 * The whole numeric road against transformers and peft in float32: packer, images, engine. The
 * vectors and the script that made them lie in tests/vectors; manifest.json names the families and
 * the features of an adapter, and each pair of the two must have a case. Every instruction set that
 * this processor has computes all of them in float32, and in bf16, and with adapters in int8 within
 * bounds of their own. So do the kernels for GPUs, on the processor in the driver of the tests, or
 * with SLLORA_GPU=N on GPU N of this machine.
 *
 *   test_parity [--root DIR] [MODEL ...]     only these models; from vectors elsewhere
 */
#include "engine/engine.h"
#include "gpu/device.h"
#include "kernels/kernels.h"
#include "packing.h"
#include "unit/fake_gpu.h"

#include <jansson.h>
#include <math.h>

#define LOGIT_DIFFERENCE_MAX 2e-4
/* Matrices, keys and values in bf16: the root mean square of the differences, in that of the
 * logits. A number is rounded by 2^-9 at most, by 2^-9 / sqrt(3) in the mean of squares; both sides
 * of a product: 1.6e-3. Such errors are independent, and a logit has gone through a residual stream
 * to which up to 4 layers of 7 products and attention's 3 added theirs: sqrt(40) of them, 1e-2. An
 * adapter adds the error of its own products times its scale, which is 4 in the extreme of these
 * (rsLoRA, alpha_pattern): 4e-2, as is seen, and half as much again. */
#define BF16_DIFFERENCE_MAX 6e-2
/* Adapters in int8 on a backbone in f32: a value is off by a 127th of the largest in its row or
 * column / sqrt(12), in rows as short as these 6e-3 of its size, A and B 8e-3: five times what both
 * sides of a product are in bf16, where the same adapters are seen to make 4e-2 of it. */
#define CODES_DIFFERENCE_MAX 0.2
#define CASES_MAX 48
#define TOKENS_MAX 256
#define FAMILIES_MAX 16
#define MODELS_MAX 48
#define FEATURES_MAX 48
#define NAME_BYTES 32
#define TEXT_BYTES 128

struct parity_case {
    char feature[NAME_BYTES];
    char folder[NAME_BYTES];  /* below adapters/; "" for the bare backbone */
    char refused[TEXT_BYTES]; /* words of the sentence that refuses it; "": it is computed */
    uint32_t prompt[TOKENS_MAX];
    uint32_t prompt_count;
    uint32_t greedy[TOKENS_MAX];
    double logprobs[TOKENS_MAX]; /* the reference's, of greedy */
    float alone[TOKENS_MAX];     /* ours, where the sequence ran by itself */
    uint32_t greedy_count;
    size_t logits_offset;
    uint32_t logits_first; /* the positions before are not compared */
    int32_t slot;
    bool opened;
    struct packed packed;
    struct adapter adapter;
};

struct model {
    char name[NAME_BYTES];
    uint32_t family;
    uint32_t vocab;
    uint32_t failures;
    float *logits; /* the reference's, all cases */
    struct parity_case cases[CASES_MAX];
    uint32_t case_count;
    struct packed packed;
    struct backbone backbone;
    struct gpu_memory *memory; /* the backbone on the GPU, when there is one */
    struct engine *engine;
};

/* What the manifest lists, and the largest difference of each pair. */
static struct {
    const char *root;
    char families[FAMILIES_MAX][NAME_BYTES];
    uint32_t family_count;
    char features[FEATURES_MAX][NAME_BYTES];
    uint32_t feature_count;
    struct model models[MODELS_MAX];
    uint32_t model_count;
    bool seen[FAMILIES_MAX][FEATURES_MAX];
    double worst[FAMILIES_MAX][FEATURES_MAX];
    double worst_bf16;
    double worst_codes;
    double worst_gpu;
    struct gpu_device *gpu;     /* of the pass at work; NULL: the host computes */
    char isa_asked[NAME_BYTES]; /* by the environment: this one only; "": all there are */
} all = {.root = "tests/vectors/parity"};

/* --- reading --- */

static json_t *read_json(const char *folder, const char *name)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, "%s/%s/%s", all.root, folder, name);
    json_t *root = json_load_file(path, 0, &error);
    if (root == NULL)
        fail_msg("%s: %s", path, error.text);
    return root;
}

static void read_text(const json_t *value, char *ret, size_t bytes)
{
    const char *text = json_string_value(value);
    assert_true(text == NULL || strlen(text) < bytes);
    snprintf(ret, bytes, "%s", text != NULL ? text : "");
}

static void read_name(const json_t *value, char *ret)
{
    read_text(value, ret, NAME_BYTES);
}

static uint32_t read_number(const json_t *object, const char *key)
{
    return (uint32_t)json_integer_value(json_object_get(object, key));
}

static uint32_t read_ids(const json_t *list, uint32_t *ret)
{
    size_t count = json_array_size(list);
    assert_true(count > 0 && count <= TOKENS_MAX);
    for (size_t i = 0; i < count; i++)
        ret[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)count;
}

static void read_manifest(void)
{
    json_t *root = read_json("", "manifest.json");
    const json_t *features = json_object_get(root, "features");
    const char *family = NULL;
    json_t *models = NULL;
    for (size_t i = 0; i < json_array_size(features); i++) {
        assert_true(all.feature_count < FEATURES_MAX);
        read_name(json_array_get(features, i), all.features[all.feature_count++]);
    }
    json_object_foreach(json_object_get(root, "families"), family, models)
    {
        assert_true(all.family_count < FAMILIES_MAX && strlen(family) < NAME_BYTES);
        snprintf(all.families[all.family_count], NAME_BYTES, "%s", family);
        for (size_t i = 0; i < json_array_size(models); i++) {
            assert_true(all.model_count < MODELS_MAX);
            struct model *m = &all.models[all.model_count++];
            read_name(json_array_get(models, i), m->name);
            m->family = all.family_count;
        }
        all.family_count++;
    }
    json_decref(root);
}

static void read_case(const json_t *from, struct parity_case *c)
{
    read_name(json_object_get(from, "feature"), c->feature);
    read_name(json_object_get(from, "adapter"), c->folder);
    read_text(json_object_get(from, "refused"), c->refused, sizeof c->refused);
    if (c->refused[0] != '\0')
        return;
    c->prompt_count = read_ids(json_object_get(from, "prompt"), c->prompt);
    c->greedy_count = read_ids(json_object_get(from, "greedy"), c->greedy);
    const json_t *logprobs = json_object_get(from, "logprobs");
    assert_int_equal(json_array_size(logprobs), c->greedy_count);
    for (uint32_t i = 0; i < c->greedy_count; i++)
        c->logprobs[i] = json_number_value(json_array_get(logprobs, i));
    c->logits_offset = read_number(from, "logits_offset");
    c->logits_first = read_number(from, "logits_first");
    assert_true(c->logits_first < c->prompt_count);
}

static void read_expected(struct model *m)
{
    char path[512];
    json_t *root = read_json(m->name, "expected.json");
    m->vocab = read_number(root, "vocab");
    const json_t *cases = json_object_get(root, "cases");
    size_t logits_bytes = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        assert_true(m->case_count < CASES_MAX);
        struct parity_case *c = &m->cases[m->case_count++];
        read_case(json_array_get(cases, i), c);
        if (c->refused[0] != '\0')
            continue;
        logits_bytes = c->logits_offset +
                       sizeof(float) * m->vocab * (size_t)(c->prompt_count - c->logits_first);
    }
    json_decref(root);
    snprintf(path, sizeof path, "%s/%s/logits.bin", all.root, m->name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    m->logits = malloc(logits_bytes + 1);
    assert_int_equal(fread(m->logits, 1, logits_bytes + 1, f), logits_bytes);
    fclose(f);
}

/* --- running --- */

/* Goes on: one failure says less than the pattern of all. */
__attribute__((format(printf, 3, 4))) static void complain(struct model *m,
                                                           const struct parity_case *c,
                                                           const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("  %s %s: ", m->name, c->folder[0] != '\0' ? c->folder : "bare");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    m->failures++;
}

static void must(int r, const struct error *err, const char *what)
{
    if (r < 0)
        fail_msg("%s: %s (%d)", what, err->text, r);
}

static void open_case(struct model *m, uint32_t index, enum image_dtype dtype)
{
    struct parity_case *c = &m->cases[index];
    struct error err = {0};
    char path[512];
    c->slot = -1;
    c->opened = c->folder[0] == '\0';
    if (c->opened)
        return;
    snprintf(path, sizeof path, "%s/%s/adapters/%s", all.root, m->name, c->folder);
    int r = packing_pack(&c->packed, path, dtype, &m->backbone, &m->packed.result.digest, &err);
    if (c->refused[0] != '\0') {
        if (r == 0 || strstr(err.text, c->refused) == NULL)
            complain(m, c, "%s, expected \"%s\"", r == 0 ? "taken" : err.text, c->refused);
        return;
    }
    if (r < 0) {
        complain(m, c, "refused: %s", err.text);
        return;
    }
    must(adapter_open(&c->adapter, c->packed.base, c->packed.result.bytes, &m->backbone,
                      &m->packed.result.digest, &err),
         &err, path);
    must(engine_adapter_set(m->engine, index, &c->adapter, &c->packed.result.digest, &err), &err,
         path);
    c->slot = (int32_t)index;
    c->opened = true;
}

static void open_model(struct model *m, enum image_dtype dtype, enum image_dtype adapter_dtype)
{
    char path[512];
    struct error err = {0};
    read_expected(m);
    snprintf(path, sizeof path, "%s/%s", all.root, m->name);
    must(packing_pack(&m->packed, path, dtype, NULL, NULL, &err), &err, path);
    must(backbone_open(&m->backbone, m->packed.base, m->packed.result.bytes, &err), &err, path);
    uint64_t address = 0;
    if (all.gpu != NULL) {
        uint64_t bytes = m->backbone.image.bytes;
        must(gpu_memory_create(&m->memory, gpu_device_context(all.gpu), bytes, &err), &err, path);
        must(gpu_memory_write(m->memory, 0, m->packed.base, bytes, &err), &err, path);
        address = gpu_memory_address(m->memory);
    }
    const struct engine_options o = {.threads = 2,
                                     .sequences_max = CASES_MAX,
                                     .rows_max = 64,
                                     .kv_bytes = 64u << 20,
                                     .adapters_max = CASES_MAX,
                                     .gpu = all.gpu,
                                     .backbone_address = address};
    must(engine_open(&m->engine, &m->backbone, &o, &err), &err, path);
    for (uint32_t i = 0; i < m->case_count; i++)
        open_case(m, i, adapter_dtype);
}

static void close_model(struct model *m)
{
    engine_close(m->engine);
    for (uint32_t i = 0; i < m->case_count; i++) {
        if (m->cases[i].slot >= 0)
            adapter_close(&m->cases[i].adapter);
        packing_release(&m->cases[i].packed);
    }
    gpu_memory_free(m->memory);
    backbone_close(&m->backbone);
    packing_release(&m->packed);
    free(m->logits);
    struct model closed = {.family = m->family, .failures = m->failures};
    memcpy(closed.name, m->name, sizeof closed.name);
    *m = closed;
}

static void note(const struct model *m, const struct parity_case *c, double difference)
{
    for (uint32_t i = 0; i < all.feature_count; i++) {
        double *worst = &all.worst[m->family][i];
        if (strcmp(all.features[i], c->feature) != 0)
            continue;
        all.seen[m->family][i] = true;
        *worst = difference > *worst ? difference : *worst;
        return;
    }
    fail_msg("%s: feature %s is not in the manifest", m->name, c->feature);
}

static void compare_logits(struct model *m, const struct parity_case *c)
{
    struct error err = {0};
    size_t skipped = (size_t)c->logits_first * m->vocab;
    size_t count = (size_t)c->prompt_count * m->vocab;
    float *got = malloc(count * sizeof *got);
    const float *want = m->logits + c->logits_offset / sizeof(float);
    must(engine_logits(m->engine, c->prompt, c->prompt_count, c->slot, got, &err), &err, m->name);
    double worst = 0;
    size_t at = skipped;
    for (size_t i = skipped; i < count; i++) {
        double difference = fabs((double)got[i] - (double)want[i - skipped]);
        if (!(difference <= worst)) {
            worst = difference;
            at = i;
        }
    }
    if (!(worst <= LOGIT_DIFFERENCE_MAX))
        complain(m, c, "logit %zu of position %zu is %.7g, the reference has %.7g", at % m->vocab,
                 at / m->vocab, (double)got[at], (double)want[at - skipped]);
    note(m, c, worst);
    free(got);
}

static void compare_output(struct model *m, struct parity_case *c, uint32_t at, uint32_t batch,
                           const struct engine_output *out)
{
    if (at >= c->greedy_count || out->token != c->greedy[at])
        complain(m, c, "batch of %u: token %u is %u", batch, at, out->token);
    else if (!(fabs((double)out->logprob - c->logprobs[at]) <= LOGIT_DIFFERENCE_MAX))
        complain(m, c, "batch of %u: the log-probability of token %u is %.7g, not %.7g", batch, at,
                 (double)out->logprob, c->logprobs[at]);
    else if (batch == 1)
        c->alone[at] = out->logprob;
    else if (memcmp(&out->logprob, &c->alone[at], sizeof(float)) != 0)
        complain(m, c, "batch of %u: the log-probability of token %u is not as alone", batch, at);
}

/* Generates for `count` cases in one batch and compares every token. */
static void generate(struct model *m, struct parity_case *const *cases, uint32_t count)
{
    uint32_t ids[CASES_MAX];
    uint32_t done[CASES_MAX] = {0};
    struct error err = {0};
    for (uint32_t i = 0; i < count; i++) {
        const struct engine_request r = {.tokens = cases[i]->prompt,
                                         .token_count = cases[i]->prompt_count,
                                         .tokens_new_max = cases[i]->greedy_count,
                                         .adapter_slot = cases[i]->slot,
                                         .adapter_scale = 1,
                                         .logprobs = true,
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
            if (out[k].has_token)
                compare_output(m, cases[i], done[i]++, count, &out[k]);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(done[i], cases[i]->greedy_count);
        engine_remove(m->engine, ids[i]);
    }
}

static void compare_model(struct model *m)
{
    struct parity_case *opened[CASES_MAX];
    uint32_t count = 0;
    open_model(m, IMAGE_F32, IMAGE_F32);
    for (uint32_t i = 0; i < m->case_count; i++) {
        if (!m->cases[i].opened)
            continue;
        compare_logits(m, &m->cases[i]);
        opened[count++] = &m->cases[i];
        generate(m, &opened[count - 1], 1);
    }
    /* All adapters in one batch, and the bare backbone among them. */
    generate(m, opened, count);
    close_model(m);
}

/* What rounding changes grows with what is rounded: the differences are measured in the size of all
 * logits of a case. */
static void compare_rounded(struct model *m, enum image_dtype dtype, enum image_dtype adapter_dtype,
                            double most, double *worst)
{
    struct error err = {0};
    open_model(m, dtype, adapter_dtype);
    for (uint32_t i = 0; i < m->case_count; i++) {
        const struct parity_case *c = &m->cases[i];
        if (!c->opened)
            continue;
        size_t skipped = (size_t)c->logits_first * m->vocab;
        size_t count = (size_t)c->prompt_count * m->vocab;
        float *got = malloc(count * sizeof *got);
        const float *want = m->logits + c->logits_offset / sizeof(float);
        must(engine_logits(m->engine, c->prompt, c->prompt_count, c->slot, got, &err), &err,
             m->name);
        double differences = 0, sizes = 0;
        for (size_t k = skipped; k < count; k++) {
            double difference = (double)got[k] - (double)want[k - skipped];
            differences += difference * difference;
            sizes += (double)want[k - skipped] * (double)want[k - skipped];
        }
        double relative = sqrt(differences / sizes);
        if (!(relative <= most))
            complain(m, c, "with adapters in %s the logits differ by %.2g of their size",
                     image_quant_name(adapter_dtype), relative);
        *worst = relative > *worst ? relative : *worst;
        free(got);
    }
    close_model(m);
}

/* Of this machine where it is named, else of the tests. */
static void open_gpu(void)
{
    const char *index = getenv("SLLORA_GPU");
    struct error err = {0};
    if (index == NULL)
        load_fake();
    must(engine_gpu_open(&all.gpu, index != NULL ? (uint32_t)strtoul(index, NULL, 10) : 0, &err),
         &err, "GPU");
}

static void compare_on_gpu(struct model *m)
{
    open_gpu();
    uint32_t before = m->failures;
    compare_rounded(m, IMAGE_BF16, IMAGE_BF16, BF16_DIFFERENCE_MAX, &all.worst_gpu);
    compare_rounded(m, IMAGE_BF16, IMAGE_INT8, CODES_DIFFERENCE_MAX, &all.worst_codes);
    gpu_device_close(all.gpu);
    all.gpu = NULL;
    if (m->failures > before)
        printf("  that was with the kernels for GPUs\n");
}

static void test_model(void **state)
{
    struct model *m = *state;
    for (int isa = 0; isa < KERNEL_ISA_COUNT; isa++) {
        const char *name = kernels_isa_name(isa);
        if (kernels_get(isa) == NULL || (all.isa_asked[0] != '\0' && strcmp(all.isa_asked, name)))
            continue;
        setenv("SLLORA_ISA", name, 1);
        uint32_t before = m->failures;
        compare_model(m);
        compare_rounded(m, IMAGE_BF16, IMAGE_BF16, BF16_DIFFERENCE_MAX, &all.worst_bf16);
        compare_rounded(m, IMAGE_F32, IMAGE_INT8, CODES_DIFFERENCE_MAX, &all.worst_codes);
        if (m->failures > before)
            printf("  that was with SLLORA_ISA=%s\n", name);
    }
    compare_on_gpu(m);
    assert_int_equal(m->failures, 0);
}

static void test_every_family_with_every_feature(void **state)
{
    uint32_t missing = 0;
    (void)state;
    for (uint32_t feature = 0; feature < all.feature_count; feature++) {
        printf("%-16s", all.features[feature]);
        for (uint32_t family = 0; family < all.family_count; family++) {
            missing += all.seen[family][feature] ? 0 : 1;
            if (all.seen[family][feature])
                printf(" %7.0e", all.worst[family][feature]);
            else
                printf(" missing");
        }
        printf("\n");
    }
    printf("largest logit differences; across:");
    for (uint32_t family = 0; family < all.family_count; family++)
        printf(" %s%s", all.families[family], family + 1 < all.family_count ? "," : "\n");
    printf("of the logits' size: %.1e in bf16, %.1e by the kernels for GPUs, %.1e with adapters in "
           "int8\n",
           all.worst_bf16, all.worst_gpu, all.worst_codes);
    assert_true(all.feature_count > 0 && all.family_count > 0);
    assert_int_equal(missing, 0);
}

static bool is_named(const char *name, char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return count == 0;
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[MODELS_MAX + 1];
    size_t count = 0;
    bool elsewhere = argc > 2 && strcmp(argv[1], "--root") == 0;
    int skipped = elsewhere ? 3 : 1;
    if (elsewhere)
        all.root = argv[2];
    if (getenv("SLLORA_ISA") != NULL)
        snprintf(all.isa_asked, sizeof all.isa_asked, "%s", getenv("SLLORA_ISA"));
    read_manifest();
    for (uint32_t i = 0; i < all.model_count; i++) {
        struct model *m = &all.models[i];
        if (is_named(m->name, argv + skipped, argc - skipped))
            tests[count++] = (struct CMUnitTest){m->name, test_model, NULL, NULL, m};
    }
    if (argc == 1)
        tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_every_family_with_every_feature);
    return _cmocka_run_group_tests("parity", tests, count, NULL, NULL);
}
