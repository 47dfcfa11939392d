/*
 * sllora-worker: the only program that sees weights, adapters and prompts. The daemon starts it
 * with a channel at descriptor 3:
 *
 *   sllora-worker packer|keeper|stager|zygote|worker FEATURES MEMORY_BYTES FILE_BYTES THREADS GPU
 *                                      GPU: its index, or "-"
 *   sllora-worker bench ...            measures the engine, started by `sllora bench`
 */
#include "base/clock.h"
#include "worker/bench.h"
#include "worker/roles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHANNEL_FD 3

#ifdef SLLORA_SANITIZED
/* What AddressSanitizer keeps of freed memory counts against a role's limit, and the environment
 * that could say how much does not reach roles: they are started with none. */
__attribute__((used)) const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "quarantine_size_mb=8";
}
#endif

static uint64_t number(const char *s)
{
    char *end;
    unsigned long long n = strtoull(s, &end, 10);
    if (*s == '\0' || *end != '\0') {
        fprintf(stderr, "sllora-worker: \"%s\" is not a number; sllora serve starts this program\n",
                s);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct role_options *o);
    } roles[] = {{"packer", role_packer},
                 {"keeper", role_keeper},
                 {"stager", role_stager},
                 {"zygote", role_zygote},
                 {"worker", role_worker}};

    uint64_t began_us = clock_now_us();
    if (argc >= 2 && strcmp(argv[1], "bench") == 0)
        return bench_main(argc - 1, argv + 1);
    for (size_t i = 0; argc == 7 && i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(argv[1], roles[i].name) != 0)
            continue;
        const struct role_options o = {
            .chan = CHANNEL_FD,
            .features = (uint32_t)number(argv[2]),
            .memory_bytes_max = number(argv[3]),
            .file_bytes_max = number(argv[4]),
            .threads = (uint32_t)number(argv[5]),
            .has_gpu = strcmp(argv[6], "-") != 0,
            .gpu = strcmp(argv[6], "-") != 0 ? (uint32_t)number(argv[6]) : 0,
            .began_us = began_us,
        };
        return roles[i].run(&o);
    }
    fprintf(stderr, "sllora-worker is started by sllora serve; see sllora --help\n");
    return 2;
}
