/*
 * What sharing a GPU's memory comes to on this machine, by trying: one process makes and fills
 * some, others, each a fresh one, read it and try what they must not. All of them are children of
 * the caller's, which itself never opens the driver here and must not have done so before: what a
 * process has opened is of no use to its children.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct gpu_trial {
    uint64_t bytes;         /* that were shared */
    double write_bytes_s;   /* from host memory to the device's */
    uint64_t open_us;       /* what opening a process on the device takes */
    bool refuses_writes;    /* through the read-only mapping, and the bytes are as they were */
    bool grants_writing;    /* to a reader that asks the driver for it */
    bool changed_by_asking; /* and what it writes then is seen by the others */
};

/* -ENOENT, -ENODEV, -ENOTSUP, -EIO: as gpu_driver_open; -ENODEV also when there is no index-th GPU.
 * -EIO too when something of it hangs or a reader sees other bytes; else why it cannot be shared.
 */
int gpu_trial_run(struct gpu_trial *ret, uint32_t index, struct error *err);
