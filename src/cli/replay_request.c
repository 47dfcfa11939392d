/* See replay_request.h. */
#include "cli/replay_request.h"

#include "sim/draw.h"

#include <string.h>

/* Ids of single bytes or the like in every vocabulary there is, special tokens left out. */
#define ID_FIRST 16u
#define ID_COUNT 240u

static const char *const words[] = {"the",  "a",    "of",   "to",   "in",  "and", "is",  "on",
                                    "that", "with", "from", "they", "was", "for", "his", "it"};

static int append_ids(struct buf *out, struct rng *rng, uint32_t count)
{
    int r = buf_append_str(out, ",\"prompt\":[");
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = buf_printf(out, "%s%u", i > 0 ? "," : "", ID_FIRST + rng_below(rng, ID_COUNT));
    return r < 0 ? r : buf_append_char(out, ']');
}

static int append_words(struct buf *out, struct rng *rng, uint32_t count)
{
    int r = buf_append_str(out, ",\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        const char *word = words[rng_below(rng, sizeof words / sizeof words[0])];
        r = i > 0 ? buf_append_char(out, ' ') : 0;
        r = r == 0 ? buf_append_str(out, word) : r;
    }
    return r < 0 ? r : buf_append_str(out, "\"}]");
}

static int append_body(const struct replay_request *q, struct buf *out)
{
    struct rng rng;
    draw_seed(&rng, q->seed, q->index, 0);
    int r = buf_append_str(out, "{\"model\":\"");
    r = r == 0 ? buf_append_json(out, q->model, strlen(q->model)) : r;
    r = r == 0 ? buf_append_char(out, '"') : r;
    if (r == 0)
        r = q->chat ? append_words(out, &rng, q->prompt_tokens)
                    : append_ids(out, &rng, q->prompt_tokens);
    if (r < 0)
        return r;
    return buf_printf(out,
                      ",\"max_tokens\":%u,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
                      "\"stream_options\":{\"include_usage\":true}}",
                      q->new_tokens);
}

int replay_request_write(const struct replay_request *q, struct buf *out)
{
    struct buf body;
    buf_init(&body, out->max_bytes);
    int r = append_body(q, &body);
    if (r == 0)
        r = buf_printf(out,
                       "POST /v1/%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n",
                       q->chat ? "chat/completions" : "completions", q->host, body.len);
    if (r == 0)
        r = buf_append(out, body.data, body.len);
    buf_free(&body);
    return r;
}
