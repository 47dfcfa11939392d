/* See answer.h. This is where tenants' text is parsed, and why a worker has a sandbox. */
#include "worker/answer.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define PROMPT_BYTES_MAX (16u << 20)

static int refuse(struct answer_refusal *refusal, struct error *err, const char *code,
                  const char *param, const char *message)
{
    *refusal = (struct answer_refusal){.status = 400, .code = code, .param = param};
    return error_set(err, -EINVAL, "%s", message);
}

/* --- prompt --- */

static int read_ids(const json_t *array, struct token_list *tokens, struct answer_refusal *refusal,
                    struct error *err)
{
    size_t i;
    json_t *v;
    json_array_foreach(array, i, v)
    {
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id > UINT32_MAX - 1)
            return refuse(refusal, err, "", "prompt", "prompt must hold token ids only");
        int r = token_list_append(tokens, (uint32_t)id);
        if (r < 0)
            return error_set(err, r, "the prompt has more tokens than the context holds");
    }
    return 0;
}

static int read_completion(const struct text_model *m, const json_t *body,
                           struct token_list *tokens, struct buf *echo,
                           struct answer_refusal *refusal, struct error *err)
{
    const json_t *prompt = json_object_get(body, "prompt");
    /* A list of exactly one prompt is that prompt. */
    if (json_array_size(prompt) == 1 && !json_is_integer(json_array_get(prompt, 0)))
        prompt = json_array_get(prompt, 0);
    if (json_is_string(prompt)) {
        const char *text = json_string_value(prompt);
        size_t len = json_string_length(prompt);
        int r = tokenizer_encode(m->tokenizer, text, len, TOKENIZER_ADD_SPECIAL, tokens, err);
        return r < 0 ? r : buf_append(echo, text, len);
    }
    if (!json_is_array(prompt))
        return refuse(refusal, err, "", "prompt", "prompt must be a string or token ids");
    int r = read_ids(prompt, tokens, refusal, err);
    struct detokenizer d;
    detokenizer_init(&d, m->tokenizer, false);
    for (size_t i = 0; r == 0 && i < tokens->count; i++)
        r = detokenizer_push(&d, tokens->ids[i], echo);
    if (r == 0)
        r = detokenizer_flush(&d, echo);
    detokenizer_free(&d);
    return r;
}

static int read_chat(const struct text_model *m, const struct wire_submit *s, json_t *body,
                     struct token_list *tokens, struct answer_refusal *refusal, struct error *err)
{
    if (m->chat == NULL)
        return refuse(refusal, err, "", "messages",
                      "this function's backbone has no chat template: use /v1/completions");
    struct chat_prompt prompt = {.template = m->chat,
                                 .bos_token = m->bos_token,
                                 .eos_token = m->eos_token,
                                 .now_s = (int64_t)(s->wall_us / 1000000)};
    struct buf text;
    buf_init(&text, PROMPT_BYTES_MAX);
    const char *param = "";
    int r = chat_prompt_render(&prompt, body, &text, &param, err);
    if (r == -EINVAL || r == -E2BIG) {
        /* Its limits are not the context's, of which -E2BIG would speak. */
        *refusal = (struct answer_refusal){.status = 400, .code = "", .param = param};
        r = -EINVAL;
    }
    if (r == 0)
        r = tokenizer_encode(m->tokenizer, text.data != NULL ? text.data : "", text.len, 0, tokens,
                             err);
    buf_free(&text);
    return r;
}

/* --- stop strings --- */

static int add_stop(struct answer *a, const json_t *v, struct answer_refusal *refusal,
                    struct error *err)
{
    size_t len = json_string_length(v);
    if (!json_is_string(v) || len == 0 || len > ANSWER_STOP_BYTES_MAX ||
        a->stop_count == ANSWER_STOPS_MAX)
        return refuse(refusal, err, "", "stop",
                      "stop must be up to 4 non-empty strings of at most 1024 bytes");
    char *copy = malloc(len + 1);
    if (copy == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    memcpy(copy, json_string_value(v), len + 1);
    a->stops[a->stop_count] = copy;
    a->stop_bytes[a->stop_count++] = len;
    return 0;
}

static int read_stops(struct answer *a, const json_t *body, struct answer_refusal *refusal,
                      struct error *err)
{
    const json_t *stop = json_object_get(body, "stop");
    if (stop == NULL || json_is_null(stop))
        return 0;
    if (json_is_string(stop))
        return add_stop(a, stop, refusal, err);
    size_t i;
    json_t *v;
    int r = json_is_array(stop) ? 0 : refuse(refusal, err, "", "stop", "stop must be strings");
    json_array_foreach(stop, i, v)
    {
        if (r == 0)
            r = add_stop(a, v, refusal, err);
    }
    return r;
}

static int read_body(struct answer *a, const struct text_model *m, const struct wire_submit *s,
                     json_t *body, struct token_list *tokens, struct buf *echo,
                     struct answer_refusal *refusal, struct error *err)
{
    int r = read_stops(a, body, refusal, err);
    if (r < 0)
        return r;
    r = (s->flags & WIRE_CHAT) ? read_chat(m, s, body, tokens, refusal, err)
                               : read_completion(m, body, tokens, echo, refusal, err);
    if (r == -E2BIG || (r == 0 && tokens->count > m->context_max)) {
        *refusal = (struct answer_refusal){.status = 400,
                                           .code = "context_length_exceeded",
                                           .param = (s->flags & WIRE_CHAT) ? "messages" : "prompt"};
        return error_set(err, -E2BIG,
                         "the prompt is longer than the context of %u tokens: shorten it",
                         m->context_max);
    }
    if (r == 0 && tokens->count == 0)
        r = refuse(refusal, err, "", "prompt", "the prompt is empty");
    return r;
}

int answer_open(struct answer *a, const struct text_model *m, const struct wire_submit *s,
                const char *body, size_t body_bytes, struct token_list *tokens, struct buf *echo,
                struct answer_refusal *refusal, struct error *err)
{
    *refusal = (struct answer_refusal){.status = 500, .code = "", .param = ""};
    *a = (struct answer){
        .request = s->request, .active = true, .wants_tokens = (s->flags & WIRE_LOGPROBS) != 0};
    detokenizer_init(&a->detokenizer, m->tokenizer, true);
    buf_init(&a->text, ANSWER_HELD_BYTES_MAX);
    tokens->count = 0;
    json_t *json = json_loadb(body, body_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    int r;
    if (json_is_object(json))
        r = read_body(a, m, s, json, tokens, echo, refusal, err);
    else
        r = refuse(refusal, err, "", "", "the body is not a JSON object");
    json_decref(json);
    if (r < 0) {
        answer_close(a);
        return r;
    }
    a->prompt_tokens = (uint32_t)tokens->count;
    return 0;
}

void answer_close(struct answer *a)
{
    if (!a->active)
        return;
    detokenizer_free(&a->detokenizer);
    buf_free(&a->text);
    for (uint32_t i = 0; i < a->stop_count; i++)
        free(a->stops[i]);
    *a = (struct answer){0};
}

/* --- text --- */

/* Where the earliest stop string begins in the held text, or SIZE_MAX. */
static size_t find_stop(const struct answer *a)
{
    size_t first = SIZE_MAX;
    for (uint32_t i = 0; i < a->stop_count; i++) {
        const char *at = memmem(a->text.data, a->text.len, a->stops[i], a->stop_bytes[i]);
        if (at != NULL && (size_t)(at - a->text.data) < first)
            first = (size_t)(at - a->text.data);
    }
    return first;
}

/* How many bytes at the end of the held text may be the beginning of a stop string. */
static size_t stop_prefix_bytes(const struct answer *a)
{
    size_t longest = 0;
    for (uint32_t i = 0; i < a->stop_count; i++) {
        size_t n = a->stop_bytes[i] - 1 < a->text.len ? a->stop_bytes[i] - 1 : a->text.len;
        while (n > longest && memcmp(a->text.data + a->text.len - n, a->stops[i], n) != 0)
            n--;
        if (n > longest)
            longest = n;
    }
    return longest;
}

/* Gives out what no stop string can claim any more. */
static int release(struct answer *a, bool all, struct buf *out)
{
    if (a->text.len == 0)
        return 0;
    size_t stop = find_stop(a);
    if (stop != SIZE_MAX) {
        int r = buf_append(out, a->text.data, stop);
        buf_clear(&a->text);
        return r < 0 ? r : 1;
    }
    size_t bytes = a->text.len - (all ? 0 : stop_prefix_bytes(a));
    int r = buf_append(out, a->text.data, bytes);
    if (r == 0)
        buf_consume(&a->text, bytes);
    return r;
}

int answer_push(struct answer *a, uint32_t token, struct buf *out)
{
    int r = detokenizer_push(&a->detokenizer, token, &a->text);
    return r < 0 ? r : release(a, false, out);
}

int answer_flush(struct answer *a, struct buf *out)
{
    int r = detokenizer_flush(&a->detokenizer, &a->text);
    return r < 0 ? r : release(a, true, out);
}
