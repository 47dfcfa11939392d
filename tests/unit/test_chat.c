/* The template language against transformers' own rendering (tests/vectors/chat), and the limits.
 * test_chat_published.c has the templates that models ship. */
#include "model/chat_prompt.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOW_S 1721995321

static int render(const char *text, size_t len, const json_t *context, int64_t now_s,
                  const struct chat_limits *limits, struct buf *out, struct error *err)
{
    struct chat_template *t = NULL;
    int r = chat_template_parse(&t, text, len, err);
    if (r == 0)
        r = chat_template_render(t, context, now_s, limits, out, err);
    chat_template_free(t);
    return r;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* One case of a vector file; says what differs. */
static bool check(const char *name, const char *text, size_t len, const json_t *context,
                  int64_t now_s, const json_t *expected)
{
    struct error err = {0};
    struct buf out;
    buf_init(&out, 1 << 20);
    int r = render(text, len, context, now_s, NULL, &out, &err);
    const json_t *output = json_object_get(expected, "output");
    const char *raised = json_string_value(json_object_get(expected, "error"));
    bool ok;
    if (json_is_true(json_object_get(expected, "refused"))) {
        ok = r == -EINVAL && err.text[0] != '\0';
        if (!ok)
            print_error("%s: should be refused, got %d '%s'\n", name, r, out.data);
    } else if (output == NULL) {
        bool exact = json_is_true(json_object_get(expected, "exact"));
        ok = r < 0 && err.code == r && (!exact || ends_with(err.text, raised));
        if (!ok)
            print_error("%s: should raise '%s', got %d '%s'\n", name, raised, r,
                        r < 0 ? err.text : out.data);
    } else {
        const char *want = json_string_value(output);
        size_t want_len = json_string_length(output), at = 0;
        while (r == 0 && at < want_len && at < out.len && out.data[at] == want[at])
            at++;
        ok = r == 0 && at == want_len && at == out.len;
        if (!ok)
            print_error("%s: differs at byte %zu: want '%.60s', got %d '%.200s'\n", name, at,
                        want + at, r,
                        r < 0         ? err.text
                        : out.len > 0 ? out.data + at
                                      : "");
    }
    buf_free(&out);
    return ok;
}

static json_t *load(const char *path)
{
    json_error_t e;
    json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (json == NULL)
        fail_msg("%s:%d: %s", path, e.line, e.text);
    return json;
}

static void test_features(void **state)
{
    (void)state;
    json_t *all = load("tests/vectors/chat/features.json");
    int64_t now_s = json_integer_value(json_object_get(all, "now_s"));
    size_t i, failures = 0;
    json_t *c;
    json_array_foreach(json_object_get(all, "cases"), i, c)
    {
        json_t *text = json_object_get(c, "template");
        failures += !check(json_string_value(text), json_string_value(text),
                           json_string_length(text), json_object_get(all, "context"), now_s, c);
    }
    print_message("%zu cases\n", json_array_size(json_object_get(all, "cases")));
    json_decref(all);
    assert_int_equal(failures, 0);
}

/* --- limits --- */

static int render_text(const char *text, const struct chat_limits *limits, struct error *err)
{
    struct buf out;
    json_t *context = json_object();
    buf_init(&out, (size_t)64 << 20);
    int r = render(text, strlen(text), context, NOW_S, limits, &out, err);
    buf_free(&out);
    json_decref(context);
    return r;
}

static void test_limits_hold(void **state)
{
    (void)state;
    static const char *const greedy[] = {
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ ('x' * 10**9)|length }}",
        "{{ ([1] * 10**9)|length }}",
        "{{ 'x'.ljust(10**12) }}",
        "{{ ('ab' * 100000).replace('', 'x' * 100000) }}",
        "{{ ('a' * 100000)|list|join('b' * 100000) }}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}"
        "{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}"
        "{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}"
        "{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}"
        "{% endfor %}{{ ns.l == [ns.l] }}",
        "{% set ns = namespace(l=[0]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
        "{% endfor %}{{ ns.l == [ns.l[0], ns.l[1]] }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ [1, 2]|tojson(indent=10**10) }}",
        "{{ 'a'|indent(10**10, true) }}",
        "{% for i in range(99999) %}{{ ('a' * 99999) is in ('b' * 99999) }}{% endfor %}",
    };
    for (size_t i = 0; i < sizeof greedy / sizeof greedy[0]; i++) {
        struct error err = {0};
        int r = render_text(greedy[i], NULL, &err);
        if (r != -E2BIG)
            fail_msg("%s: %d %s", greedy[i], r, err.text);
        assert_int_equal(err.code, -E2BIG);
    }
}

/* Each limit by itself, just short of enough and just enough. */
static void test_each_limit(void **state)
{
    (void)state;
    static const char text[] = "{% for i in range(10) %}{{ 'abcdefghij' }}{% endfor %}";
    struct error err;
    struct chat_limits l = chat_limits_default;
    assert_int_equal(render_text(text, &l, &err), 0);
    l.output_bytes_max = 100;
    assert_int_equal(render_text(text, &l, &err), 0);
    l.output_bytes_max = 99;
    assert_int_equal(render_text(text, &l, &err), -E2BIG);
    l = chat_limits_default;
    l.memory_bytes_max = 1000;
    assert_int_equal(render_text(text, &l, &err), -E2BIG);
    l = chat_limits_default;
    l.steps_max = 20;
    assert_int_equal(render_text(text, &l, &err), -E2BIG);
    l = chat_limits_default;
    l.depth_max = 2;
    assert_int_equal(render_text(text, &l, &err), -E2BIG);
}

static void nested(char *text, const char *open, size_t count, const char *middle,
                   const char *close)
{
    char *p = text;
    for (size_t i = 0; i < count; i++)
        p = stpcpy(p, open);
    p = stpcpy(p, middle);
    for (size_t i = 0; i < count; i++)
        p = stpcpy(p, close);
}

static void test_deep_templates_are_refused(void **state)
{
    (void)state;
    static const char *const shapes[][3] = {
        {"{{ ", "(", ")"},
        {"{{ ", "[", "]"},
        {"{{ ", "not ", ""},
        {"{{ ", "-", ""},
        {"{{ ", "1 + ", ""},
        {"{{ ", "1 if 1 else ", ""},
        {"{{ 1", "|abs", ""},
        {"{{ a", ".b", ""},
        {"", "{% if 1 %}", "{% endif %}"},
        {"", "{% for a in b %}", "{% endfor %}"},
        {"{% set ", "(", ",)"},
        {"{{ ", "{1:", "}"},
        {"{{ a", "()", ""},
        {"{{ a", "[0]", ""},
    };
    char *text = malloc(1 << 20), *whole = malloc(1 << 20);
    assert_non_null(text);
    assert_non_null(whole);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct chat_template *t = NULL;
        struct error err = {0};
        nested(text, shapes[i][1], 10000, "a", shapes[i][2]);
        snprintf(whole, 1 << 20, "%s%s }}", shapes[i][0], text);
        int r = chat_template_parse(&t, whole, strlen(whole), &err);
        if (r != -E2BIG && r != -EINVAL)
            fail_msg("%s...: %d %s", shapes[i][1], r, err.text);
        assert_null(t);
    }
    free(text);
    free(whole);
}

static void test_deep_contexts_are_refused(void **state)
{
    (void)state;
    struct chat_template *t = NULL;
    struct error err = {0};
    struct buf out;
    json_t *inner = json_array();
    for (int i = 0; i < 1500; i++) {
        json_t *outer = json_array();
        json_array_append_new(outer, inner);
        inner = outer;
    }
    json_t *context = json_pack("{s:o}", "messages", inner);
    buf_init(&out, 1000);
    assert_int_equal(chat_template_parse(&t, "x", 1, &err), 0);
    assert_int_equal(chat_template_render(t, context, NOW_S, NULL, &out, &err), -E2BIG);
    chat_template_free(t);
    buf_free(&out);
    json_decref(context);
}

static void test_bad_templates(void **state)
{
    (void)state;
    struct chat_template *t = NULL;
    struct error err = {0};
    char *big = calloc(1, CHAT_TEMPLATE_BYTES_MAX + 1);
    assert_non_null(big);
    memset(big, 'x', CHAT_TEMPLATE_BYTES_MAX + 1);
    assert_int_equal(chat_template_parse(&t, big, CHAT_TEMPLATE_BYTES_MAX + 1, &err), -E2BIG);
    assert_int_equal(chat_template_parse(&t, "a\xff", 2, &err), -EINVAL);
    assert_int_equal(chat_template_parse(&t, "{{ '\\ud800' }}", 14, &err), -EINVAL);
    assert_int_equal(chat_template_parse(&t, "{{ 99999999999999999999 }}", 26, &err), -EINVAL);
    assert_null(t);
    assert_int_equal(chat_template_parse(&t, big, CHAT_TEMPLATE_BYTES_MAX, NULL), 0);
    chat_template_free(t);
    chat_template_free(NULL);
    free(big);
    static const char *const overflows[] = {
        "{{ 9223372036854775807 + 1 }}",          "{{ -9223372036854775807 - 2 }}",
        "{{ 9223372036854775807 * 2 }}",          "{{ 10 ** 19 }}",
        "{{ (-9223372036854775807 - 1) // -1 }}", "{{ -(-9223372036854775807 - 1) }}",
    };
    for (size_t i = 0; i < sizeof overflows / sizeof overflows[0]; i++)
        assert_int_equal(render_text(overflows[i], NULL, &err), -EINVAL);
}

/* An error leaves the output as it was, and names its line. */
static void test_errors(void **state)
{
    (void)state;
    struct error err = {0};
    struct buf out;
    json_t *context = json_object();
    buf_init(&out, 100);
    assert_int_equal(buf_append_str(&out, "before"), 0);
    static const char text[] = "abc\n\n{{ nope.x }}";
    assert_int_equal(render(text, strlen(text), context, NOW_S, NULL, &out, &err), -EINVAL);
    assert_string_equal(out.data, "before");
    assert_string_equal(err.text, "chat template, line 3: 'nope' is undefined");
    static const char raises[] = "abc{{ raise_exception('No, thanks.') }}";
    assert_int_equal(render(raises, strlen(raises), context, NOW_S, NULL, &out, &err), -EINVAL);
    assert_string_equal(err.text, "No, thanks.");
    static const char big[] = "{{ 'x' * 95 }}";
    assert_int_equal(render(big, strlen(big), context, NOW_S, NULL, &out, &err), -E2BIG);
    assert_string_equal(out.data, "before");
    buf_free(&out);
    json_decref(context);
}

/* A token that the tokenizer lacks is undefined, not empty; the rest is there and none. */
static void test_prompt_variables(void **state)
{
    (void)state;
    static const char text[] = "{{ bos_token is defined }} {{ eos_token }} {{ documents is none }} "
                               "{{ tools is none }} {{ add_generation_prompt }}";
    struct chat_template *t = NULL;
    struct error err = {0};
    struct buf out;
    const char *param = NULL;
    assert_int_equal(chat_template_parse(&t, text, strlen(text), NULL), 0);
    struct chat_prompt p = {.template = t, .bos_token = "", .eos_token = "</s>", .now_s = NOW_S};
    json_t *request = json_pack("{s:[]}", "messages");
    buf_init(&out, 100);
    assert_int_equal(chat_prompt_render(&p, request, &out, &param, &err), 0);
    assert_string_equal(out.data, "False </s> True True True");
    buf_free(&out);
    json_decref(request);
    chat_template_free(t);
}

/* What a request holds that no template can be given, and a template's own refusal. */
static void test_prompt_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *request, *param, *sentence;
    } cases[] = {
        {"{'messages':[{'role':'user'},{'role':'assistant','tool_calls':[{'function':{"
         "'arguments':'{}'}},{'function':{'arguments':'{'}}]}]}",
         "messages", "messages[1].tool_calls[1].function.arguments must be a JSON object"},
        {"{'messages':[{'role':'assistant','tool_calls':[{'function':{'arguments':'[1]'}}]}]}",
         "messages", "messages[0].tool_calls[0].function.arguments must be a JSON object"},
        {"{'messages':[{'role':'user','content':[{'type':'text'}]}]}", "messages",
         "messages[0].content holds a part without text"},
        {"{'messages':[{'role':'user'}],'chat_template_kwargs':[1]}", "chat_template_kwargs",
         "chat_template_kwargs must be an object"},
        {"{'messages':[{'role':'user'}],'chat_template_kwargs':{'tools':[]}}",
         "chat_template_kwargs",
         "chat_template_kwargs cannot hold tools, which is a field of the request"},
        {"{'messages':[{'role':'user'}],'chat_template_kwargs':{'no':'Not so.'}}", "messages",
         "the chat template refuses these messages: Not so."},
    };
    static const char text[] =
        "{{ messages[0].role }}{% if no %}{{ raise_exception(no) }}{% endif %}";
    struct chat_template *t = NULL;
    assert_int_equal(chat_template_parse(&t, text, strlen(text), NULL), 0);
    struct chat_prompt p = {.template = t, .bos_token = "", .eos_token = "", .now_s = NOW_S};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[512];
        struct error err = {0};
        struct buf out;
        const char *param = NULL;
        snprintf(json, sizeof json, "%s", cases[i].request);
        for (char *c = json; *c != '\0'; c++)
            *c = *c == '\'' ? '"' : *c;
        json_t *request = json_loads(json, 0, NULL);
        assert_non_null(request);
        buf_init(&out, 100);
        assert_int_equal(chat_prompt_render(&p, request, &out, &param, &err), -EINVAL);
        assert_string_equal(err.text, cases[i].sentence);
        assert_string_equal(param, cases[i].param);
        assert_int_equal(out.len, 0);
        buf_free(&out);
        json_decref(request);
    }
    chat_template_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_limits_hold),
        cmocka_unit_test(test_each_limit),
        cmocka_unit_test(test_deep_templates_are_refused),
        cmocka_unit_test(test_deep_contexts_are_refused),
        cmocka_unit_test(test_bad_templates),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_prompt_variables),
        cmocka_unit_test(test_prompt_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
