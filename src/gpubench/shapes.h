/* Models by name: the shapes that figures are taken on, and small ones that have between them
 * everything that a family does differently. */
#pragma once

#include "model/config.h"

/* "llama-2-7b", "qwen2.5-0.5b", "llama-3.2-1b", "small" (the first of the small ones); -EINVAL with
 * the names that there are. */
int shape_find(const char *name, struct model_config *ret, struct error *err);

#define SHAPE_FAMILIES 7u
/* The i-th small one, and its name. */
const char *shape_small(uint32_t i, struct model_config *ret);
