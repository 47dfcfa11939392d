/* What keeper and worker of start.h say to each other: a job, from a spare a byte when it is ready
 * and one back when it is needed, an answer. When the keeper closes the socket the worker ends. */
#pragma once

#include "base/digest.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum start_phase {
    START_PROCESS,
    START_DRIVER,
    START_CONTEXT,
    START_KERNELS,
    START_MAP,
    START_ENGINE,
    START_ADAPTER,
    START_FIRST,
    START_WARM, /* is not of a start */
    START_PHASES
};

struct start_job {
    uint32_t index; /* of the GPU */
    uint32_t prompt_tokens;
    bool is_spare;             /* waits with an engine that has worked, for an adapter */
    int head, memory, adapter; /* descriptors, inherited: the image but for its weights, the whole
                                * of it on the GPU, an adapter's image */
    uint64_t backbone_bytes, adapter_bytes;
    struct digest backbone_digest, adapter_digest;
    uint64_t began_us; /* when the process was asked for */
};

struct start_answer {
    uint64_t us[START_PHASES];
    uint64_t activation_bytes; /* on the GPU */
    uint64_t kv_bytes;         /* likewise, while it idles */
    struct error failure;      /* code < 0: it failed, and why */
};
