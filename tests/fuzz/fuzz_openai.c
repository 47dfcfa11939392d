/* Bodies through the reading of OpenAI's envelope. What is accepted must be in range, and an answer
 * or a refusal made from it must be JSON again. The first byte chooses the kind. */
#include "gateway/openai.h"
#include "gateway/skim.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ANSWER_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const struct buf *b)
{
    json_error_t why;
    json_t *root = json_loadb(b->data, b->len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (root == NULL)
        fprintf(stderr, "%s: %s\n", why.text, b->data);
    assert(root != NULL);
    json_decref(root);
}

static void check_request(const struct openai_request *r)
{
    const struct infer_request *q = &r->infer;
    assert(q->model != NULL || q->adapter_id != NULL || q->lora_id != NULL);
    assert(r->name != NULL && r->name[0] != '\0');
    assert(q->adapter_scale >= 0 && q->adapter_scale <= 1);
    assert(q->choices >= 1 && q->choices <= INFER_CHOICES_MAX);
    assert(q->min_tokens <= q->max_tokens);
    assert(fabsf(q->presence_penalty) <= 2 && fabsf(q->frequency_penalty) <= 2);
    assert(q->repetition_penalty > 0 && q->repetition_penalty <= 100);
    assert(q->unknown_count <= INFER_UNKNOWN_MAX);
    assert(q->temperature >= 0 && q->temperature <= 2);
    assert(q->top_p > 0 && q->top_p <= 1);
    assert(q->min_p >= 0 && q->min_p < 1);
    assert(q->top_k <= INT32_MAX);
    assert(q->top_logprobs <= INFER_TOP_LOGPROBS_MAX);
    assert(q->max_tokens == INFER_TOKENS_UNSET || q->max_tokens <= INT32_MAX);
    assert(q->max_tokens > 0 || q->echo);
    assert(!r->include_usage || q->stream);
}

/* The body's own bytes stand for a model's tokens: nothing can be expected of those either. */
static void check_answer(const struct openai_request *r, const char *text, size_t len)
{
    struct openai_reply a;
    struct buf out;
    const struct infer_usage usage = {1, 1, 0};
    const struct infer_alternative top[] = {{text, (uint32_t)(len / 2), -1}, {text, 0, NAN}};
    const struct infer_token token = {text, (uint32_t)len, true, -0.5f, 2, top};
    buf_init(&out, ANSWER_MAX);
    openai_reply_init(&a, ANSWER_MAX);
    int e = openai_reply_begin(&a, r, "id", 1);
    for (uint32_t i = 0; e == 0 && i < r->infer.choices; i++) {
        const struct infer_piece p = {.choice = i,
                                      .text = text,
                                      .text_bytes = len,
                                      .tokens = &token,
                                      .token_count = 1,
                                      .finish = "stop",
                                      .usage = usage};
        e = r->infer.stream ? openai_reply_event(&a, &out, &p) : openai_reply_add(&a, &p);
        assert(e != 0 || !r->infer.stream || memcmp(out.data, "data: ", 6) == 0);
    }
    if (e == 0 && !r->infer.stream)
        e = openai_reply_whole(&a, &out, &usage);
    if (e == 0 && !r->infer.stream)
        check_json(&out);
    openai_reply_free(&a);
    buf_free(&out);
}

/* jansson is the oracle of what JSON is. It differs where it cannot hold a number, and it loses a
 * raw NUL behind one. */
static void check_against_jansson(const char *body, size_t len)
{
    json_error_t why;
    struct error err = {0};
    bool valid = skim_check(body, len, 32, &err) == 0;
    json_t *root =
        json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);
    if (root == NULL && json_error_code(&why) == json_error_numeric_overflow)
        return;
    if (memchr(body, 0, len) != NULL) {
        assert(!valid);
        json_decref(root);
        return;
    }
    bool deep = strstr(err.text, "deeper") != NULL;
    if (valid != (root != NULL) && !deep)
        fprintf(stderr, "skim: %s, jansson: %s: %.*s\n", err.text, root != NULL ? "" : why.text,
                (int)len, body);
    assert(valid == (root != NULL) || deep);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct openai_request request;
    struct openai_refusal refusal;
    if (size == 0)
        return 0;
    const char *body = (const char *)data + 1;
    size_t len = size - 1;
    enum infer_kind kind = data[0] & 1 ? INFER_CHAT : INFER_COMPLETION;
    check_against_jansson(body, len);
    if (openai_request_parse(&request, kind, body, len, 32, &refusal) == 0) {
        check_request(&request);
        check_answer(&request, body, len < 4096 ? len : 4096);
        openai_request_done(&request);
        return 0;
    }
    struct buf out;
    buf_init(&out, ANSWER_MAX);
    assert(refusal.status == 400);
    assert(refusal.why.text[0] != '\0');
    assert(openai_append_error(&out, refusal.status, refusal.code, refusal.param,
                               refusal.why.text) == 0);
    check_json(&out);
    buf_free(&out);
    return 0;
}
