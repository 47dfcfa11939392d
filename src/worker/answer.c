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

static int read_ids(const struct text_model *m, const json_t *array, struct token_list *tokens,
                    struct answer_refusal *refusal, struct error *err)
{
    size_t i;
    json_t *v;
    json_array_foreach(array, i, v)
    {
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= m->vocab_count)
            return refuse(refusal, err, "", "prompt",
                          "prompt must hold token ids of the vocabulary only");
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
    int r = read_ids(m, prompt, tokens, refusal, err);
    struct detokenizer d;
    detokenizer_init(&d, m->tokenizer, false);
    for (size_t i = 0; r == 0 && i < tokens->count; i++)
        r = detokenizer_push(&d, tokens->ids[i], echo);
    if (r == 0)
        r = detokenizer_flush(&d, echo);
    detokenizer_free(&d);
    return r;
}

static bool offers_tools(const json_t *body)
{
    const char *choice = json_string_value(json_object_get(body, "tool_choice"));
    bool none = choice != NULL && strcmp(choice, "none") == 0;
    return json_array_size(json_object_get(body, "tools")) > 0 && !none;
}

static int read_chat(const struct text_model *m, const struct wire_submit *s, json_t *body,
                     struct token_list *tokens, struct answer_refusal *refusal, struct error *err)
{
    if (m->chat == NULL)
        return refuse(refusal, err, "", "messages",
                      "this function's backbone has no chat template: use /v1/completions");
    if (!m->takes_tools && offers_tools(body))
        return refuse(refusal, err, "", "tools",
                      "this function's chat template takes no tools: leave tools out");
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

/* --- stop tokens and biases --- */

_Static_assert(MODEL_EOS_MAX + ANSWER_STOP_TOKEN_IDS_MAX <= ENGINE_STOP_TOKENS_MAX,
               "the engine has room for the backbone's and the request's");

static int read_stop_tokens(struct answer *a, const struct text_model *m, const json_t *body,
                            struct answer_refusal *refusal, struct error *err)
{
    const json_t *ids = json_object_get(body, "stop_token_ids");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *v = json_array_get(ids, i);
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= m->vocab_count || i == ANSWER_STOP_TOKEN_IDS_MAX)
            return refuse(refusal, err, "", "stop_token_ids",
                          "stop_token_ids must be up to 32 token ids of the vocabulary");
        a->engine.stop_tokens[a->engine.stop_token_count++] = (uint32_t)id;
    }
    return 0;
}

static int read_biases(struct answer *a, const struct text_model *m, json_t *body,
                       struct answer_refusal *refusal, struct error *err)
{
    json_t *biases = json_object_get(body, "logit_bias"), *v;
    size_t count = json_object_size(biases);
    const char *key;
    if (count == 0)
        return 0;
    a->biases = count <= ENGINE_BIASES_MAX ? calloc(count, sizeof *a->biases) : NULL;
    if (a->biases == NULL)
        return refuse(refusal, err, "", "logit_bias", "logit_bias has too many entries");
    a->engine.biases = a->biases;
    json_object_foreach(biases, key, v)
    {
        char *end;
        unsigned long long id = strtoull(key, &end, 10);
        if (*end != '\0' || id >= m->vocab_count || !json_is_number(v))
            return refuse(refusal, err, "", "logit_bias",
                          "logit_bias must map token ids of the vocabulary to numbers");
        a->biases[a->engine.bias_count++] =
            (struct engine_bias){(uint32_t)id, (float)json_number_value(v)};
    }
    return 0;
}

static int read_body(struct answer *a, const struct text_model *m, const struct wire_submit *s,
                     json_t *body, struct token_list *tokens, struct buf *echo,
                     struct answer_refusal *refusal, struct error *err)
{
    int r = read_stops(a, body, refusal, err);
    if (r == 0)
        r = read_stop_tokens(a, m, body, refusal, err);
    if (r == 0)
        r = read_biases(a, m, body, refusal, err);
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

static int open_choices(struct answer *a, const struct text_model *m, const struct wire_submit *s,
                        struct error *err)
{
    a->choices = calloc(s->choices, sizeof *a->choices);
    if (a->choices == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    for (; a->choice_count < s->choices; a->choice_count++) {
        struct answer_choice *c = &a->choices[a->choice_count];
        detokenizer_init(&c->detokenizer, m->tokenizer, !(s->flags & WIRE_SHOW_SPECIAL));
        buf_init(&c->text, ANSWER_HELD_BYTES_MAX);
    }
    a->choices_left = a->choice_count;
    return 0;
}

static int keep_prompt(struct answer *a, const struct token_list *tokens, struct error *err)
{
    a->prompt = malloc(tokens->count * sizeof *a->prompt);
    if (a->prompt == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    memcpy(a->prompt, tokens->ids, tokens->count * sizeof *a->prompt);
    a->prompt_tokens = (uint32_t)tokens->count;
    a->engine.tokens = a->prompt;
    a->engine.token_count = a->prompt_tokens;
    return 0;
}

int answer_open(struct answer *a, const struct text_model *m, const struct wire_submit *s,
                const char *body, size_t body_bytes, struct token_list *tokens, struct buf *echo,
                struct answer_refusal *refusal, struct error *err)
{
    *refusal = (struct answer_refusal){.status = 500, .code = "", .param = ""};
    *a = (struct answer){
        .request = s->request, .active = true, .wants_tokens = (s->flags & WIRE_LOGPROBS) != 0};
    tokens->count = 0;
    json_t *json = json_loadb(body, body_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    int r;
    if (json_is_object(json))
        r = read_body(a, m, s, json, tokens, echo, refusal, err);
    else
        r = refuse(refusal, err, "", "", "the body is not a JSON object");
    json_decref(json);
    if (r == 0)
        r = keep_prompt(a, tokens, err);
    if (r == 0)
        r = open_choices(a, m, s, err);
    if (r < 0)
        answer_close(a);
    return r;
}

void answer_drop_prompt(struct answer *a)
{
    free(a->prompt);
    free(a->biases);
    a->prompt = NULL;
    a->biases = NULL;
}

void answer_close(struct answer *a)
{
    if (!a->active)
        return;
    for (uint32_t i = 0; i < a->choice_count; i++) {
        detokenizer_free(&a->choices[i].detokenizer);
        buf_free(&a->choices[i].text);
    }
    free(a->choices);
    answer_drop_prompt(a);
    for (uint32_t i = 0; i < a->stop_count; i++)
        free(a->stops[i]);
    *a = (struct answer){0};
}

/* --- text --- */

/* Where the earliest stop string begins in the held text, or SIZE_MAX. */
static size_t find_stop(const struct answer *a, const struct answer_choice *c)
{
    size_t first = SIZE_MAX;
    if (c->token_count <= a->engine.tokens_new_min)
        return first;
    for (uint32_t i = 0; i < a->stop_count; i++) {
        const char *at = memmem(c->text.data, c->text.len, a->stops[i], a->stop_bytes[i]);
        if (at != NULL && (size_t)(at - c->text.data) < first)
            first = (size_t)(at - c->text.data);
    }
    return first;
}

/* How many bytes at the end of the held text may be the beginning of a stop string. */
static size_t stop_prefix_bytes(const struct answer *a, const struct answer_choice *c)
{
    size_t longest = 0;
    for (uint32_t i = 0; i < a->stop_count; i++) {
        size_t n = a->stop_bytes[i] - 1 < c->text.len ? a->stop_bytes[i] - 1 : c->text.len;
        while (n > longest && memcmp(c->text.data + c->text.len - n, a->stops[i], n) != 0)
            n--;
        if (n > longest)
            longest = n;
    }
    return longest;
}

/* Gives out what no stop string can claim any more. */
static int release(const struct answer *a, struct answer_choice *c, bool all, struct buf *out)
{
    if (c->text.len == 0)
        return 0;
    size_t stop = find_stop(a, c);
    if (stop != SIZE_MAX) {
        int r = buf_append(out, c->text.data, stop);
        buf_clear(&c->text);
        return r < 0 ? r : 1;
    }
    size_t bytes = c->text.len - (all ? 0 : stop_prefix_bytes(a, c));
    int r = buf_append(out, c->text.data, bytes);
    if (r == 0)
        buf_consume(&c->text, bytes);
    return r;
}

int answer_push(const struct answer *a, struct answer_choice *c, uint32_t token, struct buf *out)
{
    int r = detokenizer_push(&c->detokenizer, token, &c->text);
    return r < 0 ? r : release(a, c, false, out);
}

int answer_flush(const struct answer *a, struct answer_choice *c, struct buf *out)
{
    int r = detokenizer_flush(&c->detokenizer, &c->text);
    return r < 0 ? r : release(a, c, true, out);
}
