/* config.json of each family as it was published, in the spellings before and after transformers 5:
 * layer by layer what transformers makes of it. The files lie in tests/vectors/configs. */
#include "engine/rope.h"
#include "model/config.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define ROOT "tests/vectors/configs"
#define FILE_BYTES_MAX 16384
#define RELATIVE_MAX 5e-7 /* a few roundings of float32 */

static struct model_config parse(const char *name)
{
    char path[256];
    char json[FILE_BYTES_MAX];
    struct model_config c;
    struct error err = {0};
    snprintf(path, sizeof path, ROOT "/%s.json", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t len = fread(json, 1, sizeof json, f);
    fclose(f);
    assert_true(len > 0 && len < sizeof json);
    if (model_config_parse(json, len, NULL, 0, &c, &err) < 0)
        fail_msg("%s: %s", path, err.text);
    if (model_config_check(&c, &err) < 0)
        fail_msg("%s: %s", path, err.text);
    return c;
}

static void compare(const char *name, const char *what, double got, const json_t *want)
{
    double value = json_number_value(want);
    assert_true(json_is_number(want));
    if (!(fabs(got - value) <= RELATIVE_MAX * fabs(value)))
        fail_msg("%s: %s is %.9g, transformers has %.9g", name, what, got, value);
}

static void compare_list(const char *name, const char *what, const float *got, uint32_t count,
                         const json_t *want)
{
    if (json_array_size(want) != count)
        fail_msg("%s: %u %s, transformers has %zu", name, count, what, json_array_size(want));
    for (uint32_t i = 0; i < count; i++)
        compare(name, what, (double)got[i], json_array_get(want, i));
}

static void compare_rope(const char *name, const struct model_config *c, uint32_t layer,
                         const json_t *want)
{
    static struct rope rope;
    rope_init(&rope, c, model_layer_kind(c, layer));
    compare(name, "scale", (double)rope.scale, json_object_get(want, "scale"));
    compare_list(name, "frequencies", rope.frequencies, rope.half_dim,
                 json_object_get(want, "short"));
    const json_t *long_frequencies = json_object_get(want, "long");
    if (json_is_null(long_frequencies)) {
        assert_int_equal(rope_long_from(c), UINT32_MAX);
        return;
    }
    compare(name, "original context", rope_long_from(c), json_object_get(want, "original"));
    compare_list(name, "long frequencies", rope.long_frequencies, rope.half_dim, long_frequencies);
}

static void compare_layers(const char *name, const struct model_config *c, const json_t *want)
{
    const json_t *windows = json_object_get(want, "windows");
    const json_t *ropes = json_object_get(want, "rope");
    const json_t *frequencies = json_object_get(want, "frequencies");
    assert_int_equal(json_array_size(windows), c->layer_count);
    assert_int_equal(json_array_size(ropes), c->layer_count);
    for (uint32_t i = 0; i < c->layer_count; i++) {
        bool slides = model_layer_kind(c, i) == MODEL_LAYER_SLIDING;
        long long window = json_integer_value(json_array_get(windows, i));
        if (window >= c->context_max)
            window = 0; /* wider than every context */
        if ((slides ? c->sliding_window : 0) != window)
            fail_msg("%s: layer %u sees %u positions, in transformers %lld", name, i,
                     slides ? c->sliding_window : 0, window);
        size_t rope = (size_t)json_integer_value(json_array_get(ropes, i));
        compare_rope(name, c, i, json_array_get(frequencies, rope));
    }
}

static void test_published(void **state)
{
    (void)state;
    json_t *all = json_load_file(ROOT "/expected.json", 0, NULL);
    const char *name = NULL;
    json_t *want = NULL;
    assert_true(json_object_size(all) > 0);
    json_object_foreach(all, name, want)
    {
        const struct model_config c = parse(name);
        compare(name, "head_dim", c.head_dim, json_object_get(want, "head_dim"));
        compare(name, "kv_heads", c.kv_head_count, json_object_get(want, "kv_heads"));
        compare(name, "norm_eps", (double)c.norm_eps, json_object_get(want, "norm_eps"));
        compare(name, "score_scale", (double)c.attention_scale,
                json_object_get(want, "score_scale"));
        compare(name, "embed_scale", (double)c.embed_scale, json_object_get(want, "embed_scale"));
        assert_int_equal(c.tied_embeddings, json_is_true(json_object_get(want, "tied")));
        compare_layers(name, &c, want);
    }
    json_decref(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published)};
    return cmocka_run_group_tests_name("config_published", tests, NULL, NULL);
}
