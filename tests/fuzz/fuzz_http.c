/* Bytes through the HTTP parser, whole and in pieces: both must see the same requests, the body
 * must keep its limit, and nothing may be taken beyond what was given. The first byte of an input
 * says how it is cut. */
#include "base/rng.h"
#include "gateway/http.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_MAX 1024
#define BODY_MAX 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was understood, as a number to compare. */
struct seen {
    uint64_t requests;
    uint64_t sum;
    int status;
};

static void add(struct seen *s, const void *bytes, size_t len)
{
    const unsigned char *b = bytes;
    s->sum = (s->sum ^ len) * 0x100000001b3u;
    for (size_t i = 0; i < len; i++)
        s->sum = (s->sum ^ b[i]) * 0x100000001b3u;
}

static void take_request(struct seen *s, const struct http *h)
{
    assert(h->body.len <= BODY_MAX);
    assert(h->method != NULL);
    assert(h->path[0] == '/' || h->path[0] == '*');
    s->requests++;
    add(s, h->method, strlen(h->method));
    add(s, h->path, strlen(h->path));
    add(s, h->body.data, h->body.len);
    add(s, &h->keep_alive, sizeof h->keep_alive);
}

static struct seen run(const uint8_t *data, size_t size, struct rng *rng)
{
    struct seen seen = {0};
    struct http h;
    if (http_init(&h, HEAD_MAX, BODY_MAX) < 0)
        abort();
    for (size_t at = 0; at < size && seen.status == 0;) {
        size_t piece = size - at;
        if (rng != NULL)
            piece = 1 + rng_below(rng, piece < 32 ? (uint32_t)piece : 32);
        char *copy = malloc(piece);
        if (copy == NULL)
            abort();
        memcpy(copy, data + at, piece);
        size_t used = 0;
        enum http_result result = http_feed(&h, copy, piece, &used);
        free(copy);
        assert(used <= piece);
        assert(result != HTTP_RESULT_MORE || used == piece);
        at += used;
        if (result == HTTP_RESULT_BAD) {
            assert(h.status >= 400 && h.status < 600);
            assert(h.why.text[0] != '\0');
            seen.status = h.status;
        } else if (result == HTTP_RESULT_DONE) {
            take_request(&seen, &h);
            http_next(&h);
        }
    }
    http_free(&h);
    return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct rng rng;
    rng_seed(&rng, data[0]);
    struct seen whole = run(data + 1, size - 1, NULL);
    struct seen pieces = run(data + 1, size - 1, &rng);
    assert(whole.requests == pieces.requests);
    assert(whole.sum == pieces.sum);
    assert((whole.status != 0) == (pieces.status != 0));
    return 0;
}
