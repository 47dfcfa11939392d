/*
 * The demo backbone keeps its promise: on text that nothing was trained on, each adapter lowers the
 * perplexity of its own kind of text, against the bare backbone and against the other two.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "engine/engine.h"
#include "model/tokenizer.h"
#include "packing.h"

#define ADAPTERS 3u
#define WINDOW 256u /* tokens, the beginning-of-text token included */
#define WINDOWS 12u /* of each text */

static const char *const names[ADAPTERS] = {"scripture", "hacker", "cynic"};

struct demo {
    struct packed images[1 + ADAPTERS];
    struct backbone backbone;
    struct adapter adapters[ADAPTERS];
    struct tokenizer *tokenizer;
    struct engine *engine;
    float *logits; /* [WINDOW, vocab] */
};

/* The backbone while d is NULL, else an adapter for it. */
static void pack(struct packed *p, const char *path, const struct demo *d)
{
    struct error err = {0};
    int r = packing_pack(p, path, IMAGE_BF16, d == NULL ? NULL : &d->backbone,
                         d == NULL ? NULL : &d->images[0].result.digest, &err);
    if (r < 0)
        fail_msg("%s: %s", path, err.text);
}

static int open_demo(void **state)
{
    static struct demo d;
    struct error err = {0};
    char path[128];
    pack(&d.images[0], "models/demo", NULL);
    int r = backbone_open(&d.backbone, d.images[0].base, d.images[0].result.bytes, &err);
    if (r == 0)
        r = tokenizer_open(&d.tokenizer, d.backbone.tokenizer, d.backbone.tokenizer_bytes, &err);
    const struct engine_options o = {
        .sequences_max = 1, .rows_max = WINDOW, .kv_bytes = 32 << 20, .adapters_max = ADAPTERS};
    if (r == 0)
        r = engine_open(&d.engine, &d.backbone, &o, &err);
    for (uint32_t i = 0; r == 0 && i < ADAPTERS; i++) {
        snprintf(path, sizeof path, "models/demo-adapters/%s", names[i]);
        pack(&d.images[1 + i], path, &d);
        r = adapter_open(&d.adapters[i], d.images[1 + i].base, d.images[1 + i].result.bytes,
                         &d.backbone, &d.images[0].result.digest, &err);
        if (r == 0)
            r = engine_adapter_set(d.engine, i, &d.adapters[i], &d.images[1 + i].result.digest,
                                   &err);
    }
    if (r < 0)
        fail_msg("%s", err.text);
    d.logits = malloc(sizeof(float) * WINDOW * d.backbone.config->vocab_count);
    assert_non_null(d.logits);
    *state = &d;
    return 0;
}

static int close_demo(void **state)
{
    struct demo *d = *state;
    engine_close(d->engine);
    tokenizer_close(d->tokenizer);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        adapter_close(&d->adapters[i]);
    backbone_close(&d->backbone);
    for (uint32_t i = 0; i <= ADAPTERS; i++)
        packing_release(&d->images[i]);
    free(d->logits);
    return 0;
}

static void read_text(const struct demo *d, const char *name, struct token_list *ret)
{
    char path[128], text[32 << 10];
    struct error err = {0};
    snprintf(path, sizeof path, "models/demo-adapters/%s/heldout.txt", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    token_list_init(ret, sizeof text);
    if (tokenizer_encode(d->tokenizer, text, n, 0, ret, &err) < 0)
        fail_msg("%s: %s", path, err.text);
}

/* Of raw text, in windows that each begin with the beginning-of-text token. slot -1: bare. */
static double perplexity(struct demo *d, const struct token_list *text, int32_t slot)
{
    uint32_t vocab = d->backbone.config->vocab_count;
    uint32_t tokens[WINDOW];
    double total = 0;
    uint32_t count = 0;
    struct error err = {0};
    for (size_t at = 0; at + WINDOW - 1 <= text->count && at < WINDOWS * (WINDOW - 1);
         at += WINDOW - 1) {
        tokens[0] = d->backbone.config->bos_id;
        memcpy(tokens + 1, text->ids + at, (WINDOW - 1) * sizeof tokens[0]);
        if (engine_logits(d->engine, tokens, WINDOW, slot, d->logits, &err) < 0)
            fail_msg("%s", err.text);
        for (uint32_t i = 0; i + 1 < WINDOW; i++, count++) {
            const float *row = d->logits + (size_t)i * vocab;
            double sum = 0;
            for (uint32_t v = 0; v < vocab; v++)
                sum += exp((double)row[v] - row[tokens[i + 1]]);
            total += log(sum);
        }
    }
    assert_true(count > 0);
    return exp(total / count);
}

static void test_each_adapter_knows_its_own_text(void **state)
{
    struct demo *d = *state;
    for (uint32_t t = 0; t < ADAPTERS; t++) {
        struct token_list text;
        double of[1 + ADAPTERS];
        read_text(d, names[t], &text);
        for (uint32_t a = 0; a <= ADAPTERS; a++)
            of[a] = perplexity(d, &text, (int32_t)a - 1);
        print_message("%-10s bare %7.2f  scripture %7.2f  hacker %7.2f  cynic %7.2f\n", names[t],
                      of[0], of[1], of[2], of[3]);
        for (uint32_t a = 0; a <= ADAPTERS; a++) {
            if (a != 1 + t)
                assert_true(of[1 + t] < of[a]);
        }
        token_list_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_adapter_knows_its_own_text)};
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
