/*
 * What quantisation costs in quality: the distribution of every next token by a backbone in int8 or
 * int4 against the same checkpoint in bf16, over a text or, without one, over random tokens. A text
 * is read in windows, each beginning with the beginning-of-text token, as models/README.md does.
 */
#include "worker/bench_model.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "model/tokenizer.h"
#include "weights/source.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WINDOW 256u /* tokens, the beginning-of-text token included */

/* A backbone with what computes its logits. */
struct rated {
    struct bench bench; /* a copy; the machine is shared */
    struct engine *engine;
    float *logits; /* [WINDOW, vocab] */
};

struct sums {
    uint64_t positions; /* compared */
    uint64_t targets;   /* of them, those whose next token is known */
    uint64_t same_top;
    double nll, reference_nll; /* of the targets */
    double difference_square, square;
    double *kl; /* [positions] */
};

static int open_rated(const struct bench *b, uint32_t dtype, struct rated *ret, struct error *err)
{
    *ret = (struct rated){.bench = *b};
    ret->bench.dtype = dtype;
    int r = bench_model_open(&ret->bench, err);
    if (r == 0)
        r = bench_engine_open(&ret->bench, 1, WINDOW, 0, false, &ret->engine, err);
    if (r < 0)
        return r;
    ret->logits = malloc(sizeof(float) * WINDOW * ret->bench.backbone.config->vocab_count);
    return ret->logits != NULL ? 0 : error_set(err, -ENOMEM, "no memory for logits");
}

static void close_rated(struct rated *m)
{
    if (m->engine != NULL)
        engine_close(m->engine);
    free(m->logits);
    bench_model_close(&m->bench);
}

/* --- tokens --- */

static int read_text(const struct bench *b, struct buf *ret, struct error *err)
{
    cleanup_fd int fd = open(b->text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, -errno, "cannot open %s: %s", b->text, strerror(errno));
    const struct pack_file file = {b->text, fd};
    return source_read_all(&file, ret, err);
}

static int encode_text(const struct bench *b, const struct backbone *backbone,
                       struct token_list *ret, struct error *err)
{
    struct tokenizer *tokenizer = NULL;
    struct buf text;
    buf_init(&text, TOKENIZER_TEXT_BYTES_MAX);
    int r = read_text(b, &text, err);
    if (r == 0)
        r = tokenizer_open(&tokenizer, backbone->tokenizer, backbone->tokenizer_bytes, err);
    if (r == 0)
        r = tokenizer_encode(tokenizer, text.data, text.len, 0, ret, err);
    if (r == 0 && ret->count < 2)
        r = error_set(err, -EINVAL, "%s holds less than two tokens", b->text);
    tokenizer_close(tokenizer);
    buf_free(&text);
    return r;
}

static int random_tokens(const struct bench *b, const struct backbone *backbone,
                         struct token_list *ret, struct error *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < b->tokens; i++)
        r = token_list_append(ret, (i * 7919 + 13) % backbone->config->vocab_count);
    return r < 0 ? error_set(err, r, "no memory for %u tokens", b->tokens) : 0;
}

static int take_tokens(const struct bench *b, const struct backbone *backbone,
                       struct token_list *ret, struct error *err)
{
    return b->text != NULL ? encode_text(b, backbone, ret, err)
                           : random_tokens(b, backbone, ret, err);
}

/* --- comparing --- */

/* log of the sum of exponentials, and the largest. */
static double log_sum(const float *x, uint32_t count, uint32_t *ret_top)
{
    double sum = 0;
    uint32_t top = 0;
    for (uint32_t i = 1; i < count; i++)
        top = x[i] > x[top] ? i : top;
    for (uint32_t i = 0; i < count; i++)
        sum += exp((double)x[i] - (double)x[top]);
    *ret_top = top;
    return (double)x[top] + log(sum);
}

/* One position; `target`: the token that came next, or TOKENIZER_NONE. */
static void compare(struct sums *s, const float *reference, const float *x, uint32_t vocab,
                    uint32_t target)
{
    uint32_t reference_top, top;
    double reference_sum = log_sum(reference, vocab, &reference_top);
    double sum = log_sum(x, vocab, &top);
    double kl = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        double expected = (double)reference[i] - reference_sum;
        double difference = (double)x[i] - (double)reference[i];
        kl += exp(expected) * (expected - ((double)x[i] - sum));
        s->difference_square += difference * difference;
        s->square += (double)reference[i] * (double)reference[i];
    }
    s->kl[s->positions++] = kl;
    s->same_top += top == reference_top ? 1 : 0;
    if (target == TOKENIZER_NONE)
        return;
    s->targets++;
    s->nll += sum - (double)x[target];
    s->reference_nll += reference_sum - (double)reference[target];
}

static int compare_window(struct sums *s, struct rated *reference, struct rated *m,
                          const uint32_t *tokens, uint32_t count, struct error *err)
{
    uint32_t vocab = m->bench.backbone.config->vocab_count;
    int r = engine_logits(reference->engine, tokens, count, -1, reference->logits, err);
    if (r == 0)
        r = engine_logits(m->engine, tokens, count, -1, m->logits, err);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        size_t row = (size_t)i * vocab;
        compare(s, reference->logits + row, m->logits + row, vocab,
                i + 1 < count ? tokens[i + 1] : TOKENIZER_NONE);
    }
    return r;
}

/* s->kl has room for two positions a token. */
static int compare_all(struct sums *s, struct rated *reference, struct rated *m,
                       const struct token_list *text, struct error *err)
{
    const struct model_config *c = m->bench.backbone.config;
    uint32_t tokens[WINDOW];
    uint32_t begin = c->bos_id < c->vocab_count ? 1 : 0;
    uint32_t window = c->context_max < WINDOW ? c->context_max : WINDOW;
    tokens[0] = c->bos_id;
    for (size_t at = 0; at < text->count;) {
        size_t left = text->count - at;
        uint32_t n = left < window - begin ? (uint32_t)left : window - begin;
        memcpy(tokens + begin, text->ids + at, n * sizeof tokens[0]);
        int r = compare_window(s, reference, m, tokens, begin + n, err);
        if (r < 0)
            return r;
        at += n;
    }
    return 0;
}

/* --- results --- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const struct rated *m, struct sums *s)
{
    double mean = 0;
    for (uint64_t i = 0; i < s->positions; i++)
        mean += s->kl[i] / (double)s->positions;
    qsort(s->kl, s->positions, sizeof *s->kl, compare_doubles);
    json_t *line = bench_line(&m->bench, pool_threads(m->bench.pool));
    bench_set_count(line, "tokens", s->positions);
    if (m->bench.text != NULL) { /* of random tokens it says nothing */
        bench_set(line, "perplexity", exp(s->nll / (double)s->targets));
        bench_set(line, "bf16_perplexity", exp(s->reference_nll / (double)s->targets));
    }
    bench_set(line, "kl_mean", mean);
    bench_set(line, "kl_p99", s->kl[(s->positions - 1) * 99 / 100]);
    bench_set(line, "same_top", (double)s->same_top / (double)s->positions);
    bench_set(line, "logit_error", sqrt(s->difference_square / s->square));
    bench_set_count(line, "weight_bytes", m->bench.backbone.weight_bytes);
    bench_print(line);
}

static int rate(const struct bench *b, struct rated *reference, uint32_t dtype,
                const struct token_list *text, struct error *err)
{
    struct rated m;
    struct sums s = {.kl = malloc(2 * text->count * sizeof *s.kl)};
    int r = s.kl != NULL ? 0 : error_set(err, -ENOMEM, "no memory for %zu tokens", text->count);
    if (r == 0) {
        r = open_rated(b, dtype, &m, err);
        if (r == 0)
            r = compare_all(&s, reference, &m, text, err);
        if (r == 0)
            print(&m, &s);
        close_rated(&m);
    }
    free(s.kl);
    return r;
}

int bench_quality(struct bench *b, struct error *err)
{
    /* bf16, which is also what is not asked for: both that are compared with it */
    const uint32_t dtypes[] = {b->dtype == IMAGE_BF16 ? IMAGE_INT8 : b->dtype, IMAGE_INT4};
    uint32_t count = b->dtype == IMAGE_BF16 ? 2 : 1;
    struct rated reference;
    struct token_list text;
    token_list_init(&text, TOKENIZER_TEXT_BYTES_MAX);
    int r = open_rated(b, IMAGE_BF16, &reference, err);
    if (r == 0)
        r = take_tokens(b, &reference.bench.backbone, &text, err);
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = rate(b, &reference, dtypes[i], &text, err);
    close_rated(&reference);
    token_list_free(&text);
    return r;
}
