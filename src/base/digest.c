/* See digest.h. OpenSSL, because its SHA-256 uses the processor's SHA instructions. */
#include "base/digest.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

struct digest_state *digest_begin(void)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (ctx == NULL)
        return NULL;
    int ok = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
    assert(ok == 1);
    return (struct digest_state *)ctx;
}

void digest_update(struct digest_state *s, const void *bytes, size_t len)
{
    int ok = EVP_DigestUpdate((EVP_MD_CTX *)s, bytes, len);
    assert(ok == 1);
}

void digest_end(struct digest_state *s, struct digest *ret)
{
    unsigned int len = 0;
    int ok = EVP_DigestFinal_ex((EVP_MD_CTX *)s, ret->bytes, &len);
    assert(ok == 1);
    assert(len == DIGEST_BYTES);
    EVP_MD_CTX_free((EVP_MD_CTX *)s);
}

void digest_of(const void *bytes, size_t len, struct digest *ret)
{
    unsigned int n = 0;
    int ok = EVP_Digest(bytes, len, ret->bytes, &n, EVP_sha256(), NULL);
    assert(ok == 1);
    assert(n == DIGEST_BYTES);
}

void digest_hex(const struct digest *d, char ret[DIGEST_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < DIGEST_BYTES; i++) {
        ret[2 * i] = digits[d->bytes[i] >> 4];
        ret[2 * i + 1] = digits[d->bytes[i] & 15];
    }
    ret[2 * DIGEST_BYTES] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

int digest_parse(const char *hex, struct digest *ret)
{
    struct digest d;
    if (strlen(hex) != 2 * DIGEST_BYTES)
        return -EINVAL;
    for (int i = 0; i < DIGEST_BYTES; i++) {
        int high = hex_value(hex[2 * i]);
        int low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        d.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *ret = d;
    return 0;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return memcmp(a->bytes, b->bytes, DIGEST_BYTES) == 0;
}
