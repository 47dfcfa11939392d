/* What a complete request wants: one table of paths, one function each. */
#include "base/clock.h"
#include "gateway/conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define ID_CHARS 24u
/* Any client's body becomes a tree, many times its size. */
#define LORA_BODY_BYTES_MAX (16u << 10)

/* Identifiers of answers: 120 random bits from a pool that is filled in one call. */
static int make_id(struct gateway *g, char ret[ID_CHARS + 1])
{
    if (g->id_pool_used + ID_CHARS > sizeof g->id_pool) {
        if (getrandom(g->id_pool, sizeof g->id_pool, 0) != (ssize_t)sizeof g->id_pool)
            return -EIO;
        g->id_pool_used = 0;
    }
    for (size_t i = 0; i < ID_CHARS; i++)
        ret[i] = "abcdefghijklmnopqrstuvwxyz234567"[g->id_pool[g->id_pool_used++] & 31];
    ret[ID_CHARS] = '\0';
    return 0;
}

static void infer(struct conn *c, enum infer_kind kind)
{
    struct gateway *g = c->gateway;
    struct openai_request request;
    struct openai_refusal refusal;
    char id[ID_CHARS + 1];
    if (openai_request_parse(&request, kind, c->http.body.data, c->http.body.len,
                             g->limits.json_depth_max, &refusal) < 0) {
        conn_answer_error(c, refusal.status, refusal.code, refusal.param, NULL, refusal.why.text,
                          false);
        return;
    }
    exchange_open(c, EXCHANGE_INFER, request.infer.stream);
    if (make_id(g, id) < 0 ||
        openai_reply_begin(&c->exchange.reply, &request, id, clock_wall_us() / 1000000) < 0) {
        exchange_error(&c->exchange, 503, NULL, NULL, 1, "no memory for the answer");
    } else {
        struct infer_refusal why = {.status = 500};
        struct error err = {0};
        int r = g->handlers.infer(g->handlers.context, &c->exchange, &request.infer, &why, &err);
        if (r < 0)
            exchange_error(&c->exchange, why.status, why.code, why.param,
                           why.status == 429 || why.status == 503 ? 1 : 0, err.text);
    }
    openai_request_done(&request);
}

static void get_completions(struct conn *c)
{
    infer(c, INFER_COMPLETION);
}

static void get_chat(struct conn *c)
{
    infer(c, INFER_CHAT);
}

static void answer_json(struct conn *c, const json_t *document)
{
    char *text = document != NULL ? json_dumps(document, JSON_COMPACT) : NULL;
    if (text != NULL)
        conn_answer(c, 200, "application/json", NULL, text, strlen(text));
    else
        conn_answer_error(c, 500, NULL, NULL, NULL, "the list cannot be written", false);
    free(text);
}

static json_t *list_models(struct gateway *g)
{
    json_t *list = json_array();
    size_t i;
    json_t *model;
    g->handlers.models(g->handlers.context, list);
    json_array_foreach(list, i, model) json_object_set_new(model, "object", json_string("model"));
    return list;
}

static void get_models(struct conn *c)
{
    json_t *answer = json_pack("{s:s, s:o}", "object", "list", "data", list_models(c->gateway));
    answer_json(c, answer);
    json_decref(answer);
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef";
    const char *at = c != '\0' ? strchr(digits, c | 0x20) : NULL;
    return at != NULL ? (int)(at - digits) : -1;
}

/* Clients escape what is special in a URL. Undone in place; what is no escape stays. */
static void unescape(char *s)
{
    char *to = s;
    for (; *s != '\0'; s++) {
        int high = s[0] == '%' ? hex_digit(s[1]) : -1;
        int low = high >= 0 ? hex_digit(s[2]) : -1;
        if (low < 0 || (high == 0 && low == 0)) {
            *to++ = *s;
            continue;
        }
        *to++ = (char)(high * 16 + low);
        s += 2;
    }
    *to = '\0';
}

static void get_model(struct conn *c)
{
    char *name = c->http.path + strlen("/v1/models/");
    unescape(name);
    json_t *list = list_models(c->gateway);
    json_t *found = NULL;
    json_t *model;
    size_t i;
    json_array_foreach(list, i, model)
    {
        const char *id = json_string_value(json_object_get(model, "id"));
        if (id != NULL && strcmp(id, name) == 0)
            found = model;
    }
    char message[320];
    snprintf(message, sizeof message, "the model '%.200s' does not exist", name);
    if (found != NULL)
        answer_json(c, found);
    else
        conn_answer_error(c, 404, "model_not_found", "model", NULL, message, false);
    json_decref(list);
}

static void get_health(struct conn *c)
{
    conn_answer(c, 200, "text/plain; charset=utf-8", NULL, "ok\n", 3);
}

static void get_ready(struct conn *c)
{
    struct gateway *g = c->gateway;
    struct error err = {0};
    if (g->handlers.ready(g->handlers.context, &err) == 0)
        conn_answer(c, 200, "text/plain; charset=utf-8", NULL, "ready\n", 6);
    else
        conn_answer_error(c, 503, "not_ready", NULL, "Retry-After: 1\r\n", err.text, false);
}

static void get_metrics(struct conn *c)
{
    struct gateway *g = c->gateway;
    char *text = g->handlers.metrics(g->handlers.context);
    if (text != NULL)
        conn_answer(c, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, text, strlen(text));
    else
        conn_answer_error(c, 500, NULL, NULL, NULL, "no memory for the metrics", false);
    free(text);
}

/* False when the body is no JSON: answered. *ret is NULL without a body. */
static bool parse_body(struct conn *c, json_t **ret)
{
    struct error err = {0};
    if (c->http.body.len == 0 || openai_parse_json(ret, c->http.body.data, c->http.body.len,
                                                   c->gateway->limits.json_depth_max, &err) == 0)
        return true;
    conn_answer_error(c, 400, NULL, NULL, NULL, err.text, false);
    return false;
}

static void admin(struct conn *c)
{
    struct gateway *g = c->gateway;
    json_t *body = NULL;
    if (!parse_body(c, &body))
        return;
    exchange_open(c, EXCHANGE_ADMIN, false);
    g->handlers.admin(g->handlers.context, &c->exchange, c->http.method, c->http.path, body);
    json_decref(body);
}

static void lora(struct conn *c, enum lora_verb verb)
{
    struct gateway *g = c->gateway;
    json_t *body = NULL;
    if (c->http.body.len > LORA_BODY_BYTES_MAX) {
        conn_answer_error(c, 413, NULL, NULL, NULL, "a request for an adapter holds three names",
                          false);
        return;
    }
    if (!parse_body(c, &body))
        return;
    exchange_open(c, EXCHANGE_ADMIN, false);
    g->handlers.lora(g->handlers.context, &c->exchange, verb, body);
    json_decref(body);
}

static void load_lora(struct conn *c)
{
    lora(c, LORA_LOAD);
}

static void unload_lora(struct conn *c)
{
    lora(c, LORA_UNLOAD);
}

static void list_lora(struct conn *c)
{
    lora(c, LORA_LIST);
}

static const struct route {
    const char *path; /* one that ends in "/" is a prefix */
    const char *method;
    bool admin_only;
    void (*answer)(struct conn *c);
} routes[] = {
    {"/v1/completions", "POST", false, get_completions},
    {"/v1/chat/completions", "POST", false, get_chat},
    {"/v1/models", "GET", false, get_models},
    {"/v1/models/", "GET", false, get_model},
    {"/v1/load_lora_adapter", "POST", false, load_lora},
    {"/v1/unload_lora_adapter", "POST", false, unload_lora},
    {"/v1/lora_adapters", "GET", false, list_lora},
    {"/healthz", "GET", false, get_health},
    {"/readyz", "GET", false, get_ready},
    {"/metrics", "GET", false, get_metrics},
    {"/admin/", NULL, true, admin},
};

static const struct route *find_route(const struct conn *c)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const char *path = routes[i].path;
        size_t len = strlen(path);
        bool prefix = path[len - 1] == '/';
        if ((prefix ? strncmp(c->http.path, path, len) : strcmp(c->http.path, path)) == 0 &&
            (!routes[i].admin_only || c->admin))
            return &routes[i];
    }
    return NULL;
}

void route_request(struct conn *c)
{
    const char *method = c->http.method;
    char message[320];
    if (!c->permitted) {
        conn_answer_error(c, 403, NULL, NULL, NULL,
                          "only the daemon's user and root may use this socket", true);
        return;
    }
    const struct route *route = find_route(c);
    if (route == NULL) {
        snprintf(message, sizeof message, "there is nothing at %s %.200s", method, c->http.path);
        conn_answer_error(c, 404, "unknown_url", NULL, NULL, message, false);
        return;
    }
    bool get = route->method != NULL && strcmp(route->method, "GET") == 0;
    if (route->method != NULL && strcmp(route->method, method) != 0 && !(get && c->head_only)) {
        snprintf(message, sizeof message, "%s takes %s, not %s", route->path, route->method,
                 method);
        conn_answer_error(c, 405, "method_not_allowed", NULL,
                          get ? "Allow: GET, HEAD\r\n" : "Allow: POST\r\n", message, false);
        return;
    }
    route->answer(c);
}
