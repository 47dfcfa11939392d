/* Bytes as a server's answer, whole and in pieces: both must be understood alike, within bounded
 * memory. The first byte of an input says how it is cut. */
#include "base/rng.h"
#include "cli/replay_stream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run(struct stream *a, const uint8_t *data, size_t size, struct rng *rng)
{
    struct error err = {0};
    int r = 0;
    stream_init(a);
    for (size_t at = 0; at < size && r == 0;) {
        size_t piece = size - at;
        if (rng != NULL)
            piece = 1 + rng_below(rng, piece < 32 ? (uint32_t)piece : 32);
        char *copy = malloc(piece);
        if (copy == NULL)
            abort();
        memcpy(copy, data + at, piece);
        r = stream_feed(a, copy, piece, 1, &err);
        free(copy);
        at += piece;
        /* Cut behind the answer, what follows it has not been seen yet. */
        if (r > 0 && at < size)
            r = stream_feed(a, (const char *)data + at, 1, 1, &err);
        assert(r >= 0 || err.text[0] != '\0');
    }
    return r != 0 ? r : stream_close(a, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct rng rng;
    struct stream whole, pieces;
    rng_seed(&rng, data[0]);
    int r = run(&whole, data + 1, size - 1, NULL);
    int s = run(&pieces, data + 1, size - 1, &rng);
    assert(r == s);
    if (r > 0) {
        assert(whole.status == pieces.status);
        assert(whole.tokens == pieces.tokens);
        assert(whole.pieces == pieces.pieces);
        assert(whole.finished == pieces.finished);
        assert(whole.broken == pieces.broken);
        assert(whole.first_us == pieces.first_us);
        assert(whole.keep_alive == pieces.keep_alive);
        assert(strcmp(whole.message, pieces.message) == 0);
    }
    stream_free(&whole);
    stream_free(&pieces);
    return 0;
}
