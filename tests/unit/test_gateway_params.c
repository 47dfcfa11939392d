/* What a request may say: every field's values, the ways to name a function, unknown fields. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/openai.h"

#define DEPTH_MAX 16

static int parse(struct openai_request *r, enum infer_kind kind, const char *body,
                 struct openai_refusal *refusal)
{
    return openai_request_parse(r, kind, body, strlen(body), DEPTH_MAX, refusal);
}

/* --- parameters --- */

struct parameter {
    const char *json;  /* after the fields that are always there */
    const char *param; /* NULL: accepted; "": refused without a parameter */
};

static const struct parameter for_both[] = {
    {"", NULL},
    {",\"max_tokens\":5", NULL},
    {",\"max_tokens\":null", NULL},
    {",\"max_tokens\":0", "max_tokens"},
    {",\"max_tokens\":-1", "max_tokens"},
    {",\"max_tokens\":1.5", "max_tokens"},
    {",\"max_tokens\":\"5\"", "max_tokens"},
    {",\"max_tokens\":true", "max_tokens"},
    {",\"max_tokens\":2147483648", "max_tokens"},
    {",\"max_tokens\":99999999999999999999", ""},
    {",\"temperature\":0", NULL},
    {",\"temperature\":2", NULL},
    {",\"temperature\":null", NULL},
    {",\"temperature\":2.01", "temperature"},
    {",\"temperature\":-0.1", "temperature"},
    {",\"temperature\":\"hot\"", "temperature"},
    {",\"temperature\":1e999", ""},
    {",\"temperature\":NaN", ""},
    {",\"top_p\":1", NULL},
    {",\"top_p\":1e-300", NULL},
    {",\"top_p\":0", "top_p"},
    {",\"top_p\":1.1", "top_p"},
    {",\"min_p\":0", NULL},
    {",\"min_p\":0.9999999999999", NULL},
    {",\"min_p\":1", "min_p"},
    {",\"top_k\":-1", NULL},
    {",\"top_k\":0", NULL},
    {",\"top_k\":40", NULL},
    {",\"top_k\":-2", "top_k"},
    {",\"top_k\":1.0", "top_k"},
    {",\"seed\":-9223372036854775808", NULL},
    {",\"seed\":9223372036854775807", NULL},
    {",\"seed\":\"1\"", "seed"},
    {",\"stop\":null", NULL},
    {",\"stop\":\"x\"", NULL},
    {",\"stop\":[]", NULL},
    {",\"stop\":[\"a\",\"b\",\"c\",\"d\"]", NULL},
    {",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "stop"},
    {",\"stop\":\"\"", "stop"},
    {",\"stop\":[\"\"]", "stop"},
    {",\"stop\":[1]", "stop"},
    {",\"stop\":1", "stop"},
    {",\"stream\":true", NULL},
    {",\"stream\":1", "stream"},
    {",\"stream\":true,\"stream_options\":{\"include_usage\":true}", NULL},
    {",\"stream\":true,\"stream_options\":{}", NULL},
    {",\"stream\":true,\"stream_options\":null", NULL},
    {",\"stream_options\":{\"include_usage\":true}", "stream_options"},
    {",\"stream\":true,\"stream_options\":1", "stream_options"},
    {",\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage"},
    {",\"stream\":true,\"stream_options\":{\"include_usage\":true,"
     "\"continuous_usage_stats\":true}",
     NULL},
    {",\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":true}",
     "stream_options.continuous_usage_stats"},
    {",\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":2}",
     "stream_options.continuous_usage_stats"},
    {",\"n\":1", NULL},
    {",\"n\":128", NULL},
    {",\"n\":0", "n"},
    {",\"n\":129", "n"},
    {",\"n\":1.5", "n"},
    {",\"best_of\":1", NULL},
    {",\"best_of\":2", "best_of"},
    {",\"best_of\":2,\"n\":2", NULL},
    {",\"best_of\":3,\"n\":2", "best_of"},
    {",\"presence_penalty\":0.0", NULL},
    {",\"presence_penalty\":-2", NULL},
    {",\"presence_penalty\":2.01", "presence_penalty"},
    {",\"presence_penalty\":\"1\"", "presence_penalty"},
    {",\"frequency_penalty\":2", NULL},
    {",\"frequency_penalty\":-2.01", "frequency_penalty"},
    {",\"repetition_penalty\":1e-9", NULL},
    {",\"repetition_penalty\":0", "repetition_penalty"},
    {",\"repetition_penalty\":100.5", "repetition_penalty"},
    {",\"min_tokens\":0", NULL},
    {",\"min_tokens\":-1", "min_tokens"},
    {",\"max_tokens\":4,\"min_tokens\":4", NULL},
    {",\"max_tokens\":4,\"min_tokens\":5", "min_tokens"},
    {",\"ignore_eos\":true", NULL},
    {",\"ignore_eos\":1", "ignore_eos"},
    {",\"skip_special_tokens\":false", NULL},
    {",\"skip_special_tokens\":0", "skip_special_tokens"},
    {",\"stop_token_ids\":[0,2147483647]", NULL},
    {",\"stop_token_ids\":[]", NULL},
    {",\"stop_token_ids\":1", "stop_token_ids"},
    {",\"stop_token_ids\":[-1]", "stop_token_ids"},
    {",\"stop_token_ids\":[2147483648]", "stop_token_ids"},
    {",\"stop_token_ids\":[\"1\"]", "stop_token_ids"},
    {",\"stop_token_ids\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]",
     "stop_token_ids"},
    {",\"logit_bias\":{}", NULL},
    {",\"logit_bias\":null", NULL},
    {",\"logit_bias\":{\"1\":5,\"2147483647\":-100.0}", NULL},
    {",\"logit_bias\":{\"2147483648\":5}", "logit_bias"},
    {",\"logit_bias\":{\"\":5}", "logit_bias"},
    {",\"logit_bias\":{\"-1\":5}", "logit_bias"},
    {",\"logit_bias\":{\"one\":5}", "logit_bias"},
    {",\"logit_bias\":{\"1\":100.5}", "logit_bias"},
    {",\"logit_bias\":{\"1\":-101}", "logit_bias"},
    {",\"logit_bias\":{\"1\":\"5\"}", "logit_bias"},
    {",\"logit_bias\":[5]", "logit_bias"},
    {",\"adapter_id\":\"f\"", NULL},
    {",\"adapter_id\":null", NULL},
    {",\"adapter_id\":\"\"", "adapter_id"},
    {",\"adapter_id\":1", "adapter_id"},
    {",\"lora\":[{\"id\":\"f\",\"scale\":0.5}]", NULL},
    {",\"lora\":[{\"id\":\"f\",\"scale\":1}]", NULL},
    {",\"lora\":[{\"id\":\"f\"}]", "lora[0].scale"},
    {",\"lora\":[{\"id\":\"f\",\"scale\":1.1}]", "lora[0].scale"},
    {",\"lora\":[{\"id\":\"f\",\"scale\":-0.1}]", "lora[0].scale"},
    {",\"lora\":[{\"id\":0,\"scale\":1}]", "lora[0].id"},
    {",\"lora\":[{\"scale\":1}]", "lora[0].id"},
    {",\"lora\":[]", "lora"},
    {",\"lora\":[1]", "lora"},
    {",\"lora\":{\"id\":\"f\",\"scale\":1}", "lora"},
    {",\"lora\":[{\"id\":\"f\",\"scale\":1},{\"id\":\"g\",\"scale\":1}]", "lora"},
    {",\"merged_adapters\":{}", "merged_adapters"},
    {",\"lora_path\":\"f\"", "lora_path"},
    {",\"adapter\":\"f\"", "adapter"},
    {",\"lora_adapter_name\":\"f\"", "lora_adapter_name"},
    {",\"functions\":[{}]", "functions"},
    {",\"audio\":{}", "audio"},
    {",\"web_search_options\":{}", "web_search_options"},
    {",\"response_format\":{\"type\":\"text\"}", NULL},
    {",\"response_format\":{\"type\":\"json_object\"}", "response_format"},
    {",\"response_format\":\"text\"", "response_format"},
    {",\"tools\":[]", NULL},
    {",\"tools\":{}", "tools"},
    {",\"tools\":[1]", "tools"},
    {",\"tool_choice\":\"auto\"", NULL},
    {",\"tool_choice\":\"none\"", NULL},
    {",\"tool_choice\":\"required\"", "tool_choice"},
    {",\"tool_choice\":{\"type\":\"function\"}", "tool_choice"},
    {",\"suffix\":null", NULL},
    {",\"suffix\":\"x\"", "suffix"},
    {",\"user\":\"me\"", NULL},
    {",\"user\":1", "user"},
    {",\"guided_json\":{}", "guided_json"},
    {",\"parallel_tool_calls\":true,\"metadata\":{\"a\":1},\"never_heard_of\":[1]", NULL},
    {",\"model\":\"again\"", ""},
    {",\"x\":{\"a\":1,\"a\":2}", ""},
};

static const struct parameter for_completions[] = {
    {",\"echo\":true,\"max_tokens\":0", NULL},
    {",\"echo\":\"yes\"", "echo"},
    {",\"logprobs\":0", NULL},
    {",\"logprobs\":20", NULL},
    {",\"logprobs\":null", NULL},
    {",\"logprobs\":21", "logprobs"},
    {",\"logprobs\":-1", "logprobs"},
    {",\"logprobs\":true", "logprobs"},
    {",\"tools\":[{\"type\":\"function\"}]", "tools"},
};

static const struct parameter for_chats[] = {
    {",\"logprobs\":true", NULL},
    {",\"logprobs\":true,\"top_logprobs\":20", NULL},
    {",\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
    {",\"logprobs\":1", "logprobs"},
    {",\"top_logprobs\":2", "top_logprobs"},
    {",\"top_logprobs\":0", NULL},
    {",\"max_completion_tokens\":7", NULL},
    {",\"max_completion_tokens\":0", "max_completion_tokens"},
    {",\"max_completion_tokens\":7,\"max_tokens\":7", "max_completion_tokens"},
    {",\"echo\":true", "echo"},
    {",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]", NULL},
};

static void check_parameters(enum infer_kind kind, const struct parameter *table, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct openai_request r;
        struct openai_refusal refusal;
        char body[1024];
        snprintf(body, sizeof body, "{\"model\":\"m\",%s%s}",
                 kind == INFER_CHAT ? "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
                                    : "\"prompt\":\"x\"",
                 table[i].json);
        int e = parse(&r, kind, body, &refusal);
        if (e == 0)
            openai_request_done(&r);
        const char *got = e == 0 ? NULL : refusal.param;
        const char *want = table[i].param;
        if ((got == NULL) != (want == NULL) || (got != NULL && strcmp(got, want) != 0))
            fail_msg("%s: refused for %s (%s), expected %s", body, got != NULL ? got : "nothing",
                     e == 0 ? "" : refusal.why.text, want != NULL ? want : "nothing");
        if (e < 0) {
            assert_int_equal(refusal.status, 400);
            assert_true(refusal.why.text[0] != '\0');
        }
    }
}

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static void test_parameters(void **state)
{
    (void)state;
    check_parameters(INFER_COMPLETION, for_both, COUNT(for_both));
    check_parameters(INFER_CHAT, for_both, COUNT(for_both));
    check_parameters(INFER_COMPLETION, for_completions, COUNT(for_completions));
    check_parameters(INFER_CHAT, for_chats, COUNT(for_chats));
}

static void test_subjects(void **state)
{
    (void)state;
    static const struct {
        enum infer_kind kind;
        const char *body;
        const char *param;
    } table[] = {
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":\"\"}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":\"a\\u0000b\"}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\"]}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,2,3]}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1,2,3]]}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1],[2]]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[[]]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,-1]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,2147483648]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,\"a\"]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1.5]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":{}}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":null}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\"}", "prompt"},
        {INFER_COMPLETION, "{\"prompt\":\"a\"}", "model"},
        {INFER_COMPLETION, "{\"model\":1,\"prompt\":\"a\"}", "model"},
        {INFER_COMPLETION, "{\"model\":\"\",\"prompt\":\"a\"}", "model"},
        {INFER_COMPLETION, "{\"model\":\"a\\u0000b\",\"prompt\":\"a\"}", "model"},
        {INFER_CHAT, "{\"model\":\"m\"}", "messages"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[]}", "messages"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":\"hi\"}", "messages"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[1]}", "messages[0]"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{}]}", "messages[0].role"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}", NULL},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":null}]}", NULL},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":1}]}",
         "messages[0].content"},
        {INFER_CHAT,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
         "\"text\":\"x\"}]}]}",
         NULL},
        {INFER_CHAT,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"},{\"role\":\"user\",\"content\":[{"
         "\"type\":\"image_url\"}]}]}",
         "messages[1].content"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[1]}]}",
         "messages[0].content"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        struct openai_request r;
        struct openai_refusal refusal;
        int e = parse(&r, table[i].kind, table[i].body, &refusal);
        if (e == 0)
            openai_request_done(&r);
        if ((e == 0) != (table[i].param == NULL) ||
            (e < 0 && strcmp(refusal.param, table[i].param) != 0))
            fail_msg("%s: %d %s (%s)", table[i].body, e, e < 0 ? refusal.param : "",
                     e < 0 ? refusal.why.text : "");
    }
}

static void test_values(void **state)
{
    (void)state;
    struct openai_request r;
    struct openai_refusal refusal;
    assert_int_equal(parse(&r, INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":\"x\"}", &refusal),
                     0);
    assert_string_equal(r.infer.model, "m");
    assert_int_equal(r.infer.max_tokens, 16);
    assert_true(r.infer.temperature == 1 && r.infer.top_p == 1 && r.infer.min_p == 0);
    assert_int_equal(r.infer.top_k, 0);
    assert_false(r.infer.has_seed || r.infer.stream || r.infer.echo || r.infer.logprobs);
    openai_request_done(&r);

    assert_int_equal(parse(&r, INFER_CHAT,
                           "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}],\"stream\":true,"
                           "\"stream_options\":{\"include_usage\":true},\"seed\":-1,\"top_k\":-1,"
                           "\"min_p\":0.9999999999999,\"top_p\":1e-300,\"temperature\":0.5,"
                           "\"logprobs\":true,\"top_logprobs\":3}",
                           &refusal),
                     0);
    assert_int_equal(r.infer.max_tokens, INFER_TOKENS_UNSET);
    assert_true(r.infer.has_seed && r.infer.seed == UINT64_MAX);
    assert_int_equal(r.infer.top_k, 0);
    assert_true(r.infer.min_p < 1 && r.infer.min_p > 0.99f);
    assert_true(r.infer.top_p > 0);
    assert_true(r.infer.temperature == 0.5f);
    assert_true(r.infer.stream && r.include_usage && r.infer.logprobs);
    assert_int_equal(r.infer.top_logprobs, 3);
    openai_request_done(&r);

    assert_int_equal(parse(&r, INFER_COMPLETION,
                           "{\"model\":\"m\",\"prompt\":\"x\",\"logprobs\":0,\"echo\":true,"
                           "\"max_tokens\":0}",
                           &refusal),
                     0);
    assert_true(r.infer.logprobs && r.infer.echo && r.infer.top_logprobs == 0);
    assert_int_equal(r.infer.max_tokens, 0);
    assert_true(r.infer.choices == 1 && r.infer.repetition_penalty == 1);
    assert_false(r.infer.ignore_eos || r.infer.show_special);
    openai_request_done(&r);

    assert_int_equal(parse(&r, INFER_CHAT,
                           "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}],\"n\":3,"
                           "\"max_tokens\":9,\"min_tokens\":8,\"ignore_eos\":true,"
                           "\"skip_special_tokens\":false,\"presence_penalty\":0.5,"
                           "\"frequency_penalty\":-0.25,\"repetition_penalty\":1.5,\"stream\":true,"
                           "\"stream_options\":{\"include_usage\":true,"
                           "\"continuous_usage_stats\":true}}",
                           &refusal),
                     0);
    assert_int_equal(r.infer.choices, 3);
    assert_int_equal(r.infer.min_tokens, 8);
    assert_true(r.infer.ignore_eos && r.infer.show_special && r.continuous_usage);
    assert_true(r.infer.presence_penalty == 0.5f && r.infer.frequency_penalty == -0.25f);
    assert_true(r.infer.repetition_penalty == 1.5f);
    openai_request_done(&r);
}

/* --- names and unknown fields --- */

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *model, *adapter_id, *lora_id, *name;
        float scale;
    } table[] = {
        {"\"model\":\"m\"", "m", NULL, NULL, "m", 1},
        {"\"adapter_id\":\"f\"", NULL, "f", NULL, "f", 1},
        {"\"model\":\"\",\"adapter_id\":\"f\"", NULL, "f", NULL, "f", 1},
        {"\"model\":null,\"lora\":[{\"id\":\"f\",\"scale\":0}]", NULL, NULL, "f", "f", 0},
        {"\"model\":\"b\",\"adapter_id\":\"f\",\"lora\":[{\"scale\":0.25,\"id\":\"g\"}]", "b", "f",
         "g", "b", 0.25f},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        struct openai_request r;
        struct openai_refusal refusal;
        char body[256];
        snprintf(body, sizeof body, "{%s,\"prompt\":\"x\"}", table[i].fields);
        if (parse(&r, INFER_COMPLETION, body, &refusal) < 0)
            fail_msg("%s: %s", body, refusal.why.text);
        const char *got[] = {r.infer.model, r.infer.adapter_id, r.infer.lora_id, r.name};
        const char *want[] = {table[i].model, table[i].adapter_id, table[i].lora_id, table[i].name};
        for (int n = 0; n < 4; n++) {
            assert_int_equal(got[n] == NULL, want[n] == NULL);
            if (got[n] != NULL)
                assert_string_equal(got[n], want[n]);
        }
        assert_true(r.infer.adapter_scale == table[i].scale);
        openai_request_done(&r);
    }
}

static void test_unknown_fields(void **state)
{
    (void)state;
    struct openai_request r;
    struct openai_refusal refusal;
    const char *body = "{\"model\":\"m\",\"prompt\":\"x\",\"user\":\"u\",\"suffix\":null,"
                       "\"top_logprobs\":3,\"store\":true,\"a\":1}";
    assert_int_equal(parse(&r, INFER_COMPLETION, body, &refusal), 0);
    assert_int_equal(r.infer.unknown_count, 3); /* a completion has no top_logprobs */
    assert_string_equal(r.infer.unknown[0], "top_logprobs");
    assert_string_equal(r.infer.unknown[1], "store");
    assert_string_equal(r.infer.unknown[2], "a");
    openai_request_done(&r);

    body = "{\"model\":\"m\",\"prompt\":\"x\",\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,"
           "\"g\":1,\"h\":1,\"i\":1}";
    assert_int_equal(parse(&r, INFER_COMPLETION, body, &refusal), 0);
    assert_int_equal(r.infer.unknown_count, INFER_UNKNOWN_MAX);
    openai_request_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters),     cmocka_unit_test(test_subjects),
        cmocka_unit_test(test_values),         cmocka_unit_test(test_names),
        cmocka_unit_test(test_unknown_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
