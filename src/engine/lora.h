/*
 * What adapters do to the linears of a batch, unmerged: y += B (scale (A x)) for each group of rows
 * with the same adapter, at the adapter's true rank; with DoRA, y *= magnitude / norm; where an
 * adapter brings a matrix or bias of its own, that one. One decision: two steps around the matrix
 * product. Shrink runs before it for all groups; the rest runs inside the chunk of outputs that was
 * just written. A batch without adapters runs neither.
 */
#pragma once

#include "engine/forward.h"

/* The backbone that a row of the batch sees: with its adapter's own tensors, if it has any. */
const struct backbone *lora_view(const struct forward *f, const struct batch *b, uint32_t row);

/* Token embeddings of all rows into f->act.x. */
void lora_embed(struct forward *f, const struct batch *b);

/* Finds what adapters do to `count` <= 3 linears of a layer (f->act.uses), and A x, scaled, for
 * every adapted one of them (f->act.shrunk). Before each lora_apply of these. */
void lora_shrink(struct forward *f, const struct batch *b, const struct linear *linears,
                 uint32_t count);

/* Outputs [begin, end) of linear `at` (as given to lora_shrink) for all rows. */
void lora_apply(const struct forward *f, const struct batch *b, const struct linear *linears,
                uint32_t at, uint32_t begin, uint32_t end);
