/*
 * A request's JSON, checked. What may be large (prompt, messages, tools) is looked at in place;
 * only the small rest becomes a jansson tree. Everything that would be understood differently than
 * its sender meant is refused by name: wrong types, values out of range, and features that exist
 * elsewhere but not here, unless they are set to what does nothing. Unknown fields pass.
 */
#include "gateway/openai.h"

#include "gateway/skim.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MODEL_BYTES_MAX 256u
#define STOP_COUNT_MAX 4u
#define COMPLETION_TOKENS_DEFAULT 16u

#define REST_BYTES_MAX 65536u

struct reader {
    const json_t *root; /* all fields but these three */
    struct skim_span prompt;
    struct skim_span messages;
    struct skim_span tools;
    struct openai_request *request;
    struct openai_refusal *refusal;
    bool chat;
};

static int refuse(struct reader *r, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int refuse(struct reader *r, const char *param, const char *format, ...)
{
    struct openai_refusal *f = r->refusal;
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    f->status = 400;
    snprintf(f->param, sizeof f->param, "%s", param);
    return error_set(&f->why, -EINVAL, "%s", text);
}

/* The field's value; NULL when it is absent or null, which mean the same everywhere. */
static const json_t *field(const struct reader *r, const char *name)
{
    const json_t *v = json_object_get(r->root, name);
    return json_is_null(v) ? NULL : v;
}

static int read_bool(struct reader *r, const char *name, bool *ret)
{
    const json_t *v = field(r, name);
    if (v == NULL)
        return 0;
    if (!json_is_boolean(v))
        return refuse(r, name, "%s must be true or false", name);
    *ret = json_is_true(v);
    return 0;
}

struct range {
    double low;
    double high;
    bool low_open;
    bool high_open;
};

static int read_number(struct reader *r, const char *name, struct range in, float *ret)
{
    const json_t *v = field(r, name);
    if (v == NULL)
        return 0;
    if (!json_is_number(v))
        return refuse(r, name, "%s must be a number", name);
    double d = json_number_value(v);
    bool low_bad = in.low_open ? d <= in.low : d < in.low;
    bool high_bad = in.high_open ? d >= in.high : d > in.high;
    if (low_bad || high_bad || !isfinite(d))
        return refuse(r, name, "%s must be in %c%g, %g%c, but is %g", name, in.low_open ? '(' : '[',
                      in.low, in.high, in.high_open ? ')' : ']', d);
    float f = (float)d;
    /* Rounding must not carry a value over an open bound. */
    if (in.low_open && (double)f <= in.low)
        f = nextafterf((float)in.low, INFINITY);
    if (in.high_open && (double)f >= in.high)
        f = nextafterf((float)in.high, -INFINITY);
    *ret = f;
    return 0;
}

static int read_integer(struct reader *r, const char *name, int64_t low, int64_t high,
                        bool *ret_set, int64_t *ret)
{
    const json_t *v = field(r, name);
    if (v == NULL)
        return 0;
    if (!json_is_integer(v))
        return refuse(r, name, "%s must be an integer", name);
    int64_t i = json_integer_value(v);
    if (i < low || i > high)
        return refuse(r, name, "%s must be from %lld to %lld, but is %lld", name, (long long)low,
                      (long long)high, (long long)i);
    *ret = i;
    *ret_set = true;
    return 0;
}

static int read_model(struct reader *r)
{
    const json_t *v = field(r, "model");
    if (v == NULL)
        return refuse(r, "model", "model is missing: name the function to ask");
    if (!json_is_string(v))
        return refuse(r, "model", "model must be a string");
    const char *s = json_string_value(v);
    size_t len = json_string_length(v);
    if (len == 0 || len > MODEL_BYTES_MAX || memchr(s, 0, len) != NULL)
        return refuse(r, "model", "model must have 1 to %u bytes and no NUL", MODEL_BYTES_MAX);
    r->request->infer.model = s;
    return 0;
}

static bool is_token_id(const struct skim_span *v)
{
    uint64_t id = 0;
    if (v->kind != SKIM_NUMBER || v->bytes > 10)
        return false;
    for (size_t i = 0; i < v->bytes; i++) {
        if (v->at[i] < '0' || v->at[i] > '9')
            return false;
        id = id * 10 + (uint64_t)(v->at[i] - '0');
    }
    return id <= INT32_MAX;
}

static int check_token_ids(struct reader *r, const struct skim_span *array)
{
    struct skim_span v;
    size_t count = 0;
    for (const char *at = NULL; skim_next(array, &at, NULL, &v); count++)
        if (!is_token_id(&v))
            return refuse(r, "prompt", "prompt: element %zu is not a token id", count);
    return count > 0 ? 0 : refuse(r, "prompt", "prompt must not be empty");
}

static int read_prompt(struct reader *r)
{
    struct skim_span first;
    struct skim_span second;
    const char *at = NULL;
    if (r->prompt.kind == SKIM_ABSENT || r->prompt.kind == SKIM_NULL)
        return refuse(r, "prompt", "prompt is missing");
    if (r->prompt.kind == SKIM_STRING)
        return 0;
    if (r->prompt.kind != SKIM_ARRAY)
        return refuse(r, "prompt", "prompt must be a string or an array of token ids");
    if (!skim_next(&r->prompt, &at, NULL, &first) ||
        (first.kind != SKIM_STRING && first.kind != SKIM_ARRAY))
        return check_token_ids(r, &r->prompt);
    if (skim_next(&r->prompt, &at, NULL, &second))
        return refuse(r, "prompt", "only one prompt a request is supported; send one request each");
    return first.kind == SKIM_ARRAY ? check_token_ids(r, &first) : 0;
}

static int check_content(struct reader *r, size_t message, const struct skim_span *content)
{
    char param[OPENAI_PARAM_BYTES];
    struct skim_span part;
    size_t i = 0;
    snprintf(param, sizeof param, "messages[%zu].content", message);
    if (content->kind <= SKIM_NULL || content->kind == SKIM_STRING)
        return 0;
    if (content->kind != SKIM_ARRAY)
        return refuse(r, param, "%s must be a string, an array of parts or null", param);
    for (const char *at = NULL; skim_next(content, &at, NULL, &part); i++) {
        struct skim_span type = skim_member(&part, "type");
        if (type.kind != SKIM_STRING)
            return refuse(r, param, "%s: part %zu must be an object with a type", param, i);
        if (!skim_is(&type, "text"))
            return refuse(r, param, "%s: part %zu is not text, which is all that is supported",
                          param, i);
        if (skim_member(&part, "text").kind != SKIM_STRING)
            return refuse(r, param, "%s: part %zu must have a string \"text\"", param, i);
    }
    return 0;
}

static int read_messages(struct reader *r)
{
    struct skim_span m;
    size_t i = 0;
    if (r->messages.kind == SKIM_ABSENT || r->messages.kind == SKIM_NULL)
        return refuse(r, "messages", "messages is missing");
    for (const char *at = NULL;
         r->messages.kind == SKIM_ARRAY && skim_next(&r->messages, &at, NULL, &m); i++) {
        char param[OPENAI_PARAM_BYTES];
        snprintf(param, sizeof param, "messages[%zu]", i);
        if (m.kind != SKIM_OBJECT)
            return refuse(r, param, "%s must be an object", param);
        if (skim_member(&m, "role").kind != SKIM_STRING) {
            snprintf(param, sizeof param, "messages[%zu].role", i);
            return refuse(r, param, "%s must be a string", param);
        }
        struct skim_span content = skim_member(&m, "content");
        int e = check_content(r, i, &content);
        if (e < 0)
            return e;
    }
    if (i == 0)
        return refuse(r, "messages", "messages must be an array of at least one message");
    return 0;
}

static int read_max_tokens(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    bool set = false;
    bool set_new = false;
    int64_t max = 0;
    int e = read_integer(r, "max_tokens", 0, INT32_MAX, &set, &max);
    if (e == 0 && r->chat)
        e = read_integer(r, "max_completion_tokens", 0, INT32_MAX, &set_new, &max);
    if (e < 0)
        return e;
    const char *name = set_new ? "max_completion_tokens" : "max_tokens";
    if (set && set_new)
        return refuse(r, name, "set max_tokens or max_completion_tokens, not both");
    if ((set || set_new) && max == 0 && !q->echo)
        return refuse(r, name, "%s must be at least 1%s", name,
                      r->chat ? "" : ", or 0 together with echo");
    if (set || set_new)
        q->max_tokens = (uint32_t)max;
    else
        q->max_tokens = r->chat ? INFER_TOKENS_UNSET : COMPLETION_TOKENS_DEFAULT;
    return 0;
}

static int read_sampling(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    bool set = false;
    int64_t top_k = 0;
    int64_t seed = 0;
    q->temperature = 1;
    q->top_p = 1;
    int e = read_number(r, "temperature", (struct range){0, 2, false, false}, &q->temperature);
    if (e == 0)
        e = read_number(r, "top_p", (struct range){0, 1, true, false}, &q->top_p);
    if (e == 0)
        e = read_number(r, "min_p", (struct range){0, 1, false, true}, &q->min_p);
    if (e == 0)
        e = read_integer(r, "top_k", -1, INT32_MAX, &set, &top_k);
    if (e == 0)
        e = read_integer(r, "seed", INT64_MIN, INT64_MAX, &q->has_seed, &seed);
    if (e < 0)
        return e;
    q->top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    q->seed = (uint64_t)seed;
    return 0;
}

static int read_stop(struct reader *r)
{
    const json_t *v = field(r, "stop");
    if (v == NULL || (json_is_string(v) && json_string_length(v) > 0))
        return 0;
    if (!json_is_array(v) || json_array_size(v) > STOP_COUNT_MAX)
        return refuse(r, "stop",
                      "stop must be a string or an array of up to %u strings, none empty",
                      STOP_COUNT_MAX);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (json_string_length(json_array_get(v, i)) == 0)
            return refuse(r, "stop", "stop: element %zu is not a string or is empty", i);
    return 0;
}

static int read_stream(struct reader *r)
{
    int e = read_bool(r, "stream", &r->request->infer.stream);
    const json_t *v = field(r, "stream_options");
    if (e < 0 || v == NULL)
        return e;
    if (!json_is_object(v))
        return refuse(r, "stream_options", "stream_options must be an object");
    if (!r->request->infer.stream)
        return refuse(r, "stream_options", "stream_options needs stream to be true");
    const json_t *usage = json_object_get(v, "include_usage");
    if (usage != NULL && !json_is_null(usage) && !json_is_boolean(usage))
        return refuse(r, "stream_options.include_usage",
                      "stream_options.include_usage must be true or false");
    r->request->include_usage = json_is_true(usage);
    return 0;
}

/* Completions say logprobs: N; chats say logprobs: true and top_logprobs: N. */
static int read_logprobs(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    bool set = false;
    int64_t top = 0;
    if (!r->chat) {
        int e = read_integer(r, "logprobs", 0, INFER_TOP_LOGPROBS_MAX, &set, &top);
        q->logprobs = set;
        q->top_logprobs = (uint32_t)top;
        return e;
    }
    int e = read_bool(r, "logprobs", &q->logprobs);
    if (e == 0)
        e = read_integer(r, "top_logprobs", 0, INFER_TOP_LOGPROBS_MAX, &set, &top);
    if (e < 0)
        return e;
    if (top > 0 && !q->logprobs)
        return refuse(r, "top_logprobs", "top_logprobs needs logprobs to be true");
    q->top_logprobs = (uint32_t)top;
    return 0;
}

/* Features of other servers: accepted only when set to what changes nothing. */
enum neutral {
    NEUTRAL_NONE,
    NEUTRAL_ZERO,
    NEUTRAL_ONE,
    NEUTRAL_FALSE,
    NEUTRAL_TRUE,
    NEUTRAL_EMPTY
};

static bool is_neutral(const json_t *v, enum neutral neutral)
{
    switch (neutral) {
    case NEUTRAL_NONE:
        return false;
    case NEUTRAL_ZERO:
        return json_is_number(v) && json_number_value(v) == 0;
    case NEUTRAL_ONE:
        return json_is_number(v) && json_number_value(v) == 1;
    case NEUTRAL_FALSE:
        return json_is_false(v);
    case NEUTRAL_TRUE:
        return json_is_true(v);
    case NEUTRAL_EMPTY:
        return (json_is_array(v) && json_array_size(v) == 0) ||
               (json_is_object(v) && json_object_size(v) == 0) ||
               (json_is_string(v) && json_string_length(v) == 0);
    }
    return false;
}

static int check_unsupported(struct reader *r)
{
    static const struct {
        const char *name;
        enum neutral neutral;
    } table[] = {
        {"n", NEUTRAL_ONE},
        {"best_of", NEUTRAL_ONE},
        {"presence_penalty", NEUTRAL_ZERO},
        {"frequency_penalty", NEUTRAL_ZERO},
        {"repetition_penalty", NEUTRAL_ONE},
        {"length_penalty", NEUTRAL_ONE},
        {"min_tokens", NEUTRAL_ZERO},
        {"typical_p", NEUTRAL_ONE},
        {"logit_bias", NEUTRAL_EMPTY},
        {"suffix", NEUTRAL_EMPTY},
        {"stop_token_ids", NEUTRAL_EMPTY},
        {"bad_words", NEUTRAL_EMPTY},
        {"ignore_eos", NEUTRAL_FALSE},
        {"use_beam_search", NEUTRAL_FALSE},
        {"include_stop_str_in_output", NEUTRAL_FALSE},
        {"return_token_ids", NEUTRAL_FALSE},
        {"skip_special_tokens", NEUTRAL_TRUE},
        {"functions", NEUTRAL_EMPTY},
        {"function_call", NEUTRAL_NONE},
        {"audio", NEUTRAL_NONE},
        {"prediction", NEUTRAL_NONE},
        {"prompt_embeds", NEUTRAL_NONE},
        {"prompt_logprobs", NEUTRAL_NONE},
        {"logits_processors", NEUTRAL_EMPTY},
        {"structured_outputs", NEUTRAL_NONE},
        {"grammar", NEUTRAL_EMPTY},
        {"json_schema", NEUTRAL_NONE},
        {"guided_json", NEUTRAL_NONE},
        {"guided_regex", NEUTRAL_NONE},
        {"guided_choice", NEUTRAL_NONE},
        {"guided_grammar", NEUTRAL_NONE},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const json_t *v = field(r, table[i].name);
        if (v != NULL && !is_neutral(v, table[i].neutral))
            return refuse(r, table[i].name, "this value of %s is not supported; leave %s out",
                          table[i].name, table[i].name);
    }
    return 0;
}

static int check_tools(struct reader *r)
{
    struct skim_span tool;
    size_t count = 0;
    if (r->tools.kind > SKIM_NULL && r->tools.kind != SKIM_ARRAY)
        return refuse(r, "tools", "tools must be an array");
    for (const char *at = NULL;
         r->tools.kind == SKIM_ARRAY && skim_next(&r->tools, &at, NULL, &tool); count++)
        if (tool.kind != SKIM_OBJECT)
            return refuse(r, "tools", "tools: element %zu is not an object", count);
    if (!r->chat && count > 0)
        return refuse(r, "tools", "tools belong to chats; a completion has none");
    const json_t *choice = field(r, "tool_choice");
    const char *word = json_string_value(choice);
    if (choice != NULL && (word == NULL || (strcmp(word, "none") && strcmp(word, "auto"))))
        return refuse(r, "tool_choice", "tool_choice must be \"none\" or \"auto\"");
    return 0;
}

static int check_rest(struct reader *r)
{
    const json_t *format = field(r, "response_format");
    if (format != NULL) {
        const char *type = json_string_value(json_object_get(format, "type"));
        if (type == NULL)
            return refuse(r, "response_format", "response_format must be an object with a type");
        if (strcmp(type, "text") != 0)
            return refuse(r, "response_format", "the only response_format is {\"type\":\"text\"}");
    }
    const json_t *user = field(r, "user");
    if (user != NULL && !json_is_string(user))
        return refuse(r, "user", "user must be a string");
    bool echo = false;
    int e = r->chat ? read_bool(r, "echo", &echo) : 0;
    if (e == 0 && echo)
        return refuse(r, "echo", "echo belongs to completions; a chat has none");
    return e;
}

static int read_all(struct reader *r)
{
    static int (*const steps[])(struct reader *) = {
        read_max_tokens, read_sampling,     read_stop,   read_stream,
        read_logprobs,   check_unsupported, check_tools, check_rest,
    };
    int e = read_model(r);
    if (e == 0)
        e = r->chat ? read_messages(r) : read_prompt(r);
    if (e == 0 && !r->chat)
        e = read_bool(r, "echo", &r->request->infer.echo);
    for (size_t i = 0; e == 0 && i < sizeof steps / sizeof steps[0]; i++)
        e = steps[i](r);
    return e;
}

/* A tree of JSON that skim_check found valid. */
static int load(json_t **ret, const char *json, size_t len, struct error *err)
{
    json_error_t why;
    json_t *root =
        json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);
    if (root == NULL) /* numbers beyond all ranges */
        return error_set(err, -EINVAL, "the body is not valid JSON: %s", why.text);
    *ret = root;
    return 0;
}

int openai_parse_json(json_t **ret, const char *body, size_t body_bytes, uint32_t depth_max,
                      struct error *err)
{
    int r = skim_check(body, body_bytes, depth_max, err);
    return r < 0 ? r : load(ret, body, body_bytes, err);
}

/* Parts the body's fields into those that are looked at in place and a tree of the others. */
static int split(struct reader *r, const struct skim_span *body, json_t **ret)
{
    struct buf rest;
    struct skim_span key;
    struct skim_span value;
    buf_init(&rest, REST_BYTES_MAX);
    int e = buf_reserve(&rest, body->bytes < 1024 ? body->bytes : 1024); /* once, as a rule */
    e |= buf_append_char(&rest, '{');
    for (const char *at = NULL; skim_next(body, &at, &key, &value);) {
        if (skim_is(&key, "prompt")) {
            r->prompt = value;
        } else if (skim_is(&key, "messages")) {
            r->messages = value;
        } else if (skim_is(&key, "tools")) {
            r->tools = value;
        } else {
            e |= rest.len > 1 ? buf_append_char(&rest, ',') : 0;
            e |= buf_append(&rest, key.at, (size_t)(value.at + value.bytes - key.at));
        }
    }
    e |= buf_append_char(&rest, '}');
    if (e < 0)
        e = refuse(r, "", "the fields besides prompt, messages and tools have more than %u bytes",
                   REST_BYTES_MAX);
    else
        e = load(ret, rest.data, rest.len, &r->refusal->why);
    buf_free(&rest);
    return e;
}

int openai_request_parse(struct openai_request *ret, enum infer_kind kind, const char *body,
                         size_t body_bytes, uint32_t depth_max, struct openai_refusal *refusal)
{
    struct openai_request request = {
        .infer = {.kind = kind, .body = body, .body_bytes = body_bytes}};
    struct reader reader = {.request = &request, .refusal = refusal, .chat = kind == INFER_CHAT};
    *refusal = (struct openai_refusal){.status = 400};
    int e = skim_check(body, body_bytes, depth_max, &refusal->why);
    if (e < 0)
        return e;
    struct skim_span document = skim_document(body, body_bytes);
    if (document.kind != SKIM_OBJECT)
        return error_set(&refusal->why, -EINVAL, "the body must be a JSON object");
    e = split(&reader, &document, &request.root);
    if (e < 0)
        return e;
    reader.root = request.root;
    e = read_all(&reader);
    if (e < 0) {
        json_decref(request.root);
        return e;
    }
    *ret = request;
    return 0;
}

void openai_request_done(struct openai_request *r)
{
    json_decref(r->root);
    r->root = NULL;
}
