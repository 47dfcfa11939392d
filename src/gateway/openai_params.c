/*
 * The fields of a request besides its subject. A value is refused by the field's name when its type
 * is wrong, when it is out of range, or when it asks for what this server does not do; a field that
 * is in no table here is unknown: it is accepted and told to the handler, who logs it.
 */
#include "gateway/openai_reader.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES_MAX 256u
#define STOP_COUNT_MAX 4u
#define COMPLETION_TOKENS_DEFAULT 16u
#define REPETITION_PENALTY_MAX 100.0

/* --- fields --- */

int reader_refuse(struct reader *r, const char *param, const char *format, ...)
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

const json_t *reader_field(const struct reader *r, const char *name)
{
    const json_t *v = json_object_get(r->root, name);
    return json_is_null(v) ? NULL : v;
}

static int read_bool(struct reader *r, const char *name, bool *ret)
{
    const json_t *v = reader_field(r, name);
    if (v == NULL)
        return 0;
    if (!json_is_boolean(v))
        return reader_refuse(r, name, "%s must be true or false", name);
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
    const json_t *v = reader_field(r, name);
    if (v == NULL)
        return 0;
    if (!json_is_number(v))
        return reader_refuse(r, name, "%s must be a number", name);
    double d = json_number_value(v);
    bool low_bad = in.low_open ? d <= in.low : d < in.low;
    bool high_bad = in.high_open ? d >= in.high : d > in.high;
    if (low_bad || high_bad || !isfinite(d))
        return reader_refuse(r, name, "%s must be in %c%g, %g%c, but is %g", name,
                             in.low_open ? '(' : '[', in.low, in.high, in.high_open ? ')' : ']', d);
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
    const json_t *v = reader_field(r, name);
    if (v == NULL)
        return 0;
    if (!json_is_integer(v))
        return reader_refuse(r, name, "%s must be an integer", name);
    int64_t i = json_integer_value(v);
    if (i < low || i > high)
        return reader_refuse(r, name, "%s must be from %lld to %lld, but is %lld", name,
                             (long long)low, (long long)high, (long long)i);
    *ret = i;
    *ret_set = true;
    return 0;
}

/* --- who answers --- */

static int read_name(struct reader *r, const char *param, const json_t *v, const char **ret)
{
    if (!json_is_string(v))
        return reader_refuse(r, param, "%s must be a string, the name of a function", param);
    const char *s = json_string_value(v);
    size_t len = json_string_length(v);
    if (len == 0 || len > NAME_BYTES_MAX || memchr(s, 0, len) != NULL)
        return reader_refuse(r, param, "%s must have 1 to %u bytes and no NUL", param,
                             NAME_BYTES_MAX);
    *ret = s;
    return 0;
}

/* llama-server's [{"id", "scale"}], with a function's name for the id. */
static int read_lora(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    const json_t *v = reader_field(r, "lora");
    q->adapter_scale = 1;
    if (v == NULL)
        return 0;
    const json_t *one = json_array_get(v, 0);
    if (json_array_size(v) != 1 || !json_is_object(one))
        return reader_refuse(r, "lora", "lora must be an array of exactly one {\"id\", \"scale\"}");
    const json_t *scale = json_object_get(one, "scale");
    double d = json_number_value(scale);
    if (!json_is_number(scale) || !(d >= 0 && d <= 1))
        return reader_refuse(r, "lora[0].scale", "lora[0].scale must be a number from 0 to 1");
    q->adapter_scale = (float)d;
    return read_name(r, "lora[0].id", json_object_get(one, "id"), &q->lora_id);
}

static int read_names(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    const json_t *model = reader_field(r, "model");
    const json_t *adapter = reader_field(r, "adapter_id");
    int e = read_lora(r);
    if (e == 0 && adapter != NULL)
        e = read_name(r, "adapter_id", adapter, &q->adapter_id);
    if (e < 0)
        return e;
    const char *other = q->adapter_id != NULL ? q->adapter_id : q->lora_id;
    bool is_named = model != NULL && !(json_is_string(model) && json_string_length(model) == 0);
    if (!is_named && other == NULL)
        return reader_refuse(r, "model", "model is missing: name the function to ask");
    if (is_named)
        e = read_name(r, "model", model, &q->model);
    r->request->name = q->model != NULL ? q->model : other;
    return e;
}

/* --- how much, and what ends it --- */

static int read_echo(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    int e = read_bool(r, "echo", &q->echo);
    if (e == 0 && r->chat && q->echo)
        return reader_refuse(r, "echo", "echo belongs to completions; a chat has none");
    return e;
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
        return reader_refuse(r, name, "set max_tokens or max_completion_tokens, not both");
    if ((set || set_new) && max == 0 && !q->echo)
        return reader_refuse(r, name, "%s must be at least 1%s", name,
                             r->chat ? "" : ", or 0 together with echo");
    if (set || set_new)
        q->max_tokens = (uint32_t)max;
    else
        q->max_tokens = r->chat ? INFER_TOKENS_UNSET : COMPLETION_TOKENS_DEFAULT;
    return 0;
}

static int read_min_tokens(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    bool set = false;
    int64_t min = 0;
    int e = read_integer(r, "min_tokens", 0, INT32_MAX, &set, &min);
    if (e == 0 && min > q->max_tokens)
        return reader_refuse(r, "min_tokens", "min_tokens is %lld: at most %u tokens are asked for",
                             (long long)min, q->max_tokens);
    q->min_tokens = (uint32_t)min;
    return e == 0 ? read_bool(r, "ignore_eos", &q->ignore_eos) : e;
}

static int read_choices(struct reader *r)
{
    bool set = false;
    int64_t n = 1;
    int64_t best_of = 1;
    int e = read_integer(r, "n", 1, INFER_CHOICES_MAX, &set, &n);
    set = false;
    if (e == 0)
        e = read_integer(r, "best_of", 1, INT32_MAX, &set, &best_of);
    if (e == 0 && set && best_of != n)
        return reader_refuse(r, "best_of", "best_of must equal n: every choice is given out");
    r->request->infer.choices = (uint32_t)n;
    return e;
}

/* --- sampling --- */

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

static int read_penalties(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    const struct range openai = {-2, 2, false, false};
    q->repetition_penalty = 1;
    int e = read_number(r, "presence_penalty", openai, &q->presence_penalty);
    if (e == 0)
        e = read_number(r, "frequency_penalty", openai, &q->frequency_penalty);
    if (e == 0)
        e = read_number(r, "repetition_penalty",
                        (struct range){0, REPETITION_PENALTY_MAX, true, false},
                        &q->repetition_penalty);
    return e;
}

static bool is_id_text(const char *s)
{
    size_t digits = strspn(s, "0123456789");
    return digits >= 1 && digits <= 10 && s[digits] == '\0' && strtoull(s, NULL, 10) <= INT32_MAX;
}

/* The worker reads the values from the body, as it does stop's and stop_token_ids'. */
static int check_logit_bias(struct reader *r)
{
    json_t *v = json_object_get(r->root, "logit_bias");
    const char *key;
    json_t *bias;
    if (v == NULL || json_is_null(v))
        return 0;
    if (!json_is_object(v) || json_object_size(v) > INFER_BIASES_MAX)
        return reader_refuse(r, "logit_bias",
                             "logit_bias must be an object of up to %u token ids and their biases",
                             INFER_BIASES_MAX);
    json_object_foreach(v, key, bias)
    {
        double d = json_number_value(bias);
        if (!is_id_text(key))
            return reader_refuse(r, "logit_bias", "logit_bias: '%.32s' is not a token id", key);
        if (!json_is_number(bias) || !(d >= -100 && d <= 100))
            return reader_refuse(r, "logit_bias",
                                 "logit_bias: the bias of token %s must be a number from -100 to "
                                 "100",
                                 key);
    }
    return 0;
}

static int read_text(struct reader *r)
{
    bool skip = true;
    int e = read_bool(r, "skip_special_tokens", &skip);
    r->request->infer.show_special = !skip;
    return e;
}

static int read_stop(struct reader *r)
{
    const json_t *v = reader_field(r, "stop");
    if (v == NULL || (json_is_string(v) && json_string_length(v) > 0))
        return 0;
    if (!json_is_array(v) || json_array_size(v) > STOP_COUNT_MAX)
        return reader_refuse(r, "stop",
                             "stop must be a string or an array of up to %u strings, none empty",
                             STOP_COUNT_MAX);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (json_string_length(json_array_get(v, i)) == 0)
            return reader_refuse(r, "stop", "stop: element %zu is not a string or is empty", i);
    return 0;
}

static int check_stop_token_ids(struct reader *r)
{
    const json_t *v = reader_field(r, "stop_token_ids");
    if (v == NULL)
        return 0;
    if (!json_is_array(v) || json_array_size(v) > INFER_STOP_TOKEN_IDS_MAX)
        return reader_refuse(r, "stop_token_ids",
                             "stop_token_ids must be an array of up to %u token ids",
                             INFER_STOP_TOKEN_IDS_MAX);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *id = json_array_get(v, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return reader_refuse(r, "stop_token_ids", "stop_token_ids: element %zu is no token id",
                                 i);
    }
    return 0;
}

/* --- how it is told --- */

static int read_option(struct reader *r, const json_t *options, const char *name, bool *ret)
{
    char param[OPENAI_PARAM_BYTES];
    const json_t *v = json_object_get(options, name);
    snprintf(param, sizeof param, "stream_options.%s", name);
    if (v != NULL && !json_is_null(v) && !json_is_boolean(v))
        return reader_refuse(r, param, "%s must be true or false", param);
    *ret = json_is_true(v);
    return 0;
}

static int read_stream(struct reader *r)
{
    int e = read_bool(r, "stream", &r->request->infer.stream);
    const json_t *v = reader_field(r, "stream_options");
    if (e < 0 || v == NULL)
        return e;
    if (!json_is_object(v))
        return reader_refuse(r, "stream_options", "stream_options must be an object");
    if (!r->request->infer.stream)
        return reader_refuse(r, "stream_options", "stream_options needs stream to be true");
    e = read_option(r, v, "include_usage", &r->request->include_usage);
    if (e == 0)
        e = read_option(r, v, "continuous_usage_stats", &r->request->continuous_usage);
    if (e == 0 && r->request->continuous_usage && !r->request->include_usage)
        return reader_refuse(r, "stream_options.continuous_usage_stats",
                             "stream_options.continuous_usage_stats needs include_usage");
    return e;
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
        return reader_refuse(r, "top_logprobs", "top_logprobs needs logprobs to be true");
    q->top_logprobs = (uint32_t)top;
    return 0;
}

/* --- what is not done here --- */

/* Features of other servers: accepted only when set to what changes nothing. */
enum neutral { NEUTRAL_NONE, NEUTRAL_ZERO, NEUTRAL_ONE, NEUTRAL_FALSE, NEUTRAL_EMPTY };

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
    case NEUTRAL_EMPTY:
        return (json_is_array(v) && json_array_size(v) == 0) ||
               (json_is_object(v) && json_object_size(v) == 0) ||
               (json_is_string(v) && json_string_length(v) == 0);
    }
    return false;
}

static const struct {
    const char *name;
    enum neutral neutral;
} unsupported[] = {
    {"length_penalty", NEUTRAL_ONE},
    {"typical_p", NEUTRAL_ONE},
    {"suffix", NEUTRAL_EMPTY},
    {"bad_words", NEUTRAL_EMPTY},
    {"use_beam_search", NEUTRAL_FALSE},
    {"include_stop_str_in_output", NEUTRAL_FALSE},
    {"return_token_ids", NEUTRAL_FALSE},
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
    {"web_search_options", NEUTRAL_NONE},
    {"merged_adapters", NEUTRAL_NONE},
    {"adapter_parameters", NEUTRAL_NONE},
    {"adapter", NEUTRAL_NONE},
    {"lora_path", NEUTRAL_NONE},
    {"lora_adapter_name", NEUTRAL_NONE},
};

static int check_unsupported(struct reader *r)
{
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++) {
        const char *name = unsupported[i].name;
        const json_t *v = reader_field(r, name);
        if (v != NULL && !is_neutral(v, unsupported[i].neutral))
            return reader_refuse(r, name, "this value of %s is not supported; leave %s out", name,
                                 name);
    }
    return 0;
}

static int check_rest(struct reader *r)
{
    const json_t *format = reader_field(r, "response_format");
    if (format != NULL) {
        const char *type = json_string_value(json_object_get(format, "type"));
        if (type == NULL)
            return reader_refuse(r, "response_format",
                                 "response_format must be an object with a type");
        if (strcmp(type, "text") != 0)
            return reader_refuse(r, "response_format",
                                 "the only response_format is {\"type\":\"text\"}");
    }
    const json_t *user = reader_field(r, "user");
    if (user != NULL && !json_is_string(user))
        return reader_refuse(r, "user", "user must be a string");
    return 0;
}

/* --- unknown fields --- */

enum known_where { IN_COMPLETIONS = 1, IN_CHATS = 2, IN_BOTH = 3 };

static const struct {
    const char *name;
    enum known_where where;
} known[] = {
    {"model", IN_BOTH},
    {"adapter_id", IN_BOTH},
    {"lora", IN_BOTH},
    {"max_tokens", IN_BOTH},
    {"max_completion_tokens", IN_CHATS},
    {"min_tokens", IN_BOTH},
    {"ignore_eos", IN_BOTH},
    {"n", IN_BOTH},
    {"best_of", IN_BOTH},
    {"temperature", IN_BOTH},
    {"top_p", IN_BOTH},
    {"min_p", IN_BOTH},
    {"top_k", IN_BOTH},
    {"seed", IN_BOTH},
    {"presence_penalty", IN_BOTH},
    {"frequency_penalty", IN_BOTH},
    {"repetition_penalty", IN_BOTH},
    {"logit_bias", IN_BOTH},
    {"stop", IN_BOTH},
    {"stop_token_ids", IN_BOTH},
    {"skip_special_tokens", IN_BOTH},
    {"stream", IN_BOTH},
    {"stream_options", IN_BOTH},
    {"logprobs", IN_BOTH},
    {"top_logprobs", IN_CHATS},
    {"echo", IN_BOTH},
    {"response_format", IN_BOTH},
    {"tool_choice", IN_BOTH},
    {"chat_template_kwargs", IN_CHATS},
    {"user", IN_BOTH},
};

static bool is_known(const char *name, bool chat)
{
    enum known_where where = chat ? IN_CHATS : IN_COMPLETIONS;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, name) == 0)
            return (known[i].where & where) != 0;
    }
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++) {
        if (strcmp(unsupported[i].name, name) == 0)
            return true;
    }
    return false;
}

static int find_unknown(struct reader *r)
{
    struct infer_request *q = &r->request->infer;
    const char *name;
    json_t *v;
    json_object_foreach(r->root, name, v)
    {
        if (q->unknown_count < INFER_UNKNOWN_MAX && !is_known(name, r->chat))
            q->unknown[q->unknown_count++] = name;
    }
    return 0;
}

int params_read(struct reader *r)
{
    static int (*const steps[])(struct reader *) = {
        read_names,    read_echo,      read_max_tokens,  read_min_tokens,   read_choices,
        read_sampling, read_penalties, check_logit_bias, read_stop,         check_stop_token_ids,
        read_stream,   read_logprobs,  read_text,        check_unsupported, check_rest,
        find_unknown,
    };
    int e = 0;
    for (size_t i = 0; e == 0 && i < sizeof steps / sizeof steps[0]; i++)
        e = steps[i](r);
    return e;
}
