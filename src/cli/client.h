/*
 * The command line's side of the admin socket (and of any HTTP server): libcurl, one request at a
 * time.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>
#include <stddef.h>

struct client;

/* Speaks to the unix socket of the server with this data directory. */
int client_open(struct client **ret, const char *data_dir, struct error *err);
void client_close(struct client *c);

/* Called for every whole line of the answer's body, without its end; < 0 ends the request. */
typedef int client_line_fn(void *context, const char *line, size_t len);

/* Sends a request (body may be NULL) and returns the HTTP status, or -errno: -ECONNREFUSED when no
 * server answers. The whole answer is parsed into *ret_document (may be NULL there), which the
 * caller owns. */
int client_json(struct client *c, const char *method, const char *path, const json_t *body,
                json_t **ret_document, struct error *err);
/* Likewise, line by line as it comes. Lines of an answer that is not 2xx go to *ret_document. */
int client_lines(struct client *c, const char *method, const char *path, const json_t *body,
                 client_line_fn *fn, void *context, json_t **ret_document, struct error *err);
