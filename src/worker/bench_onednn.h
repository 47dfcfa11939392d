/* oneDNN's products beside ours, where build/sllora-onednn was built (bench/onednn.c). It runs as a
 * process of its own, because its library starts threads and compiles code. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

struct onednn {
    pid_t pid;
    FILE *to, *from;
};

/* False when it is not there or does not run. */
bool onednn_open(struct onednn *ret, uint32_t threads);
void onednn_close(struct onednn *o);

/* One run: the microseconds of one product of `type` (bf16, f32, int8), its weights from copies of
 * `bytes` in all. 0: there is none. */
double onednn_us(const struct onednn *o, const char *type, uint32_t rows, uint32_t in, uint32_t out,
                 size_t bytes);
