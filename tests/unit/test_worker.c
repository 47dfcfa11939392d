/*
 * A worker at the other end of a channel, as the daemon runs it: whose it is after the first BIND,
 * and what it does with orders that do not fit. It says why and ends; nothing of another domain
 * ever comes into it.
 */
#include "unit/role_process.h"

#include "packing.h"
#include "weights/share.h"

#define BACKBONE_BYTES_MAX ((uint64_t)1 << 30)

static int case_worker(uint32_t features)
{
    return run_role(role_worker, features);
}

static const struct child_case CASES[] = {{"worker", case_worker}};

/* --- a backbone in memory, as a keeper leaves it; for all tests, to the end --- */

static struct fixture {
    struct share *share;
    struct digest digest;
    int writable; /* the same bytes, in a file that anybody may change */
} backbone;

static int open_fixture(void **state)
{
    struct error err = {0};
    struct packed p;
    (void)state;
    backbone.writable = packing_temporary();
    if (packing_pack(&p, "models/demo", IMAGE_BF16, NULL, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(write(backbone.writable, p.base, p.result.bytes), p.result.bytes);
    backbone.digest = p.result.digest;
    if (share_create(&backbone.share, p.result.bytes, NULL, &err) < 0 ||
        share_fill(backbone.share, backbone.writable, &backbone.digest, NULL, NULL, &err) < 0 ||
        share_seal(backbone.share, &err) < 0)
        fail_msg("%s", err.text);
    packing_release(&p);
    return 0;
}

/* --- what is said to it --- */

static void put_attach(struct process *p, const struct digest *digest, int fd)
{
    const struct wire_attach a = {.backbone = *digest,
                                  .kv_bytes = BACKBONE_BYTES_MAX,
                                  .kv_limit_bytes = BACKBONE_BYTES_MAX / 64,
                                  .sequences_max = 4,
                                  .rows_max = 64,
                                  .adapters_max = 4,
                                  .threads = 1,
                                  .context_max = 256};
    put(p, WIRE_ATTACH, &a, fd);
}

static void put_bind(struct process *p, uint64_t domain, uint32_t slot)
{
    const struct wire_bind b = {.domain = {domain, ~domain}, .slot = slot};
    put(p, WIRE_BIND, &b, -1);
}

static struct process *attached(void)
{
    struct wire_record r;
    struct process *p = process_start("worker");
    put_attach(p, &backbone.digest, share_reader_fd(backbone.share));
    send_out(p);
    assert_true(receive(p, &r));
    if (r.type == WIRE_FAILED)
        fail_msg("%.*s", (int)r.tail_bytes, (const char *)r.tail);
    assert_int_equal(r.type, WIRE_READY);
    return p;
}

static void bound(struct process *p, uint32_t slot)
{
    struct wire_record r;
    assert_true(receive(p, &r));
    assert_int_equal(r.type, WIRE_BOUND);
    assert_int_equal(((const struct wire_bound *)r.fixed)->slot, slot);
}

static void refused(struct process *p, uint32_t status, const char *words)
{
    failed(p, WIRE_FAILED_PROCESS, 0, status, words);
    nothing_more(p);
    process_ends(p, 1);
}

/* --- tests --- */

static void test_one_domain(void **state)
{
    (void)state;
    struct process *p = attached();
    put_bind(p, 7, 0);
    put_bind(p, 7, 3);
    send_out(p);
    bound(p, 0);
    bound(p, 3);
    put_bind(p, 8, 1);
    send_out(p);
    refused(p, EPERM, "belongs to another domain");
}

/* Not even when it has nothing of the first one any more. */
static void test_one_domain_for_good(void **state)
{
    (void)state;
    struct process *p = attached();
    const struct wire_slot slot = {.slot = 0};
    put_bind(p, 7, 0);
    put(p, WIRE_UNBIND, &slot, -1);
    put_bind(p, 8, 0);
    send_out(p);
    bound(p, 0);
    refused(p, EPERM, "belongs to another domain");
}

/* An adapter that did not come is its function's fault, and the worker's others go on. */
static void test_a_bind_without_its_adapter(void **state)
{
    (void)state;
    struct process *p = attached();
    const struct wire_bind b = {.domain = {7, ~UINT64_C(7)}, .slot = 2, .has_adapter = 1};
    put(p, WIRE_BIND, &b, -1);
    put_bind(p, 7, 2);
    send_out(p);
    failed(p, WIRE_FAILED_SLOT, 2, EINVAL, "came without an image");
    bound(p, 2);
    process_ends(p, 0);
}

/* Memory that somebody could still change is not computed with. */
static void test_memory_that_is_not_sealed(void **state)
{
    (void)state;
    struct process *p = process_start("worker");
    put_attach(p, &backbone.digest, backbone.writable);
    send_out(p);
    failed(p, WIRE_FAILED_PROCESS, 0, 0, "");
    nothing_more(p);
    process_ends(p, 1);
}

static void test_before_its_backbone(void **state)
{
    (void)state;
    const struct wire_submit submit = {.choices = 1};
    struct process *p = process_start("worker");
    put_bind(p, 7, 0);
    send_out(p);
    refused(p, EPROTO, "BIND does not fit");
    p = process_start("worker");
    put(p, WIRE_SUBMIT, &submit, -1);
    send_out(p);
    refused(p, EPROTO, "slot that is not bound");
    p = process_start("worker");
    put_attach(p, &backbone.digest, -1);
    send_out(p);
    refused(p, EPROTO, "comes once, with its memory");
}

enum nonsense {
    ATTACH_AGAIN,
    BIND_AGAIN,
    BIND_OUT_OF_RANGE,
    SUBMIT_UNBOUND,
    SUBMIT_OUT_OF_RANGE,
    SUBMIT_NO_CHOICE,
    SUBMIT_TOO_MANY_CHOICES,
    SUBMIT_WRONG_LENGTH,
    ANOTHERS_RECORD,
    NO_RECORD,
    NONSENSE_COUNT,
};

static const char *put_nonsense(struct process *p, enum nonsense what)
{
    struct wire_submit submit = {.slot = what == SUBMIT_UNBOUND        ? 1
                                         : what == SUBMIT_OUT_OF_RANGE ? UINT32_MAX
                                                                       : 0,
                                 .choices = what == SUBMIT_NO_CHOICE          ? 0
                                            : what == SUBMIT_TOO_MANY_CHOICES ? 5
                                                                              : 1,
                                 .body_bytes = what == SUBMIT_WRONG_LENGTH};
    const struct wire_loaded loaded = {.number = 1};
    switch (what) {
    case ATTACH_AGAIN:
        put_attach(p, &backbone.digest, -1);
        return "one ATTACH makes a worker";
    case BIND_AGAIN:
        put_bind(p, 7, 0);
        return "BIND does not fit";
    case BIND_OUT_OF_RANGE:
        put_bind(p, 7, UINT32_MAX);
        return "BIND does not fit";
    case ANOTHERS_RECORD:
        put(p, WIRE_LOADED, &loaded, -1);
        return "is not for a worker";
    case NO_RECORD:
        put(p, WIRE_SUBMIT, &submit, -1);
        memset(p->out.bytes, 0xff, sizeof(struct wire_header));
        return "bytes that are no record";
    default:
        put(p, WIRE_SUBMIT, &submit, -1);
        return what == SUBMIT_UNBOUND || what == SUBMIT_OUT_OF_RANGE ? "slot that is not bound"
               : what == SUBMIT_WRONG_LENGTH                         ? "wrong length"
                                                                     : "choices";
    }
}

static void test_nonsense_ends_it(void **state)
{
    (void)state;
    for (uint32_t what = 0; what < NONSENSE_COUNT; what++) {
        struct process *p = attached();
        put_bind(p, 7, 0);
        send_out(p);
        bound(p, 0);
        const char *words = put_nonsense(p, what);
        send_out(p);
        refused(p, what == NO_RECORD ? 0 : EPROTO, words);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--child") == 0)
        return child_main(argc, argv, CASES, sizeof CASES / sizeof *CASES);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_domain),
        cmocka_unit_test(test_one_domain_for_good),
        cmocka_unit_test(test_a_bind_without_its_adapter),
        cmocka_unit_test(test_memory_that_is_not_sealed),
        cmocka_unit_test(test_before_its_backbone),
        cmocka_unit_test(test_nonsense_ends_it),
    };
    int failures = cmocka_run_group_tests_name("worker", tests, open_fixture, NULL);
    if (become_ordinary_user(&failures))
        failures = cmocka_run_group_tests_name("worker as ordinary user", tests, NULL, NULL);
    return failures;
}
