/* See replay_server.h. */
#include "cli/replay_server.h"

#include "cli/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 5000

/* One question to the admin socket: 0 with *ret_document, or -errno. */
static int ask(const char *data_dir, const char *path, json_t **ret_document, struct error *err)
{
    struct client *client;
    json_t *document = NULL;
    int status = client_open(&client, data_dir, err);
    if (status < 0)
        return status;
    status = client_json(client, "GET", path, NULL, &document, err);
    client_close(client);
    if (status == 200 && document != NULL) {
        *ret_document = document;
        return 0;
    }
    json_decref(document);
    return status < 0 ? status
                      : error_set(err, -EPROTO, "%s was answered with status %d", path, status);
}

/* --- where it is --- */

int server_find_local(const char *data_dir, struct server_address *ret, struct error *err)
{
    json_t *status = NULL;
    int r = ask(data_dir, "/admin/status", &status, err);
    if (r < 0)
        return r;
    json_int_t port = json_integer_value(json_object_get(status, "port"));
    json_decref(status);
    if (port < 1 || port > UINT16_MAX)
        return error_set(err, -EPROTO, "the server does not tell its port; name it with --url");
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *ret = (struct server_address){.bytes = sizeof a};
    memcpy(&ret->address, &a, sizeof a);
    snprintf(ret->host, sizeof ret->host, "127.0.0.1:%u", (unsigned)port);
    return 0;
}

/* Cuts "[::1]:80" or "name:80" in two. */
static int split(const char *url, char *host, size_t host_bytes, const char **ret_port,
                 struct error *err)
{
    if (strncmp(url, "http://", 7) == 0)
        url += 7;
    const char *colon = strrchr(url, ':');
    const char *bracket = strchr(url, ']');
    size_t skip = url[0] == '[' && bracket != NULL ? 1 : 0;
    bool ok = colon != NULL && colon > url &&
              (skip == 1 ? colon == bracket + 1 : strchr(url, ':') == colon);
    size_t len = ok ? (size_t)(colon - url) - 2 * skip : 0;
    size_t digits = ok ? strspn(colon + 1, "0123456789") : 0;
    if (len == 0 || len >= host_bytes || digits == 0 || digits > 5 ||
        (colon[1 + digits] != '\0' && strcmp(colon + 1 + digits, "/") != 0))
        return error_set(err, -EINVAL,
                         "\"%.100s\" is no address of a server; write it as HOST:PORT, http only",
                         url);
    memcpy(host, url + skip, len);
    host[len] = '\0';
    *ret_port = colon + 1;
    return 0;
}

int server_find_url(const char *url, struct server_address *ret, struct error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    char host[256], port[8];
    const char *from = "";
    struct addrinfo *found = NULL;
    int r = split(url, host, sizeof host, &from, err);
    if (r < 0)
        return r;
    snprintf(port, sizeof port, "%.*s", (int)strspn(from, "0123456789"), from);
    r = getaddrinfo(host, port, &hints, &found);
    if (r != 0)
        return error_set(err, -EINVAL, "cannot find %s: %s", host, gai_strerror(r));
    *ret = (struct server_address){.bytes = found->ai_addrlen};
    memcpy(&ret->address, found->ai_addr, found->ai_addrlen);
    snprintf(ret->host, sizeof ret->host, strchr(host, ':') != NULL ? "[%s]:%s" : "%s:%s", host,
             port);
    freeaddrinfo(found);
    return 0;
}

int server_check(const struct server_address *a, struct error *err)
{
    int fd = socket(a->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    int code = 0;
    socklen_t bytes = sizeof code;
    if (connect(fd, (const struct sockaddr *)&a->address, a->bytes) < 0)
        code = errno;
    if (code == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        code = ETIMEDOUT;
        if (poll(&p, 1, CONNECT_TIMEOUT_MS) == 1)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &bytes);
    }
    close(fd);
    if (code != 0)
        return error_set(err, -ECONNREFUSED, "no server answers at %s: %s", a->host,
                         strerror(code));
    return 0;
}

/* --- functions --- */

void server_names_free(struct server_names *n)
{
    for (uint32_t i = 0; i < n->count; i++)
        free(n->names[i]);
    free(n->names);
    *n = (struct server_names){0};
}

static int add_name(struct server_names *n, const char *name, size_t len, struct error *err)
{
    if (len == 0)
        return error_set(err, -EINVAL, "a function's name is empty; write them as a,b,c");
    for (size_t i = 0; i < len; i++)
        if (name[i] <= 0x20 || name[i] >= 0x7f)
            return error_set(err, -EINVAL, "a function's name has letters, digits and signs only");
    if (n->count == SERVER_NAMES_MAX)
        return error_set(err, -E2BIG, "more than %u functions; name fewer with --functions",
                         SERVER_NAMES_MAX);
    char **names = realloc(n->names, (n->count + 1) * sizeof *names);
    if (names == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    n->names = names;
    names[n->count] = strndup(name, len);
    if (names[n->count] == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    n->count++;
    return 0;
}

int server_names_parse(const char *list, struct server_names *ret, struct error *err)
{
    struct server_names n = {0};
    int r = 0;
    for (const char *at = list; r == 0;) {
        size_t len = strcspn(at, ",");
        r = add_name(&n, at, len, err);
        if (at[len] == '\0')
            break;
        at += len + 1;
    }
    if (r < 0)
        server_names_free(&n);
    else
        *ret = n;
    return r;
}

int server_functions(const char *data_dir, struct server_names *ret, struct error *err)
{
    json_t *document = NULL;
    struct server_names n = {0};
    size_t i;
    json_t *f;
    int r = ask(data_dir, "/admin/functions", &document, err);
    if (r < 0)
        return r;
    json_array_foreach(json_object_get(document, "functions"), i, f)
    {
        const char *name = json_string_value(json_object_get(f, "name"));
        if (r == 0 && name != NULL)
            r = add_name(&n, name, strlen(name), err);
    }
    json_decref(document);
    if (r == 0 && n.count == 0)
        r = error_set(err, -ENOENT,
                      "the server has no functions; make one with: sllora deploy NAME --backbone "
                      "DIR");
    if (r < 0)
        server_names_free(&n);
    else
        *ret = n;
    return r;
}

/* --- usage --- */

static double number(const json_t *document, const char *key)
{
    const json_t *v = json_object_get(document, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

struct server_usage server_usage(const char *data_dir)
{
    json_t *document = NULL;
    if (ask(data_dir, "/admin/usage", &document, NULL) < 0)
        return (struct server_usage){0};
    struct server_usage u = {
        .known = true,
        .device_s = number(document, "device_us") / 1e6,
        .active_byte_s = number(document, "active_byte_s"),
        .idle_byte_s = number(document, "idle_byte_s"),
        .platform_byte_s = number(document, "platform_byte_s"),
        .cost_usd = number(document, "cost_usd"),
    };
    json_decref(document);
    return u;
}

struct server_usage server_usage_between(const struct server_usage *before,
                                         const struct server_usage *after)
{
    return (struct server_usage){
        .known = before->known && after->known,
        .device_s = after->device_s - before->device_s,
        .active_byte_s = after->active_byte_s - before->active_byte_s,
        .idle_byte_s = after->idle_byte_s - before->idle_byte_s,
        .platform_byte_s = after->platform_byte_s - before->platform_byte_s,
        .cost_usd = after->cost_usd - before->cost_usd,
    };
}
