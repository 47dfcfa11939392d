/*
 * The scheduler core in seeded worlds (sched_world.h). Each runs in a process of its own; one that
 * fails is run again with ever fewer steps, and what is left is printed as a list of events.
 *
 *   SLLORA_SEED=N runs one world; SLLORA_WORLDS=N that many.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit/sched_world.h"

#define STEP_BYTES ((WORLD_STEPS + 7) / 8)
#define SECONDS_MAX 60

/* Runs a world in a child; true when it came to its end. quiet: what it says is not shown. */
static bool survives(uint64_t seed, const uint8_t *steps, bool quiet, bool verbose)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        setvbuf(stdout, NULL, verbose ? _IOLBF : _IOFBF, 1 << 16);
        if (quiet) {
            int null = open("/dev/null", O_WRONLY);
            dup2(null, 1);
            dup2(null, 2);
        }
        alarm(SECONDS_MAX); /* a world that never ends fails too */
        world_run(seed, steps, verbose);
        fflush(NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!quiet && WIFSIGNALED(status))
        printf("it ended by signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void clear(uint8_t *steps, uint32_t from, uint32_t count)
{
    for (uint32_t i = from; i < from + count && i < WORLD_STEPS; i++)
        steps[i / 8] &= (uint8_t) ~(1u << i % 8);
}

/* Leaves out runs of steps, half as long each time, as long as the world still fails. */
static uint32_t shrink(uint64_t seed, uint8_t steps[STEP_BYTES])
{
    memset(steps, 0xff, STEP_BYTES);
    for (uint32_t length = WORLD_STEPS / 2; length > 0; length /= 2) {
        for (uint32_t from = 0; from < WORLD_STEPS; from += length) {
            uint8_t fewer[STEP_BYTES];
            memcpy(fewer, steps, STEP_BYTES);
            clear(fewer, from, length);
            if (memcmp(fewer, steps, STEP_BYTES) != 0 && !survives(seed, fewer, true, false))
                memcpy(steps, fewer, STEP_BYTES);
        }
    }
    uint32_t left = 0;
    for (uint32_t i = 0; i < WORLD_STEPS; i++)
        left += steps[i / 8] >> i % 8 & 1;
    return left;
}

static void explain(uint64_t seed)
{
    uint8_t steps[STEP_BYTES];
    uint32_t left = shrink(seed, steps);
    printf("world %llu fails; %u of its %u steps are enough, these events:\n",
           (unsigned long long)seed, left, WORLD_STEPS);
    (void)survives(seed, steps, false, true);
    printf("again: SLLORA_SEED=%llu build/tests/test_worlds\n", (unsigned long long)seed);
}

static void test_worlds(void **state)
{
    (void)state;
    const char *one = getenv("SLLORA_SEED");
    const char *many = getenv("SLLORA_WORLDS");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    uint64_t count = one ? 1 : many ? strtoull(many, NULL, 10) : 200;
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (survives(seed, NULL, true, false))
            continue;
        explain(seed);
        fail();
    }
}

/* The machinery itself: a world that is made to fail does, and shrinks. */
static void test_a_failure_is_seen(void **state)
{
    (void)state;
    uint8_t none[STEP_BYTES] = {0};
    assert_true(survives(1, none, true, false));
    setenv("SLLORA_WORLD_FAULT", "1", 1);
    uint8_t steps[STEP_BYTES];
    assert_false(survives(1, NULL, true, false));
    assert_true(shrink(1, steps) <= 3);
    unsetenv("SLLORA_WORLD_FAULT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_worlds),
                                       cmocka_unit_test(test_a_failure_is_seen)};
    return cmocka_run_group_tests_name("worlds", tests, NULL, NULL);
}
