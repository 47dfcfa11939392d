/* `sllora serve`: the daemon from start to end. */
#pragma once

#include "daemon/config.h"

/* Runs until SIGTERM or SIGINT. 0, or -errno with a sentence when it could not start. */
int serve(const struct daemon_config *config, struct error *err);
