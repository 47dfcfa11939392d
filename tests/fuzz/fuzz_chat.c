/*
 * Chat templates from hostile hands: the input is a template, a zero byte, and a JSON context (a
 * small built-in one when it is missing or bad). Parse and render with low limits.
 */
#include "model/chat.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char usual[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a \\u00e9\"},{\"role\":\"assistant\","
        "\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}]}],"
        "\"tools\":[{\"type\":\"function\"}],\"bos_token\":\"<s>\",\"n\":-3,\"x\":2.5}";
    static const struct chat_limits limits = {.output_bytes_max = 1 << 16,
                                              .memory_bytes_max = 1 << 20,
                                              .steps_max = 50000,
                                              .depth_max = 60};
    const uint8_t *zero = size > 0 ? memchr(data, 0, size) : NULL;
    size_t len = zero != NULL ? (size_t)(zero - data) : size;
    struct chat_template *t = NULL;
    struct error err;
    struct buf out;
    if (chat_template_parse(&t, (const char *)data, len, &err) < 0)
        return 0;
    json_t *context = NULL;
    if (zero != NULL)
        context = json_loadb((const char *)zero + 1, size - len - 1, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(context)) {
        json_decref(context);
        context = json_loads(usual, 0, NULL);
    }
    buf_init(&out, 1 << 16);
    if (chat_template_render(t, context, 1721995321, &limits, &out, &err) == 0 && out.len > 0) {
        /* What comes out is UTF-8: JSON must take it. */
        json_t *text = json_stringn(out.data, out.len);
        if (text == NULL)
            abort();
        json_decref(text);
    }
    buf_free(&out);
    json_decref(context);
    chat_template_free(t);
    return 0;
}
