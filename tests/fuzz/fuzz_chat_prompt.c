/*
 * Chat requests from hostile hands: the input is a request's body. It is prepared for a template
 * that reads parts and for one that does not, and what comes out must be UTF-8.
 */
#include "model/chat_prompt.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void render(const char *text, json_t *request)
{
    struct chat_template *t = NULL;
    struct error err = {0};
    struct buf out;
    const char *param = NULL;
    if (chat_template_parse(&t, text, strlen(text), &err) < 0)
        abort();
    struct chat_prompt p = {
        .template = t, .bos_token = "<s>", .eos_token = "", .now_s = 1721995321};
    buf_init(&out, 1 << 20);
    int r = chat_prompt_render(&p, request, &out, &param, &err);
    if (param == NULL || (r < 0 && err.text[0] == '\0'))
        abort();
    if (r == 0 && out.len > 0) {
        json_t *copy = json_stringn(out.data, out.len);
        if (copy == NULL)
            abort();
        json_decref(copy);
    }
    buf_free(&out);
    chat_template_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char plain[] = "{% for m in messages %}{{ m.role ~ m.content ~ m.thinking ~ "
                                "m.tool_calls|tojson }}{% endfor %}{{ tools ~ enable_thinking }}";
    static const char parts[] =
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}";
    json_t *request =
        json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    /* The gateway lets only such bodies through. */
    if (json_is_array(json_object_get(request, "messages"))) {
        json_t *copy = json_deep_copy(request);
        if (copy == NULL)
            abort();
        render(plain, request);
        render(parts, copy);
        json_decref(copy);
    }
    json_decref(request);
    return 0;
}
