/* Profiles: the shipped ones are whole, and of a document every constant that is missing, of
 * another unit, of another kind or absurd is refused by its name. */
#include "sim/profile.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#define SAMPLE "profiles/paper-l40s.json"
#define CONSTANTS_MAX 128u

/* A constant of a document: where it stands and how an error calls it. */
struct constant {
    json_t *parent;
    char key[64]; /* its own: the document's goes with the entry */
    char name[128];
};

static json_t *sample(void)
{
    json_error_t e;
    json_t *root = json_load_file(SAMPLE, 0, &e);
    if (root == NULL)
        fail_msg("%s: %s", SAMPLE, e.text);
    return root;
}

static void find(json_t *object, const char *in, struct constant *list, size_t *count)
{
    const char *key;
    json_t *value;
    size_t index;
    json_object_foreach(object, key, value)
    {
        char name[128];
        snprintf(name, sizeof name, "%s%s%s", in, in[0] != '\0' ? "." : "", key);
        if (json_is_object(value) && json_object_get(value, "value") != NULL) {
            assert_true(*count < CONSTANTS_MAX);
            list[*count].parent = object;
            snprintf(list[*count].key, sizeof list[*count].key, "%s", key);
            memcpy(list[(*count)++].name, name, sizeof name);
        } else if (json_is_object(value)) {
            find(value, name, list, count);
        }
        json_t *item;
        json_array_foreach(value, index, item)
        {
            snprintf(name, sizeof name, "%s[%zu]", key, index);
            find(item, name, list, count);
        }
    }
}

static int parse(const json_t *root, struct profile *ret, struct error *err)
{
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    int r = profile_parse(ret, "sample", text, strlen(text), err);
    free(text);
    return r;
}

static void refuse_text(const char *text, const char *words)
{
    struct profile p;
    struct error err = {0};
    memset(&p, 0x5a, sizeof p);
    int r = profile_parse(&p, "sample", text, strlen(text), &err);
    if (r >= 0 || strstr(err.text, words) == NULL || strncmp(err.text, "sample", 6) != 0)
        fail_msg("%d \"%s\", expected \"%s\"", r, err.text, words);
    for (size_t i = 0; i < sizeof p; i++)
        assert_int_equal(((const uint8_t *)&p)[i], 0x5a); /* untouched */
}

static void refuse(const json_t *root, const char *words)
{
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    refuse_text(text, words);
    free(text);
}

static void test_shipped(void **state)
{
    (void)state;
    struct error err = {0};
    size_t count = 0;
    for (; profile_shipped(count) != NULL; count++) {
        struct profile p;
        if (profile_read(&p, profile_shipped(count), &err) < 0)
            fail_msg("%s", err.text);
        assert_string_equal(p.name, profile_shipped(count));
        assert_true(p.is_gpu && p.backbone_count >= 2);
        char path[128];
        struct profile same;
        snprintf(path, sizeof path, "profiles/%s.json", p.name);
        if (profile_read(&same, path, &err) < 0)
            fail_msg("%s", err.text);
        assert_memory_equal(&p, &same, sizeof p);
    }
    assert_int_equal(count, 2);
}

/* What a document says is what is read, in the units of struct profile. */
static void test_values(void **state)
{
    (void)state;
    struct profile p;
    struct error err = {0};
    if (profile_read(&p, "paper-l40s", &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(p.device_bytes, 48000000000);
    assert_int_equal(p.worker_bytes, 473000000);
    assert_int_equal(p.node_devices, 4);
    assert_int_equal(p.fork_us, 3600);
    assert_true(p.disk_us_byte > 1.999e-4 && p.disk_us_byte < 2.001e-4); /* 5 GB/s */
    assert_string_equal(p.backbones[1].name, "llama2-13b");
    assert_int_equal(p.backbones[1].kv_token_bytes, 819200);
    assert_true(p.backbones[0].steps[PROFILE_EAGER].linear.decode_us >= 1700 &&
                p.backbones[0].steps[PROFILE_EAGER].linear.decode_us <= 1700);
}

/* An engine that is not measured apart is as the other. */
static void test_one_engine(void **state)
{
    (void)state;
    json_t *root = sample();
    struct profile p;
    struct error err = {0};
    json_object_del(json_array_get(json_object_get(root, "backbones"), 0), "eager");
    assert_int_equal(parse(root, &p, &err), 0);
    assert_memory_equal(&p.backbones[0].steps[PROFILE_EAGER], &p.backbones[0].steps[PROFILE_PAGED],
                        sizeof p.backbones[0].steps[0]);
    json_object_del(json_array_get(json_object_get(root, "backbones"), 1), "paged");
    refuse(root, "backbones[1].paged is missing");
    json_decref(root);
}

static void refuse_with(const json_t *root, const struct constant *c, const char *part,
                        json_t *value)
{
    json_t *entry = json_object_get(c->parent, c->key);
    json_t *before = json_incref(json_object_get(entry, part));
    json_object_set_new(entry, part, value);
    refuse(root, c->name[0] != '\0' ? c->name : c->key);
    json_object_set_new(entry, part, before);
}

static void test_every_constant(void **state)
{
    (void)state;
    json_t *root = sample();
    struct constant list[CONSTANTS_MAX];
    struct profile p;
    struct error err = {0};
    size_t count = 0;
    find(root, "", list, &count);
    assert_true(count > 40);
    for (size_t i = 0; i < count; i++) {
        const struct constant *c = &list[i];
        json_t *entry = json_object_get(c->parent, c->key);
        const double absurd[] = {-1, -1e-9, 1e300, 1e18};
        for (size_t k = 0; k < sizeof absurd / sizeof absurd[0]; k++)
            refuse_with(root, c, "value", json_real(absurd[k]));
        refuse_with(root, c, "value", json_string("12"));
        refuse_with(root, c, "value", json_null());
        refuse_with(root, c, "value", json_array());
        refuse_with(root, c, "unit", json_string("furlongs"));
        refuse_with(root, c, "unit", json_string(""));
        refuse_with(root, c, "unit", json_integer(1));
        refuse_with(root, c, "source", json_string(""));
        refuse_with(root, c, "source", json_false());
        json_object_set_new(entry, "note", json_string("more"));
        refuse(root, c->name);
        json_object_del(entry, "note");
        for (const char *const *part = (const char *const[]){"value", "unit", "source", NULL};
             *part != NULL; part++) {
            json_t *before = json_incref(json_object_get(entry, *part));
            json_object_del(entry, *part);
            refuse(root, c->name);
            json_object_set_new(entry, *part, before);
        }
        json_t *misnamed = json_incref(entry);
        json_object_del(c->parent, c->key);
        refuse(root, c->name);
        json_object_set_new(c->parent, c->key, misnamed);
        if (parse(root, &p, &err) < 0) /* the sample is whole again */
            fail_msg("after %s: %s", c->name, err.text);
    }
    json_decref(root);
}

/* What is counted is whole; what divides is not 0. */
static void test_zero_and_parts(void **state)
{
    (void)state;
    static const char *const whole[] = {"memory_bytes", "step_rows", "vcpus", NULL};
    static const char *const above_zero[] = {"memory_bytes", "step_rows", "vcpus", "kv_step_bytes",
                                             NULL};
    json_t *root = sample(), *device = json_object_get(root, "device");
    for (size_t i = 0; whole[i] != NULL; i++) {
        struct constant c = {.parent = device};
        snprintf(c.key, sizeof c.key, "%s", whole[i]);
        refuse_with(root, &c, "value", json_real(4096.5));
    }
    for (size_t i = 0; above_zero[i] != NULL; i++) {
        struct constant c = {.parent = device};
        snprintf(c.key, sizeof c.key, "%s", above_zero[i]);
        refuse_with(root, &c, "value", json_integer(0));
    }
    json_t *node = json_object_get(root, "node");
    for (const char *const *key = (const char *const[]){"devices", "disk_gb_s", "link_gb_s", NULL};
         *key != NULL; key++) {
        struct constant c = {.parent = node};
        snprintf(c.key, sizeof c.key, "%s", *key);
        refuse_with(root, &c, "value", json_integer(0));
    }
    json_decref(root);
}

static void test_documents(void **state)
{
    (void)state;
    refuse_text("", "line 1");
    refuse_text("[]", "the profile is missing or no object");
    refuse_text("{}", "name is a text");
    refuse_text("{\"name\": \"x\", \"name\": \"y\"}", "duplicate");
    refuse_text("{\"name\": \"x\",\n\"about\": NaN}", "line 2");
    refuse_text("{\"name\": \"x\"}", "about, a text, is missing");
    refuse_text("{\"name\": \"x\", \"about\": \"\", \"prices\": \"tpu\"}", "prices is");
    refuse_text("{\"name\": \"x\", \"colour\": 1}", "has no constant \"colour\"");
    json_t *root = sample(), *list = json_object_get(root, "backbones");
    json_t *first = json_array_get(list, 0);
    char longest[PROFILE_NAME_BYTES + 1];
    memset(longest, 'n', PROFILE_NAME_BYTES);
    longest[PROFILE_NAME_BYTES] = '\0';
    json_object_set_new(root, "name", json_string(longest));
    refuse(root, "name is a text of 1 to 63 bytes");
    json_object_set_new(root, "name", json_string("sample"));
    json_object_set_new(json_object_get(root, "node"), "colour", json_integer(1));
    refuse(root, "node has no constant \"colour\"");
    json_object_del(json_object_get(root, "node"), "colour");
    json_object_set_new(json_object_get(json_object_get(root, "device"), "memory_bytes"), "value",
                        json_real(20e9));
    refuse(root, "holds no process of llama2-13b");
    json_array_append(list, first);
    refuse(root, "two backbones are named llama2-7b");
    while (json_array_size(list) <= PROFILE_BACKBONES_MAX)
        json_array_append(list, first);
    refuse(root, "backbones is a list of 1 to 16");
    json_array_clear(list);
    refuse(root, "backbones is a list of 1 to 16");
    json_object_del(root, "backbones");
    refuse(root, "backbones is a list of 1 to 16");
    json_object_del(root, "process");
    refuse(root, "process is missing or no object");
    json_decref(root);
}

static void test_files(void **state)
{
    (void)state;
    struct profile p;
    struct error err = {0};
    assert_int_equal(profile_read(&p, "l40s", &err), -ENOENT);
    assert_non_null(strstr(err.text, "no profile \"l40s\""));
    assert_int_equal(profile_read(&p, "./there/is/none.json", &err), -ENOENT);
    assert_non_null(strstr(err.text, "./there/is/none.json"));
    assert_true(profile_read(&p, "/", &err) < 0);
    assert_int_equal(profile_read(&p, "/dev/zero", &err), -E2BIG);
    assert_non_null(strstr(err.text, "/dev/zero"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shipped),        cmocka_unit_test(test_values),
        cmocka_unit_test(test_one_engine),     cmocka_unit_test(test_every_constant),
        cmocka_unit_test(test_zero_and_parts), cmocka_unit_test(test_documents),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
