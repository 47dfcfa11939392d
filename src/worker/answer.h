/*
 * One request inside a worker: from the body's prompt to token ids, and from token ids to the text
 * of the answer. It knows the engine's sequence by number only.
 */
#pragma once

#include "engine/engine.h"
#include "model/chat_prompt.h"
#include "model/tokenizer.h"
#include "wire/wire.h"

#include <stdbool.h>

#define ANSWER_STOPS_MAX 4u
#define ANSWER_STOP_BYTES_MAX 1024u
#define ANSWER_STOP_TOKEN_IDS_MAX 32u
#define ANSWER_HELD_BYTES_MAX (1u << 20)

/* What prompts are read with: the backbone's text side. */
struct text_model {
    const struct tokenizer *tokenizer;
    const struct chat_template *chat; /* NULL: the backbone has none */
    const char *bos_token;            /* "" when there is none */
    const char *eos_token;
    uint32_t context_max;
    uint32_t vocab_count;
    bool takes_tools; /* the chat template speaks of them */
};

enum choice_state { CHOICE_WAITS, CHOICE_RUNS, CHOICE_ENDED };

/* One of the answers to a prompt. */
struct answer_choice {
    enum choice_state state;
    uint32_t sequence; /* in the engine, while it runs */
    uint32_t token_count;
    struct detokenizer detokenizer;
    struct buf text; /* not given out yet: may be the beginning of a stop string */
};

struct answer {
    uint64_t request;
    bool active;
    bool wants_tokens; /* log-probabilities are given out token by token */
    uint32_t prompt_tokens;
    uint32_t completion_tokens;
    uint32_t cached_tokens;
    uint64_t device_us;
    uint64_t submitted_us;         /* when its SUBMIT was read */
    struct engine_request engine;  /* what each choice asks for, its seed aside */
    uint32_t *prompt;              /* what engine.tokens points to, owned */
    struct engine_bias *biases;    /* likewise */
    struct answer_choice *choices; /* [choice_count], owned */
    uint32_t choice_count;
    uint32_t choices_left;         /* not ended */
    char *stops[ANSWER_STOPS_MAX]; /* owned */
    size_t stop_bytes[ANSWER_STOPS_MAX];
    uint32_t stop_count;
};

/* Why a request is refused, as its client shall see it. */
struct answer_refusal {
    uint32_t status;
    const char *code;  /* or "" */
    const char *param; /* or "" */
};

/* Reads the body: the prompt's ids, biases and stop tokens into a->engine, the stop strings into a.
 * For echo, the prompt's text into `echo`. `tokens` is scratch. -errno with refusal and err filled.
 */
int answer_open(struct answer *a, const struct text_model *m, const struct wire_submit *s,
                const char *body, size_t body_bytes, struct token_list *tokens, struct buf *echo,
                struct answer_refusal *refusal, struct error *err);
void answer_close(struct answer *a);
/* The engine has a copy for every choice. */
void answer_drop_prompt(struct answer *a);

/* One sampled token; appends the text that is certain now to `out`. Returns 1 when a stop string
 * ended the choice (out then ends before it), 0, or -errno. Text of the first tokens_new_min tokens
 * ends nothing. */
int answer_push(const struct answer *a, struct answer_choice *c, uint32_t token, struct buf *out);
/* The end without a stop string: appends all that was held back; 1 when that completes a stop
 * string after all. */
int answer_flush(const struct answer *a, struct answer_choice *c, struct buf *out);
