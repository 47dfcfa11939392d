/* The emulated kernels, as the fake driver sees them. */
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EMULATION_SHARED_BYTES_MAX 232448u /* of a block: as on sm_90 */

/* NULL: there is none of this name. */
const void *emulation_find(const char *name);

/* Of the struct that it takes. */
size_t emulation_parameter_bytes(const void *kernel);

/* Runs every block; -1: there is no memory, or a warp is not whole. One launch at a time. */
int emulation_launch(const void *kernel, const void *parameter, const unsigned grid[3],
                     const unsigned block[3], size_t shared_bytes);

/* Says on stderr which thread was running: after a launch that a signal ended. */
void emulation_describe_fault(void);

#ifdef __cplusplus
}
#endif
