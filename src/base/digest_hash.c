/* The hashing of digest.h, apart from the rest so that only who hashes links it. OpenSSL, because
 * its SHA-256 uses the processor's SHA instructions. */
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
