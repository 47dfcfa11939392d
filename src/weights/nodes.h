/*
 * Where memory lies on machines with several memory nodes (sockets). What all threads read, each a
 * part of its own, is dealt over the nodes piece by piece, so that every socket's memory works;
 * what a thread alone uses lies where it is touched first, which the kernel does by itself.
 */
#pragma once

#include <stdint.h>

#define NODES_MAX 1024u

struct nodes {
    unsigned long mask[NODES_MAX / (8 * sizeof(unsigned long))];
};

/* The nodes that this process may take memory from; none when the kernel does not say. */
void nodes_allowed(struct nodes *ret);
uint32_t nodes_count(const struct nodes *n);
/* The number of the `turn`-th node, counted round and round. There is one at least. */
uint32_t nodes_nth(const struct nodes *n, uint32_t turn);

/* Pages of a shared mapping that are touched from now on, by whomever, come piece by piece from the
 * nodes in turn while those have room. `data` and `piece` are multiples of a page. Returns how many
 * pieces the kernel took the wish for. */
uint64_t nodes_spread(const struct nodes *n, void *data, uint64_t bytes, uint64_t piece);
