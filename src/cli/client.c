/* See client.h. */
#include "cli/client.h"

#include "base/buf.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_BYTES_MAX (64u << 20)

struct client {
    CURL *curl;
    char socket[4200];
    struct curl_slist *headers;
    client_line_fn *fn;
    void *context;
    struct buf body;
    size_t line_start;
    int line_result;
};

int client_open(struct client **ret, const char *data_dir, struct error *err)
{
    struct client *c = calloc(1, sizeof *c);
    if (c == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    snprintf(c->socket, sizeof c->socket, "%s/admin.sock", data_dir);
    buf_init(&c->body, ANSWER_BYTES_MAX);
    c->curl = curl_easy_init();
    c->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (c->headers != NULL) {
        /* No round trip before a body is sent. */
        struct curl_slist *more = curl_slist_append(c->headers, "Expect:");
        c->headers = more != NULL ? more : c->headers;
    }
    if (c->curl == NULL || c->headers == NULL) {
        client_close(c);
        return error_set(err, -ENOMEM, "out of memory");
    }
    *ret = c;
    return 0;
}

void client_close(struct client *c)
{
    if (c == NULL)
        return;
    curl_slist_free_all(c->headers);
    curl_easy_cleanup(c->curl);
    buf_free(&c->body);
    free(c);
}

static int give_lines(struct client *c)
{
    long status = 0;
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    if (c->fn == NULL || status < 200 || status > 299)
        return 0;
    for (;;) {
        char *line = c->body.data + c->line_start;
        char *end = memchr(line, '\n', c->body.len - c->line_start);
        if (end == NULL)
            return 0;
        *end = '\0';
        c->line_start = (size_t)(end - c->body.data) + 1;
        c->line_result = c->fn(c->context, line, (size_t)(end - line));
        if (c->line_result < 0)
            return c->line_result;
    }
}

static size_t on_data(char *data, size_t size, size_t count, void *context)
{
    struct client *c = context;
    size_t bytes = size * count;
    if (buf_append(&c->body, data, bytes) < 0 || give_lines(c) < 0)
        return 0;
    return bytes;
}

static void set_request(struct client *c, const char *method, const char *path, const char *body)
{
    char url[1024];
    snprintf(url, sizeof url, "http://localhost%s", path);
    curl_easy_reset(c->curl);
    curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, c->socket);
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, c);
    if (body != NULL) {
        curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, c->headers);
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body);
    }
}

int client_lines(struct client *c, const char *method, const char *path, const json_t *body,
                 client_line_fn *fn, void *context, json_t **ret_document, struct error *err)
{
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    if (body != NULL && text == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    buf_clear(&c->body);
    c->line_start = 0;
    c->line_result = 0;
    c->fn = fn;
    c->context = context;
    set_request(c, method, path, text);
    CURLcode code = curl_easy_perform(c->curl);
    free(text);
    if (code == CURLE_COULDNT_CONNECT)
        return error_set(err, -ECONNREFUSED,
                         "no server answers at %s; start one with: sllora serve", c->socket);
    if (code != CURLE_OK && c->line_result == 0)
        return error_set(err, -EPIPE, "the server ended the connection: %s",
                         curl_easy_strerror(code));
    long status = 0;
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    if (ret_document != NULL)
        *ret_document = c->line_start == 0 && c->body.len > 0
                            ? json_loadb(c->body.data, c->body.len, JSON_REJECT_DUPLICATES, NULL)
                            : NULL;
    return (int)status;
}

int client_json(struct client *c, const char *method, const char *path, const json_t *body,
                json_t **ret_document, struct error *err)
{
    return client_lines(c, method, path, body, NULL, NULL, ret_document, err);
}
