/*
 * The two halves of reading a request: openai_request.c parts the body and looks at the subject
 * (prompt, messages, tools), openai_params.c at all other fields. Private to gateway/.
 */
#pragma once

#include "gateway/openai.h"
#include "gateway/skim.h"

struct reader {
    json_t *root; /* all fields but these three */
    struct skim_span prompt;
    struct skim_span messages;
    struct skim_span tools;
    struct openai_request *request;
    struct openai_refusal *refusal;
    bool chat;
};

/* Fills the refusal in; -EINVAL. */
int reader_refuse(struct reader *r, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The field's value; NULL when it is absent or null, which mean the same everywhere. */
const json_t *reader_field(const struct reader *r, const char *name);

/* Every field that is not the subject. */
int params_read(struct reader *r);
