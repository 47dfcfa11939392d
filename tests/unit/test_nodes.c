/* Memory over several nodes: whose turn it is, and pages that lie where they were wished. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <linux/mempolicy.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "weights/nodes.h"

#define PIECE_BYTES (UINT64_C(64) << 10)
#define BYTES (5 * PIECE_BYTES + 4096)

static void test_turns(void **state)
{
    (void)state;
    struct nodes n = {{0}};
    n.mask[0] = 1ul << 1 | 1ul << 3;
    n.mask[2] = 1ul << 5;
    uint32_t last = 2 * 8 * (uint32_t)sizeof(unsigned long) + 5;
    const uint32_t expected[] = {1, 3, last, 1, 3, last, 1};
    assert_int_equal(nodes_count(&n), 3);
    for (uint32_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(nodes_nth(&n, i), expected[i]);
}

/* On the nodes of this machine, whatever their number: a page is where its piece was to be. */
static void test_pages_lie_where_wished(void **state)
{
    (void)state;
    struct nodes n;
    nodes_allowed(&n);
    if (nodes_count(&n) == 0)
        skip(); /* a kernel without memory policies */
    char *data = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(data != MAP_FAILED);
    assert_int_equal(nodes_spread(&n, data, BYTES, PIECE_BYTES), 6);
    for (uint32_t piece = 0; piece < 6; piece++) {
        int node = -1;
        char *at = data + piece * PIECE_BYTES;
        *at = 1;
        assert_int_equal(syscall(SYS_get_mempolicy, &node, NULL, 0, at, MPOL_F_NODE | MPOL_F_ADDR),
                         0);
        assert_int_equal(node, nodes_nth(&n, piece));
    }
    munmap(data, BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_turns),
                                       cmocka_unit_test(test_pages_lie_where_wished)};
    return cmocka_run_group_tests_name("nodes", tests, NULL, NULL);
}
