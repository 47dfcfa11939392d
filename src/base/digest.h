/* SHA-256, the name of every image: content decides identity, names never do. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_BYTES 32
#define DIGEST_HEX_BYTES (2 * DIGEST_BYTES + 1)

struct digest {
    uint8_t bytes[DIGEST_BYTES];
};

struct digest_state; /* an incremental hash */

struct digest_state *digest_begin(void); /* NULL when memory is out */
void digest_update(struct digest_state *s, const void *bytes, size_t len);
void digest_end(struct digest_state *s, struct digest *ret); /* frees the state */

void digest_of(const void *bytes, size_t len, struct digest *ret);
void digest_hex(const struct digest *d, char ret[DIGEST_HEX_BYTES]);
int digest_parse(const char *hex, struct digest *ret); /* 0 or -EINVAL: 64 lower-case digits */
bool digest_equal(const struct digest *a, const struct digest *b);
