/* See chat_prompt.h. Each step is one that transformers or OpenAI's wire format asks for. */
#include "model/chat_prompt.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define CONTENT_BYTES_MAX ((size_t)16 << 20)

static int out_of_memory(struct error *err)
{
    return error_set(err, -ENOMEM, "out of memory");
}

/* --- the template's variables --- */

static int add_token(json_t *context, const char *name, const char *token)
{
    return token[0] == '\0' ? 0 : json_object_set_new(context, name, json_string(token));
}

static json_t *make_context(const struct chat_prompt *p, json_t *messages, json_t *tools)
{
    json_t *context = json_pack("{s:O, s:b, s:O?, s:n}", "messages", messages,
                                "add_generation_prompt", true, "tools", tools, "documents");
    if (context == NULL || add_token(context, "bos_token", p->bos_token) < 0 ||
        add_token(context, "eos_token", p->eos_token) < 0) {
        json_decref(context);
        return NULL;
    }
    return context;
}

static json_t *offered_tools(const json_t *request)
{
    json_t *tools = json_object_get(request, "tools");
    const char *choice = json_string_value(json_object_get(request, "tool_choice"));
    bool none = json_array_size(tools) == 0 || (choice != NULL && strcmp(choice, "none") == 0);
    return none ? NULL : tools;
}

/* The conversation and the tools have fields of their own, and are prepared on their way. */
static int add_variables(json_t *context, json_t *variables, const char **ret_param,
                         struct error *err)
{
    if (variables == NULL || json_is_null(variables))
        return 0;
    *ret_param = "chat_template_kwargs";
    if (!json_is_object(variables))
        return error_set(err, -EINVAL, "chat_template_kwargs must be an object");
    static const char *const own[] = {"messages", "tools"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (json_object_get(variables, own[i]) != NULL)
            return error_set(err, -EINVAL,
                             "chat_template_kwargs cannot hold %s, which is a field of the request",
                             own[i]);
    return json_object_update(context, variables) < 0 ? out_of_memory(err) : 0;
}

/* --- messages --- */

/* "{}" is written as "" by some clients. Of a name given twice the last counts, as in Python:
 * the text came out of a model, and its author cannot mend it. */
static int read_arguments(json_t *function, size_t message, size_t call, struct error *err)
{
    const json_t *text = json_object_get(function, "arguments");
    if (!json_is_string(text))
        return 0;
    json_t *value =
        json_string_length(text) == 0
            ? json_object()
            : json_loadb(json_string_value(text), json_string_length(text), JSON_ALLOW_NUL, NULL);
    if (!json_is_object(value)) {
        json_decref(value);
        return error_set(err, -EINVAL,
                         "messages[%zu].tool_calls[%zu].function.arguments must be a JSON object",
                         message, call);
    }
    return json_object_set_new(function, "arguments", value) < 0 ? out_of_memory(err) : 0;
}

static int drop_nulls(json_t *message)
{
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(message, next, key, value)
    {
        if (json_is_null(value) && json_object_del(message, key) < 0)
            return -1;
    }
    return 0;
}

/* {"thinking": reasoning, **message, "reasoning_content": reasoning} */
static int alias_reasoning(json_t *message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *reasoning = NULL;
    for (size_t i = 0; reasoning == NULL && i < sizeof names / sizeof names[0]; i++)
        reasoning = json_object_get(message, names[i]);
    if (reasoning == NULL)
        return 0;
    json_t *out = json_object();
    int r = json_object_set(out, "thinking", reasoning);
    r |= json_object_update(out, message);
    r |= json_object_set(out, "reasoning_content", reasoning);
    r |= json_object_clear(message);
    r |= json_object_update(message, out);
    json_decref(out);
    return r;
}

/* A list of text parts becomes their texts, one a line. */
static int join_parts(json_t *message, size_t index, struct error *err)
{
    const json_t *content = json_object_get(message, "content");
    if (!json_is_array(content))
        return 0;
    struct buf text;
    buf_init(&text, CONTENT_BYTES_MAX);
    size_t i;
    json_t *part;
    int r = 0;
    json_array_foreach(content, i, part)
    {
        const json_t *value = json_object_get(part, "text");
        if (!json_is_string(value))
            r = error_set(err, -EINVAL, "messages[%zu].content holds a part without text", index);
        if (r == 0 && i > 0)
            r = buf_append_char(&text, '\n');
        if (r == 0)
            r = buf_append(&text, json_string_value(value), json_string_length(value));
        if (r < 0)
            break;
    }
    if (r == 0)
        r = json_object_set_new(message, "content",
                                json_stringn(text.data != NULL ? text.data : "", text.len));
    buf_free(&text);
    return r < 0 && err->code == 0 ? out_of_memory(err) : r;
}

/*
 * Whether the template reads parts. A template says so nowhere, so it is asked: one that does not
 * raises, leaves the text out, or prints the list as a list.
 */
static bool takes_parts(const struct chat_prompt *p)
{
    static const char probe[] = "text of a part";
    bool takes = false;
    struct buf out;
    json_t *messages = json_pack("[{s:s, s:[{s:s, s:s}]}]", "role", "user", "content", "type",
                                 "text", "text", probe);
    json_t *context = make_context(p, messages, NULL);
    buf_init(&out, CONTENT_BYTES_MAX);
    if (context != NULL &&
        chat_template_render(p->template, context, p->now_s, NULL, &out, NULL) == 0 && out.len > 0)
        takes = strstr(out.data, probe) != NULL && strstr(out.data, "'type'") == NULL &&
                strstr(out.data, "\"type\"") == NULL;
    json_decref(messages);
    json_decref(context);
    buf_free(&out);
    return takes;
}

static bool has_parts(const json_t *messages)
{
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        if (json_is_array(json_object_get(message, "content")))
            return true;
    }
    return false;
}

static int prepare_message(json_t *message, size_t index, bool join, struct error *err)
{
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call)
    {
        int r = read_arguments(json_object_get(call, "function"), index, i, err);
        if (r < 0)
            return r;
    }
    if (drop_nulls(message) < 0 || alias_reasoning(message) < 0)
        return out_of_memory(err);
    return join ? join_parts(message, index, err) : 0;
}

static int prepare_messages(const struct chat_prompt *p, json_t *messages, struct error *err)
{
    bool join = has_parts(messages) && !takes_parts(p);
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        int r = prepare_message(message, i, join, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int chat_prompt_render(const struct chat_prompt *p, json_t *request, struct buf *out,
                       const char **ret_param, struct error *err)
{
    *ret_param = "messages";
    json_t *messages = json_object_get(request, "messages");
    int r = prepare_messages(p, messages, err);
    if (r < 0)
        return r;
    json_t *context = make_context(p, messages, offered_tools(request));
    if (context == NULL)
        return out_of_memory(err);
    r = add_variables(context, json_object_get(request, "chat_template_kwargs"), ret_param, err);
    if (r == 0) {
        *ret_param = "messages";
        r = chat_template_render(p->template, context, p->now_s, NULL, out, err);
        if (r < 0)
            error_prefix(err, "the chat template refuses these messages");
    }
    json_decref(context);
    return r;
}
