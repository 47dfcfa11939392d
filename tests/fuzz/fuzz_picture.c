/*
 * Bytes as an event log's records: whatever they say happened, in whatever order, it is drawn or
 * refused with a sentence. Eight bytes are one record that names things within the limits or just
 * beyond them, so that mutations change what happens and not only where reading stops; the header
 * is ours, and the end of an input cuts the last record anywhere.
 */
#include "sim/picture.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/eventlog.h"

#define RECORDS_MAX 4096u
#define RECORD_BYTES 8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct sched_config config = {.nodes_max = 2,
                                           .devices_max = 2,
                                           .functions_max = 8,
                                           .backbones_max = 2,
                                           .owners_max = 4,
                                           .workers_max = 6,
                                           .copies_max = 8,
                                           .requests_max = 16,
                                           .function_waiting_max = 8,
                                           .owner_live_max = 12,
                                           .domain_workers_max = 1,
                                           .worker_running_max = 4,
                                           .worker_slots_max = 4,
                                           .spawn_attempts_max = 2,
                                           .step_rows_max = 64,
                                           .turn_us = 2000,
                                           .plan_period_us = 1000000,
                                           .batch_window_us = 5000,
                                           .slo_ttft_us = 1000000,
                                           .slo_tpot_us = 50000,
                                           .kv_step_bytes = 64,
                                           .kv_worker_bytes_max = 1024};

/* 15 is none. */
static uint32_t name_of(uint8_t nibble)
{
    return (nibble & 15) == 15 ? SCHED_NONE : nibble & 15;
}

/* byte 0: what; 1: milliseconds since the one before; 2 to 4: names, two a byte; 5: isolation, or a
 * reason; 6: bytes, in MiB, and the receipt's parts; 7: the request. */
static void put_event(FILE *f, const uint8_t *b, uint64_t now_us)
{
    const struct sched_event e = {.now_us = now_us,
                                  .request = b[7],
                                  .bytes = (uint64_t)b[6] << 20,
                                  .more_bytes = (uint64_t)b[5] << 10,
                                  .work_bytes = (uint64_t)b[5] << 12,
                                  .us = b[6] * UINT64_C(100),
                                  .type = b[0] & 31,
                                  .node = name_of(b[2]),
                                  .device = name_of(b[2]),
                                  .backbone = name_of(b[4] >> 4),
                                  .owner = name_of(b[2] >> 4),
                                  .function = name_of(b[3]),
                                  .worker = name_of(b[3] >> 4),
                                  .copy = name_of(b[4]),
                                  .isolation = b[5] & 3,
                                  .tokens = b[6]};
    const uint64_t word = EVENTLOG_EVENT | 1 << 8;
    fwrite(&word, sizeof word, 1, f);
    fwrite(&e, sizeof e, 1, f);
}

static void put_action(FILE *f, const uint8_t *b, uint64_t now_us)
{
    const struct sched_action a = {.request = b[7],
                                   .bytes = (uint64_t)b[6] << 20,
                                   .domain = {(uint64_t)(b[5] & 3) << 32 | (b[2] >> 4), 0},
                                   .type = b[0] & 31,
                                   .function = name_of(b[3]),
                                   .backbone = name_of(b[4] >> 4),
                                   .worker = name_of(b[3] >> 4),
                                   .device = name_of(b[2]),
                                   .place = name_of(b[2]),
                                   .slot = name_of(b[2] >> 4),
                                   .copy = name_of(b[4]),
                                   .host_copy = name_of(b[5] >> 4),
                                   .reason = b[5] & 15,
                                   .receipt = {.load_us = b[6] * UINT64_C(1000),
                                               .start_us = (b[6] ^ 0x55) * UINT64_C(100),
                                               .queue_us = b[5] * UINT64_C(1000),
                                               .first_us = b[4] * UINT64_C(4000),
                                               .total_us = b[2] * UINT64_C(8000),
                                               .device_us = UINT64_MAX,
                                               .completed = b[3] & 1}};
    const uint64_t words[] = {EVENTLOG_PLAN | 1 << 8, now_us};
    fwrite(words, sizeof words, 1, f);
    fwrite(&a, sizeof a, 1, f);
}

static FILE *make_log(const uint8_t *data, size_t size, char **ret_bytes, size_t *ret_count)
{
    struct eventlog_header h = {.version = EVENTLOG_VERSION,
                                .event_bytes = sizeof(struct sched_event),
                                .action_bytes = sizeof(struct sched_action),
                                .config_bytes = sizeof(struct sched_config),
                                .config = config};
    FILE *f = open_memstream(ret_bytes, ret_count);
    if (f == NULL)
        abort();
    memcpy(h.magic, EVENTLOG_MAGIC, sizeof h.magic);
    fwrite(&h, sizeof h, 1, f);
    uint64_t now_us = 1000000;
    for (uint32_t i = 0; i < RECORDS_MAX && size >= RECORD_BYTES; i++) {
        now_us += data[1] == 255 ? UINT64_C(1) << 40 : data[1] * UINT64_C(1000);
        (data[0] & 128 ? put_action : put_event)(f, data, now_us);
        data += RECORD_BYTES;
        size -= RECORD_BYTES;
    }
    fclose(f);
    *ret_count -= size * 20 < *ret_count ? size * 20 : 0; /* what is left over says how much */
    return *ret_count > 0 ? fmemopen(*ret_bytes, *ret_count, "r") : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *bytes = NULL;
    size_t count = 0;
    struct picture_options o;
    struct error err = {0};
    struct markup out;
    FILE *log = make_log(data, size, &bytes, &count);
    if (log == NULL)
        abort();
    picture_options_default(&o);
    o.functions_max = 1 + size % 5;
    if (size % 3 == 0)
        o.from_s = 0.25;
    if (size % 7 == 0)
        o.to_s = 0.75;
    markup_init(&out, 64u << 20);
    int r = picture_make(log, "log", size % 2 == 0, &o, &out, &err);
    assert(r == 0 || (err.text[0] != '\0' && r == err.code));
    if (r == 0) {
        assert(strstr(out.text.data, "</svg>\n") != NULL);
        assert(strstr(out.text.data, "nan") == strstr(out.text.data, "nant"));
    }
    markup_free(&out);
    fclose(log);
    free(bytes);
    return 0;
}
