/*
 * A chat request to its prompt: OpenAI's fields become what apply_chat_template makes of them
 * before the template sees them, so that the text is the one that transformers renders:
 *
 * - a member of a message that is null is as if it were not there;
 * - reasoning under one of its three names (reasoning_content, thinking, reasoning) is given under
 *   the names that templates read;
 * - the arguments of a tool call, JSON in a string on OpenAI's wire, are the object that templates
 *   are written for;
 * - content as a list of text parts stays a list for a template that reads parts, and is their
 *   texts, one a line, for any other;
 * - tools is null when there are none, or when tool_choice is "none";
 * - the members of chat_template_kwargs are variables, and win over those of the same name.
 */
#pragma once

#include "model/chat.h"

struct chat_prompt {
    const struct chat_template *template;
    const char *bos_token; /* "" when there is none: the template finds it undefined */
    const char *eos_token;
    int64_t now_s; /* seconds since 1970, what strftime_now prints */
};

/*
 * Renders and appends to `out`. `request` is the request's body, an object; its messages are
 * changed in place. -EINVAL with the field's name in ret_param: what the request holds cannot be
 * given to the template, or the template raised; else as chat_template_render.
 */
int chat_prompt_render(const struct chat_prompt *p, json_t *request, struct buf *out,
                       const char **ret_param, struct error *err);
