/*
 * Which implementation of the kernels runs: the only place that asks the processor, once, so that
 * everything above calls through one constant table.
 */
#include "kernels/isa.h"

#include <asm/prctl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XFEATURE_XTILEDATA 18 /* no header of users has it */

const char *kernels_isa_name(enum kernel_isa isa)
{
    static const char *const names[KERNEL_ISA_COUNT] = {
        [KERNEL_ISA_REF] = "scalar",
        [KERNEL_ISA_AVX2] = "avx2",
        [KERNEL_ISA_AVX512] = "avx512",
        [KERNEL_ISA_AVX512VNNI] = "avx512vnni",
        [KERNEL_ISA_AVX512BF16] = "avx512bf16",
        [KERNEL_ISA_AMX] = "amx",
    };
    return names[isa];
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("fma");
}

static bool has_avx512_vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

/* The kernel keeps tiles only for processes that ask for them (arch_prctl(2)); asking twice is
 * nothing, and copies of a process have what it has. */
static bool has_tiles(void)
{
    return has_avx512_vnni() && __builtin_cpu_supports("amx-tile") &&
           __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* Intel begins a product of 32 bf16 every second cycle, of 16 floats two in each: what is for
 * pairs of bf16 elsewhere is half as fast there (PERF.md). */
static bool is_slow(enum kernel_isa isa)
{
    return isa == KERNEL_ISA_AVX512BF16 && __builtin_cpu_is("intel");
}

const struct kernels *kernels_get(enum kernel_isa isa)
{
    switch (isa) {
    case KERNEL_ISA_REF:
        return &kernels_ref;
    case KERNEL_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                       __builtin_cpu_supports("bmi2")
                   ? &kernels_avx2
                   : NULL;
    case KERNEL_ISA_AVX512:
        return has_avx512() ? &kernels_avx512 : NULL;
    case KERNEL_ISA_AVX512VNNI:
        return has_avx512_vnni() ? &kernels_avx512vnni : NULL;
    case KERNEL_ISA_AVX512BF16:
        return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16") ? &kernels_avx512bf16
                                                                         : NULL;
    case KERNEL_ISA_AMX:
        return has_tiles() ? &kernels_amx : NULL;
    default:
        return NULL;
    }
}

int kernels_select(const struct kernels **ret, struct error *err)
{
    const char *asked = getenv("SLLORA_ISA");
    /* Best first: the enum is in the order of what the instruction sets can do. */
    for (int isa = KERNEL_ISA_COUNT - 1; isa >= 0; isa--) {
        const struct kernels *table = kernels_get(isa);
        if (asked != NULL && strcmp(asked, kernels_isa_name(isa)) != 0)
            continue;
        if (table != NULL && (asked != NULL || !is_slow(isa))) {
            *ret = table;
            return 0;
        }
        if (asked != NULL)
            return error_set(err, -ENOTSUP,
                             "SLLORA_ISA=%s: this processor lacks those instructions; unset it to "
                             "take the best set that is there",
                             asked);
    }
    return error_set(err, -EINVAL,
                     "SLLORA_ISA=%.40s: unknown; it may be scalar, avx2, avx512, avx512vnni, "
                     "avx512bf16 or amx, or unset to take the best set that is there",
                     asked);
}
