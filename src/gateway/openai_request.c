/*
 * A request's JSON, checked. What may be large (prompt, messages, tools) is looked at in place;
 * only the small rest becomes a jansson tree. Everything that would be understood differently than
 * its sender meant is refused by name; the parameters' half of that is openai_params.c.
 */
#include "gateway/openai_reader.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define REST_BYTES_MAX 65536u

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
            return reader_refuse(r, "prompt", "prompt: element %zu is not a token id", count);
    return count > 0 ? 0 : reader_refuse(r, "prompt", "prompt must not be empty");
}

static int read_prompt(struct reader *r)
{
    struct skim_span first;
    struct skim_span second;
    const char *at = NULL;
    if (r->prompt.kind == SKIM_ABSENT || r->prompt.kind == SKIM_NULL)
        return reader_refuse(r, "prompt", "prompt is missing");
    if (r->prompt.kind == SKIM_STRING)
        return 0;
    if (r->prompt.kind != SKIM_ARRAY)
        return reader_refuse(r, "prompt", "prompt must be a string or an array of token ids");
    if (!skim_next(&r->prompt, &at, NULL, &first) ||
        (first.kind != SKIM_STRING && first.kind != SKIM_ARRAY))
        return check_token_ids(r, &r->prompt);
    if (skim_next(&r->prompt, &at, NULL, &second))
        return reader_refuse(r, "prompt",
                             "only one prompt a request is supported; send one request each");
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
        return reader_refuse(r, param, "%s must be a string, an array of parts or null", param);
    for (const char *at = NULL; skim_next(content, &at, NULL, &part); i++) {
        struct skim_span type = skim_member(&part, "type");
        if (type.kind != SKIM_STRING)
            return reader_refuse(r, param, "%s: part %zu must be an object with a type", param, i);
        if (!skim_is(&type, "text"))
            return reader_refuse(
                r, param, "%s: part %zu is not text, which is all that is supported", param, i);
        if (skim_member(&part, "text").kind != SKIM_STRING)
            return reader_refuse(r, param, "%s: part %zu must have a string \"text\"", param, i);
    }
    return 0;
}

static int read_messages(struct reader *r)
{
    struct skim_span m;
    size_t i = 0;
    if (r->messages.kind == SKIM_ABSENT || r->messages.kind == SKIM_NULL)
        return reader_refuse(r, "messages", "messages is missing");
    for (const char *at = NULL;
         r->messages.kind == SKIM_ARRAY && skim_next(&r->messages, &at, NULL, &m); i++) {
        char param[OPENAI_PARAM_BYTES];
        snprintf(param, sizeof param, "messages[%zu]", i);
        if (m.kind != SKIM_OBJECT)
            return reader_refuse(r, param, "%s must be an object", param);
        if (skim_member(&m, "role").kind != SKIM_STRING) {
            snprintf(param, sizeof param, "messages[%zu].role", i);
            return reader_refuse(r, param, "%s must be a string", param);
        }
        struct skim_span content = skim_member(&m, "content");
        int e = check_content(r, i, &content);
        if (e < 0)
            return e;
    }
    if (i == 0)
        return reader_refuse(r, "messages", "messages must be an array of at least one message");
    return 0;
}

static int check_tools(struct reader *r)
{
    struct skim_span tool;
    size_t count = 0;
    if (r->tools.kind > SKIM_NULL && r->tools.kind != SKIM_ARRAY)
        return reader_refuse(r, "tools", "tools must be an array");
    for (const char *at = NULL;
         r->tools.kind == SKIM_ARRAY && skim_next(&r->tools, &at, NULL, &tool); count++)
        if (tool.kind != SKIM_OBJECT)
            return reader_refuse(r, "tools", "tools: element %zu is not an object", count);
    if (!r->chat && count > 0)
        return reader_refuse(r, "tools", "tools belong to chats; a completion has none");
    const json_t *choice = reader_field(r, "tool_choice");
    const char *word = json_string_value(choice);
    if (choice != NULL && (word == NULL || (strcmp(word, "none") && strcmp(word, "auto"))))
        return reader_refuse(r, "tool_choice", "tool_choice must be \"none\" or \"auto\"");
    return 0;
}

static int read_all(struct reader *r)
{
    int e = params_read(r);
    if (e == 0)
        e = r->chat ? read_messages(r) : read_prompt(r);
    return e < 0 ? e : check_tools(r);
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
        e = reader_refuse(r, "",
                          "the fields besides prompt, messages and tools have more than %u bytes",
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
