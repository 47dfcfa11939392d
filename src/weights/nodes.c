/* See nodes.h. System calls by number: libnuma would be a dependency for two of them. */
#include "weights/nodes.h"

#include <assert.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WORD_BITS (8 * (uint32_t)sizeof(unsigned long))
#define WORDS (NODES_MAX / WORD_BITS)

static int has(const struct nodes *n, uint32_t node)
{
    return (n->mask[node / WORD_BITS] >> node % WORD_BITS & 1) != 0;
}

void nodes_allowed(struct nodes *ret)
{
    memset(ret, 0, sizeof *ret);
    if (syscall(SYS_get_mempolicy, NULL, ret->mask, NODES_MAX, NULL, MPOL_F_MEMS_ALLOWED) != 0)
        memset(ret, 0, sizeof *ret);
}

uint32_t nodes_count(const struct nodes *n)
{
    uint32_t count = 0;
    for (uint32_t w = 0; w < WORDS; w++)
        count += (uint32_t)__builtin_popcountl(n->mask[w]);
    return count;
}

uint32_t nodes_nth(const struct nodes *n, uint32_t turn)
{
    uint32_t count = nodes_count(n), left = turn % (count > 0 ? count : 1);
    assert(count > 0);
    for (uint32_t node = 0;; node++)
        if (has(n, node) && left-- == 0)
            return node;
}

uint64_t nodes_spread(const struct nodes *n, void *data, uint64_t bytes, uint64_t piece)
{
    uint64_t placed = 0;
    uint32_t turn = 0;
    for (uint64_t at = 0; at < bytes; at += piece, turn++) {
        uint32_t node = nodes_nth(n, turn);
        struct nodes one = {{0}};
        one.mask[node / WORD_BITS] = 1ul << node % WORD_BITS;
        uint64_t length = bytes - at < piece ? bytes - at : piece;
        /* The mask's length counts one more than its bits. */
        placed += syscall(SYS_mbind, (char *)data + at, length, MPOL_PREFERRED, one.mask,
                          NODES_MAX + 1, 0) == 0;
    }
    return placed;
}
