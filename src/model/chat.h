/*
 * Chat templates: messages to the text a model was trained on. A template is the Jinja that comes
 * with a model; it renders byte for byte what transformers' apply_chat_template renders, or it
 * fails: what this interpreter lacks is refused by its name, never skipped.
 *
 * Both the template and the messages are untrusted: each parse and each render has a budget of
 * memory, steps, depth and output, and it is the only thing they can use up. No clock, no files, no
 * global state; a parsed template may be rendered by several threads at once.
 */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

#define CHAT_TEMPLATE_BYTES_MAX ((size_t)256 << 10)

struct chat_limits {
    size_t output_bytes_max;
    size_t memory_bytes_max; /* everything a render holds, its output included */
    uint64_t steps_max;      /* about 20 ns each */
    unsigned depth_max;      /* nested expressions, statements, macro calls, values */
};

extern const struct chat_limits chat_limits_default;

struct chat_template;

/* `text` is copied. -EINVAL: not UTF-8, bad syntax or something refused; -E2BIG: over the limits
 * for templates. */
int chat_template_parse(struct chat_template **ret, const char *text, size_t len,
                        struct error *err);
void chat_template_free(struct chat_template *t);

/*
 * Renders and appends UTF-8 to `out`, which stays as it is on an error.
 *
 * context: an object; its members are the template's variables: messages, add_generation_prompt,
 * bos_token, eos_token, tools (null when there are none)...
 * now_s: seconds since 1970, which strftime_now gives in UTC.
 * limits: NULL for chat_limits_default.
 *
 * -EINVAL: the template raised (its own message stands in err) or does what it must not;
 * -E2BIG: a limit is reached, or `out` is full; -ENOMEM.
 */
int chat_template_render(const struct chat_template *t, const json_t *context, int64_t now_s,
                         const struct chat_limits *limits, struct buf *out, struct error *err);
