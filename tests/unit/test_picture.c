/*
 * Pictures of event logs: what they say is what the log said, their memory is the core's to the
 * byte in seeded worlds, a log that is cut or damaged anywhere is drawn up to there, and a log of
 * any length gives a page of bounded size.
 */
#include "sim/picture_parts.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "sched/view.h"
#include "store/eventlog.h"
#include "unit/page_checks.h"

/* --- a world that is recorded, with what the core's devices held after each plan --- */

#define HELD_DEVICES 3u

static struct recording {
    struct eventlog *log;
    char path[96];
    uint64_t (*held)[HELD_DEVICES]; /* of each plan that the log has */
    size_t plans;
} rec;

static struct sched *record_init(void *memory, const struct sched_config *config)
{
    struct error err = {0};
    if (eventlog_open(&rec.log, rec.path, 1u << 30, config, &err) < 0)
        fail_msg("%s", err.text);
    return sched_init(memory, config);
}

static void record_apply(struct sched *s, const struct sched_event *e)
{
    eventlog_event(rec.log, e);
    sched_apply(s, e);
}

static uint32_t record_plan(struct sched *s, uint64_t now_us, struct sched_action *actions,
                            uint32_t max, bool *more)
{
    uint32_t n = sched_plan(s, now_us, actions, max, more);
    if (n == 0)
        return 0;
    eventlog_plan(rec.log, now_us, actions, n);
    rec.held = realloc(rec.held, (rec.plans + 1) * sizeof *rec.held);
    assert_non_null(rec.held);
    for (uint32_t i = 0; i < HELD_DEVICES; i++) {
        struct sched_device_view v;
        sched_device_view(s, now_us, i, &v);
        rec.held[rec.plans][i] = v.exists ? v.used_bytes : 0;
    }
    rec.plans++;
    return n;
}

#define sched_init record_init
#define sched_apply record_apply
#define sched_plan record_plan
#include "unit/sched_world.h"
#undef sched_init
#undef sched_apply
#undef sched_plan

/* --- logs by hand --- */

static int set_up(void **state)
{
    memset(&rec, 0, sizeof rec);
    snprintf(rec.path, sizeof rec.path, "/tmp/sllora-picture-XXXXXX");
    int fd = mkstemp(rec.path);
    *state = NULL;
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    free(rec.held);
    return unlink(rec.path);
}

static const struct sched_config small = {.nodes_max = 1,
                                          .devices_max = 2,
                                          .functions_max = 128,
                                          .backbones_max = 2,
                                          .owners_max = 128,
                                          .workers_max = 40,
                                          .copies_max = 64,
                                          .requests_max = 256,
                                          .function_waiting_max = 256,
                                          .owner_live_max = 256,
                                          .domain_workers_max = 1,
                                          .worker_running_max = 4,
                                          .worker_slots_max = 4,
                                          .spawn_attempts_max = 2,
                                          .step_rows_max = 64,
                                          .turn_us = 20000,
                                          .plan_period_us = 1000000,
                                          .batch_window_us = 5000,
                                          .slo_ttft_us = 1000000,
                                          .slo_tpot_us = 50000,
                                          .kv_step_bytes = 64,
                                          .kv_worker_bytes_max = 1024};

static void begin_log(void)
{
    struct error err = {0};
    if (eventlog_open(&rec.log, rec.path, 1u << 30, &small, &err) < 0)
        fail_msg("%s", err.text);
    eventlog_event(rec.log, &(struct sched_event){.now_us = 5000000,
                                                  .type = SCHED_DEVICE,
                                                  .bytes = 2048u << 20,
                                                  .more_bytes = 4u << 20,
                                                  .us = 100});
}

static void put_event(uint64_t ms, struct sched_event e)
{
    e.now_us = 5000000 + ms * 1000;
    eventlog_event(rec.log, &e);
}

static void put_action(uint64_t ms, struct sched_action a)
{
    eventlog_plan(rec.log, 5000000 + ms * 1000, &a, 1);
}

static void put_function(uint32_t number, uint32_t owner)
{
    put_event(0, (struct sched_event){.type = SCHED_DEPLOYED,
                                      .function = number,
                                      .owner = owner,
                                      .isolation = ROUTE_OWNER,
                                      .bytes = 16u << 20});
}

/* One request of each end; the first waited for everything. */
static void write_small_log(void)
{
    begin_log();
    put_event(0, (struct sched_event){.type = SCHED_BACKBONE, .bytes = 1024u << 20});
    put_function(3, 7);
    put_function(4, 8);
    put_event(1000, (struct sched_event){.type = SCHED_REQUEST, .request = 41, .function = 3});
    put_action(1000, (struct sched_action){.type = SCHED_LOAD,
                                           .copy = 0,
                                           .host_copy = SCHED_NONE,
                                           .function = SCHED_NONE,
                                           .from = SCHED_NONE,
                                           .bytes = 1024u << 20});
    put_event(1000, (struct sched_event){.type = SCHED_REQUEST, .request = 42, .function = 4});
    put_event(1100, (struct sched_event){.type = SCHED_CLIENT_GONE, .request = 42});
    put_event(1500, (struct sched_event){.type = SCHED_COPY_LOADED, .copy = 0, .us = 500000});
    put_action(1500, (struct sched_action){.type = SCHED_SPAWN, .worker = 2, .bytes = 1u << 20});
    put_event(1600, (struct sched_event){.type = SCHED_WORKER_READY, .worker = 2});
    put_action(1600, (struct sched_action){.type = SCHED_BIND,
                                           .worker = 2,
                                           .function = 3,
                                           .copy = SCHED_NONE,
                                           .domain = route_domain_of(ROUTE_OWNER, 3, 7, 0)});
    put_action(1650, (struct sched_action){.type = SCHED_SUBMIT, .worker = 2, .request = 41});
    put_action(1650, (struct sched_action){.type = SCHED_GRANT, .worker = 2, .turn = 1});
    put_event(1800, (struct sched_event){.type = SCHED_TOKENS, .request = 41, .tokens = 1});
    put_event(2000, (struct sched_event){.type = SCHED_TURN_ENDED, .worker = 2});
    put_event(2000, (struct sched_event){.type = SCHED_DONE, .request = 41});
    put_action(2000, (struct sched_action){.type = SCHED_RECEIPT,
                                           .request = 41,
                                           .function = 3,
                                           .receipt = {.arrived_us = 6000000,
                                                       .load_us = 500250,
                                                       .start_us = 100125,
                                                       .bind_us = 30500,
                                                       .queue_us = 19125,
                                                       .first_us = 800000,
                                                       .total_us = 1000000,
                                                       .device_us = 345678,
                                                       .prompt_tokens = 77,
                                                       .cached_tokens = 11,
                                                       .new_tokens = 23,
                                                       .completed = 1}});
    put_event(2100, (struct sched_event){.type = SCHED_REQUEST, .request = 43, .function = 4});
    put_action(2200,
               (struct sched_action){
                   .type = SCHED_REFUSE, .request = 43, .function = 4, .reason = SCHED_TOO_LATE});
    put_event(2500, (struct sched_event){.type = SCHED_REQUEST, .request = 44, .function = 4});
    put_event(3000, (struct sched_event){.type = SCHED_WORKER_EXITED, .worker = 2});
    eventlog_close(rec.log);
}

/* --- drawings --- */

static struct picture_options all_of_it(void)
{
    struct picture_options o;
    picture_options_default(&o);
    return o;
}

/* The checked text of a picture of the log; what is wrong with it when there is none. */
static char *draw(bool is_page, struct picture_options o, struct error *err)
{
    struct markup out;
    markup_init(&out, 64u << 20);
    FILE *log = fopen(rec.path, "r");
    assert_non_null(log);
    int r = picture_make(log, "a <log>", is_page, &o, &out, err);
    fclose(log);
    char *text = NULL;
    if (r == 0) {
        text = strdup(out.text.data);
        assert_non_null(text);
    } else {
        assert_true(r == err->code && err->text[0] != '\0');
    }
    markup_free(&out);
    return text;
}

static char *draw_page(struct picture_options o)
{
    struct error err = {0};
    char *html = draw(true, o, &err);
    if (html == NULL)
        fail_msg("%s", err.text);
    page_check_html(html);
    assert_null(strstr(html, "nan "));
    assert_null(strstr(html, "inf "));
    return html;
}

static void expect(const char *html, const char *what)
{
    if (strstr(html, what) == NULL)
        fail_msg("the picture does not say \"%s\":\n%s", what, html);
}

static void test_receipts_numbers(void **state)
{
    (void)state;
    write_small_log();
    char *html = draw_page(all_of_it());
    expect(html,
           "request 41 of function 3, 1.000 s: load 500.2 ms, process 100.1 ms, bind 30.5 ms, "
           "queue 19.1 ms, first token 150.0 ms, the rest 200.0 ms, device 345.7 ms, 77 "
           "tokens in (11 cached), 23 out; completed");
    expect(html, "request 42 of function 4, 1.000 s: queue 100.0 ms, 0 tokens in (0 cached), 0 "
                 "out; its client left");
    expect(html, "out; refused: too_late");
    expect(html, "request 44 of function 4, 2.500 s: queue 500.0 ms, ");
    expect(html, "out; not over when the log ends");
    expect(html, "2 functions on 1 device: 4 requests, 1 completed");
    expect(html, "function 3, owner 7");
    expect(html, "TTFT 0.80 s");
    expect(html, "backbone 0, 0.50 s");
    expect(html, "<td>500.2</td><td>100.1</td><td>30.5</td><td>19.1</td><td>150.0</td>"
                 "<td>200.0</td><td>345.7</td><td>77</td><td>11</td><td>23</td>");
    free(html);
}

/* The drawing by itself is XML with its name space, else as in the page. */
static void test_alone(void **state)
{
    static const char space[] = " xmlns=\"http://www.w3.org/2000/svg\"";
    struct error err = {0};
    (void)state;
    write_small_log();
    char *svg = draw(false, all_of_it(), &err);
    assert_non_null(svg);
    assert_int_equal(strncmp(svg, "<svg ", 5), 0);
    assert_string_equal(svg + strlen(svg) - 7, "</svg>\n");
    char *at = strstr(svg, space);
    assert_non_null(at);
    memmove(at, at + strlen(space), strlen(at + strlen(space)) + 1);
    char *html;
    assert_true(asprintf(&html, "<!DOCTYPE html>\n%s", svg) > 0);
    page_check_html(html);
    free(html);
    free(svg);
}

static void test_window(void **state)
{
    struct picture_options o = all_of_it();
    struct error err = {0};
    (void)state;
    write_small_log();
    o.from_s = 2.05;
    o.to_s = 100; /* the log ends before */
    char *html = draw_page(o);
    expect(html, "2.05 to 3.00 s of a recorded run");
    expect(html, "1 function on 1 device: 2 requests, 0 completed");
    assert_null(strstr(html, "request 41 of"));
    free(html);
    o.from_s = 50;
    assert_null(draw(true, o, &err));
    assert_string_equal(err.text, "a <log> ends after 3.000 s: there is nothing from 50.000 s on");
    o.to_s = 40;
    assert_null(draw(true, o, &err));
    o.from_s = -1;
    assert_null(draw(true, o, &err));
}

/* --- worlds --- */

/* What every place of the picture's world holds, after each plan of the log. */
static void check_memory(void)
{
    struct picture p = {.is_counting = true};
    struct picture_log l;
    struct picture_world w;
    struct error err = {0};
    size_t plans = 0;
    FILE *f = fopen(rec.path, "r");
    assert_non_null(f);
    assert_int_equal(picture_log_begin(&l, f, "a world", &err), 0);
    p.counts = calloc(l.config.functions_max, sizeof *p.counts);
    assert_non_null(p.counts);
    assert_int_equal(picture_world_init(&w, &l, &p), 0);
    p.end_us = UINT64_MAX;
    while (picture_log_next(&l)) {
        picture_world_apply(&w);
        if (l.is_event || l.left > 0)
            continue;
        for (uint32_t i = 0; i < HELD_DEVICES; i++) {
            double sum = 0;
            for (uint32_t k = 0; k < PICTURE_MEMORIES; k++)
                sum += w.places[i].now.bytes[k];
            if (sum != (double)rec.held[plans][i])
                fail_msg("device %u after plan %zu: the picture has %.0f bytes, the core %llu", i,
                         plans, sum, (unsigned long long)rec.held[plans][i]);
        }
        plans++;
    }
    assert_string_equal(l.damage, "");
    assert_int_equal(plans, rec.plans);
    picture_world_free(&w);
    free(p.counts);
    fclose(f);
}

static void test_worlds(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        rec.plans = 0;
        world_run(seed, NULL, false);
        eventlog_close(rec.log);
        assert_true(rec.plans > 100);
        check_memory();
        char *html = draw_page(all_of_it());
        assert_null(strstr(html, "the log is whole"));
        assert_null(strstr(html, "out; not over when the log ends"));
        free(html);
    }
}

/* --- logs that are none, or not whole --- */

static uint8_t *read_log(size_t *ret_bytes)
{
    FILE *f = fopen(rec.path, "r");
    assert_non_null(f);
    uint8_t *bytes = malloc(1u << 20);
    assert_non_null(bytes);
    *ret_bytes = fread(bytes, 1, 1u << 20, f);
    fclose(f);
    return bytes;
}

static void write_log(const uint8_t *bytes, size_t count)
{
    FILE *f = fopen(rec.path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    fclose(f);
}

static void test_cut_anywhere(void **state)
{
    size_t bytes, pictures = 0;
    (void)state;
    write_small_log();
    uint8_t *log = read_log(&bytes);
    for (size_t cut = 0; cut < bytes; cut += 8) {
        struct error err = {0};
        write_log(log, cut);
        char *html = draw(true, all_of_it(), &err);
        if (html == NULL) {
            assert_int_equal(err.code, -EINVAL);
            continue;
        }
        page_check_html(html);
        pictures += strstr(html, "it ends in the middle of a record") != NULL;
        free(html);
    }
    assert_true(pictures > bytes / 8 / 2);
    free(log);
}

static void expect_damage(uint8_t *log, size_t bytes, size_t at, uint64_t value, const char *what)
{
    uint64_t before;
    memcpy(&before, log + at, sizeof before);
    memcpy(log + at, &value, sizeof value);
    write_log(log, bytes);
    memcpy(log + at, &before, sizeof before);
    char *html = draw_page(all_of_it());
    expect(html, what);
    free(html);
}

static void test_damage(void **state)
{
    const size_t second = sizeof(struct eventlog_header) + 8 + sizeof(struct sched_event);
    size_t bytes;
    (void)state;
    write_small_log();
    uint8_t *log = read_log(&bytes);
    expect_damage(log, bytes, second, 0,
                  "the log is whole: after 1 events and 0 plans there is a "
                  "record of no kind");
    expect_damage(log, bytes, second, EVENTLOG_PLAN | 300u << 8, "a record of no kind");
    expect_damage(log, bytes, second + 8, UINT64_MAX, "there is a time years away");
    expect_damage(log, bytes, second + 8 + offsetof(struct sched_event, type), 77,
                  "there is an event that is none");
    expect_damage(log, bytes, second + 8 + offsetof(struct sched_event, node), UINT64_MAX,
                  "2 functions");
    expect_damage(log, bytes, second, EVENTLOG_FULL, "The log was full before the run ended");
    free(log);
}

/* Names one beyond the limits, in an event and in an action. */
static void test_names_beyond_limits(void **state)
{
    const struct sched_event events[] = {
        {.type = SCHED_WORKER_READY, .worker = small.workers_max},
        {.type = SCHED_COPY_LOADED, .copy = small.copies_max},
        {.type = SCHED_REQUEST, .function = small.functions_max},
        {.type = SCHED_DEPLOYED, .isolation = 0},
        {.type = SCHED_NODE, .node = small.nodes_max},
    };
    const struct sched_action actions[] = {
        {.type = SCHED_SPAWN, .copy = small.copies_max},
        {.type = SCHED_GRANT, .device = small.devices_max},
        {.type = SCHED_BIND, .slot = small.worker_slots_max},
        {.type = SCHED_LOAD, .function = SCHED_NONE, .place = 3, .host_copy = SCHED_NONE},
        {.type = SCHED_LOAD, .function = 0, .backbone = 0, .host_copy = SCHED_NONE},
        {.type = SCHED_REFUSE, .reason = SCHED_REASON_COUNT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        begin_log();
        put_event(1, events[i]);
        eventlog_close(rec.log);
        char *html = draw_page(all_of_it());
        expect(html, "there is an event that is none");
        free(html);
    }
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        begin_log();
        put_action(1, actions[i]);
        eventlog_close(rec.log);
        char *html = draw_page(all_of_it());
        expect(html, "there is an action that is none");
        free(html);
    }
}

static void expect_refusal(const uint8_t *log, size_t bytes, const char *what)
{
    struct error err = {0};
    write_log(log, bytes);
    assert_null(draw(true, all_of_it(), &err));
    assert_int_equal(err.code, -EINVAL);
    if (strstr(err.text, what) == NULL)
        fail_msg("\"%s\" says nothing of \"%s\"", err.text, what);
}

static void test_no_log(void **state)
{
    size_t bytes;
    (void)state;
    write_small_log();
    uint8_t *log = read_log(&bytes);
    expect_refusal(log, 20, "is no event log");
    expect_refusal(log, sizeof(struct eventlog_header), "holds no event yet");
    struct eventlog_header *h = (void *)log;
    h->config.workers_max = 0;
    expect_refusal(log, bytes, "out of range");
    h->version++;
    expect_refusal(log, bytes, "another version");
    h->magic[0] = 'X';
    expect_refusal(log, bytes, "is no event log");
    free(log);
    int ends[2];
    struct error err = {0};
    struct markup out;
    struct picture_options o = all_of_it();
    markup_init(&out, 1u << 20);
    assert_int_equal(pipe(ends), 0);
    FILE *f = fdopen(ends[0], "r");
    assert_non_null(f);
    assert_true(picture_make(f, "a pipe", true, &o, &out, &err) < 0);
    assert_string_equal(err.text, "a pipe cannot be read twice: name a file");
    fclose(f);
    close(ends[1]);
}

/* --- limits --- */

static void put_refused(uint64_t ms, uint64_t id, uint32_t function)
{
    put_event(ms, (struct sched_event){.type = SCHED_REQUEST, .request = id, .function = function});
    put_action(ms + 900, (struct sched_action){.type = SCHED_REFUSE,
                                               .request = id,
                                               .function = function,
                                               .reason = SCHED_TOO_LATE});
}

static void test_many_functions(void **state)
{
    struct picture_options o = all_of_it();
    (void)state;
    begin_log();
    for (uint32_t i = 0; i < 100; i++)
        put_function(i, i);
    for (uint32_t i = 0; i < 100; i++)
        put_refused(10 * i, i + 1, i);
    put_refused(5000, 200, 70);
    put_refused(6000, 201, 60);
    eventlog_close(rec.log);
    o.functions_max = 2;
    char *html = draw_page(o);
    expect(html, "100 functions on 1 device: 102 requests, 0 completed");
    expect(html, "98 other functions");
    assert_int_equal(page_count(html, ", owner "), 2 * 2); /* in drawing and table */
    assert_true(strstr(html, "function 60, owner 60") < strstr(html, "function 70, owner 70"));
    free(html);
    o.functions_max = 1000;
    html = draw_page(o);
    expect(html, "36 other functions");
    free(html);
}

/* Ten times what a page can hold, all at once: it says what it leaves out. */
static void test_many_requests(void **state)
{
    (void)state;
    begin_log();
    put_function(1, 1);
    for (uint32_t i = 0; i < 40000; i++)
        put_refused(i, i + 1, 1);
    eventlog_close(rec.log);
    char *html = draw_page(all_of_it());
    expect(html, "40000 requests, 0 completed");
    size_t drawn = page_count(html, "<g><title>request ");
    assert_true(drawn > 100 && drawn <= PICTURE_REQUESTS_MAX);
    char note[96];
    snprintf(note, sizeof note, "Not drawn: %zu requests for which there was no room.",
             40000 - drawn);
    expect(html, note);
    free(html);
}

/* More than the core could know at a time is no log of one; what fits is drawn. */
static void test_requests_without_end(void **state)
{
    (void)state;
    begin_log();
    put_function(1, 1);
    for (uint32_t i = 0; i < 5000; i++)
        put_event(i, (struct sched_event){.type = SCHED_REQUEST, .request = i, .function = 1});
    eventlog_close(rec.log);
    char *html = draw_page(all_of_it());
    expect(html, "out; not over when the log ends");
    free(html);
}

/* --- files --- */

static size_t file_bytes(const char *path)
{
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return 0;
    fseek(f, 0, SEEK_END);
    size_t bytes = (size_t)ftell(f);
    fclose(f);
    return bytes;
}

static void test_files(void **state)
{
    struct picture_options o = all_of_it();
    struct error err = {0};
    char svg[128], html[128], missing[128];
    (void)state;
    write_small_log();
    snprintf(svg, sizeof svg, "%s.svg", rec.path);
    snprintf(html, sizeof html, "%s.html", rec.path);
    snprintf(missing, sizeof missing, "%s/none.svg", rec.path);
    assert_int_equal(picture_write(rec.path, svg, &o, &err), 0);
    assert_int_equal(picture_write(rec.path, html, &o, &err), 0);
    assert_true(file_bytes(html) > file_bytes(svg) && file_bytes(svg) > 1000);
    assert_int_equal(picture_write(rec.path, rec.path, &o, &err), -EINVAL);
    assert_int_equal(picture_write(rec.path, ".svg", &o, &err), -EINVAL);
    assert_int_equal(picture_write(rec.path, missing, &o, &err), -ENOTDIR);
    assert_int_equal(picture_write(missing, svg, &o, &err), -ENOTDIR);
    assert_int_equal(picture_write(svg, html, &o, &err), -EINVAL); /* a picture is no log */
    assert_true(file_bytes(html) > file_bytes(svg));               /* the old one is there yet */
    unlink(svg);
    unlink(html);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_receipts_numbers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_window, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_worlds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cut_anywhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_names_beyond_limits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_functions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_requests, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_requests_without_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_files, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
