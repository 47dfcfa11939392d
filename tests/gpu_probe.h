/*
 * What the two halves of the GPU probe say to each other: gpu_probe.c keeps the memory and judges,
 * gpu_probe_try.c is the fresh process that reads it and tries one thing that a reader must not.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PROBE_TEXT_BYTES 2048
#define PROBE_PIECE_BYTES (UINT64_C(4) << 20)

/* The first two must work; each of the others tries to write what it may only read. */
enum probe {
    PROBE_READ,
    PROBE_LAUNCH,
    PROBE_STORE,
    PROBE_ATOMIC,
    PROBE_MEMSET,
    PROBE_COPY,
    PROBE_ASK,
    PROBE_SECOND_MAP,
    PROBE_IMPORT_ANEW,
    PROBE_COUNT
};

/* What a process is told when it starts. */
struct probe_task {
    bool is_keeper; /* else a probe, and the descriptor of the memory comes with this */
    uint32_t device;
    uint64_t bytes;        /* that are filled */
    uint64_t mapped_bytes; /* as the device hands them out */
    enum probe probe;
    bool denies_ioctl;
};

struct probe_answer {
    bool has_tried; /* the thing itself was tried, and all that it takes worked */
    bool works;     /* of those that must */
    char text[PROBE_TEXT_BYTES];
};

/* Word i of the memory. Each byte is odd, and what the probes write is even in each byte: so every
 * byte that arrives is counted. */
static inline uint32_t probe_word(uint64_t i)
{
    return ((uint32_t)i * 2654435761u + 12345) | 0x01010101u;
}

/* How many bytes of these words, of which the first is word `first`, are others. */
static inline uint64_t probe_count_changed(const uint32_t *words, uint64_t first, uint64_t bytes)
{
    uint64_t changed = 0;
    for (uint64_t i = 0; i < bytes / sizeof *words; i++) {
        uint32_t other = words[i] ^ probe_word(first + i);
        for (; other != 0; other >>= 8)
            changed += (other & 0xff) != 0;
    }
    return changed;
}

/* Does the task, sends the answer and ends. */
_Noreturn void probe_try(const struct probe_task *task, int memory_fd, int chan);
