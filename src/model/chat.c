/* See chat.h. The two places that errors of the interpreter come back to, and the context. */
#include "model/chat.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "model/jinja_run.h"
#include "model/jinja_text.h"

#define PARSE_MEMORY_BYTES_MAX ((size_t)64 << 20)
#define PARSE_STEPS_MAX 20000000u
#define PARSE_DEPTH_MAX 200

const struct chat_limits chat_limits_default = {
    .output_bytes_max = (size_t)8 << 20,
    .memory_bytes_max = (size_t)64 << 20,
    .steps_max = 20000000,
    .depth_max = 400,
};

struct chat_template {
    struct jinja_env env; /* owns the tree */
    struct jinja_nodes body;
};

/* Separate functions hold the setjmp, so that no local of theirs lives across it. */
static int parse_guarded(struct chat_template *t, struct jinja_str text)
{
    if (setjmp(t->env.out) != 0)
        return t->env.code;
    struct jinja_text copy = jinja_text_begin(SIZE_MAX);
    jinja_text_add_str(&t->env, &copy, text);
    t->body = jinja_parse(&t->env, jinja_text_end(&copy));
    return 0;
}

int chat_template_parse(struct chat_template **ret, const char *text, size_t len, struct error *err)
{
    if (len > CHAT_TEMPLATE_BYTES_MAX)
        return error_set(err, -E2BIG, "the chat template has %zu bytes, at most %zu are allowed",
                         len, CHAT_TEMPLATE_BYTES_MAX);
    if (!jinja_utf8_is_valid(text, len))
        return error_set(err, -EINVAL, "the chat template is not valid UTF-8");
    struct chat_template *t = calloc(1, sizeof *t);
    if (t == NULL)
        return error_set(err, -ENOMEM, "chat template: out of memory");
    t->env = (struct jinja_env){.err = err,
                                .line = 1,
                                .memory_bytes_max = PARSE_MEMORY_BYTES_MAX,
                                .steps_max = PARSE_STEPS_MAX,
                                .depth_max = PARSE_DEPTH_MAX};
    int r = parse_guarded(t, (struct jinja_str){text, len});
    t->env.err = NULL;
    if (r < 0) {
        chat_template_free(t);
        return r;
    }
    *ret = t;
    return 0;
}

void chat_template_free(struct chat_template *t)
{
    if (t == NULL)
        return;
    jinja_env_free(&t->env);
    free(t);
}

/* --- the context --- */

static struct jinja_value from_json(struct jinja_run *r, const json_t *json);

static struct jinja_value from_json_object(struct jinja_run *r, const json_t *json)
{
    struct jinja_value v = jinja_dict_new(&r->env);
    /* jansson's iterators want a pointer to what they do not change. */
    union {
        const json_t *from;
        json_t *to;
    } object = {.from = json};
    for (void *i = json_object_iter(object.to); i != NULL;
         i = json_object_iter_next(object.to, i)) {
        struct jinja_str key = {json_object_iter_key(i), json_object_iter_key_len(i)};
        jinja_dict_set(&r->env, v.dict, jinja_string(key), from_json(r, json_object_iter_value(i)));
    }
    return v;
}

static struct jinja_value from_json_array(struct jinja_run *r, const json_t *json)
{
    size_t count = json_array_size(json);
    struct jinja_value *items = jinja_alloc_array(&r->env, count, sizeof *items);
    for (size_t i = 0; i < count; i++)
        items[i] = from_json(r, json_array_get(json, i));
    return jinja_list_view(&r->env, JINJA_LIST, items, count);
}

static struct jinja_value from_json(struct jinja_run *r, const json_t *json)
{
    struct jinja_value v = jinja_none();
    jinja_step(&r->env, 1);
    jinja_enter(&r->env);
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        v = from_json_object(r, json);
        break;
    case JSON_ARRAY:
        v = from_json_array(r, json);
        break;
    case JSON_STRING:
        v = jinja_string((struct jinja_str){json_string_value(json), json_string_length(json)});
        break;
    case JSON_INTEGER:
        v = jinja_int(json_integer_value(json));
        break;
    case JSON_REAL:
        v = jinja_real(json_real_value(json));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v = jinja_bool(json_is_true(json));
        break;
    case JSON_NULL:
        break;
    }
    jinja_leave(&r->env);
    return v;
}

/* --- render --- */

static int render_guarded(struct jinja_run *r, const struct chat_template *t, const json_t *context)
{
    if (setjmp(r->env.out) != 0)
        return r->env.code;
    r->context = from_json(r, context).dict;
    jinja_exec_template(r, &t->body);
    return 0;
}

int chat_template_render(const struct chat_template *t, const json_t *context, int64_t now_s,
                         const struct chat_limits *limits, struct buf *out, struct error *err)
{
    const struct chat_limits *l = limits != NULL ? limits : &chat_limits_default;
    struct jinja_text text = jinja_text_begin(l->output_bytes_max);
    struct jinja_run run = {.env = {.err = err,
                                    .line = 1,
                                    .memory_bytes_max = l->memory_bytes_max,
                                    .steps_max = l->steps_max,
                                    .depth_max = l->depth_max},
                            .now_s = now_s,
                            .out = &text};
    assert(json_is_object(context));
    int r = render_guarded(&run, t, context);
    if (r == 0) {
        struct jinja_str s = jinja_text_end(&text);
        r = buf_append(out, s.s, s.len);
        if (r < 0)
            error_set(err, r, "the rendered chat of %zu bytes does not fit its buffer", s.len);
    }
    jinja_env_free(&run.env);
    return r;
}
