/*
 * Receipts and idle memory, priced and into the ledger. A request's answer ends after its receipt
 * is on disk (serve.c): who was answered was billed, also when the daemon is killed in between.
 */
#include "daemon/daemon.h"

#include "base/clock.h"
#include "base/log.h"
#include "store/prices.h"

#include <assert.h>
#include <stdio.h>
#include <unistd.h>

#define NANO_USD 1e9

static uint32_t processors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

int bills_open(struct daemon *d, struct error *err)
{
    char path[4200];
    uint32_t threads = d->config.worker_threads;
    d->prices = price_table_default(PRICE_CPU, threads > 0 ? threads : processors());
    if (d->config.prices != NULL) {
        int r = prices_read(d->config.prices, &d->prices, err);
        if (r < 0)
            return r;
    }
    snprintf(path, sizeof path, "%s/" LEDGER_FILE, d->config.data_dir);
    return ledger_open(&d->ledger, path, clock_wall_us(), err);
}

static struct ledger_function who(const struct function_entry *f)
{
    struct ledger_function w = {.generation = f->f.generation,
                                .has_adapter = f->f.has_adapter,
                                .backbone = f->f.backbone,
                                .adapter = f->f.adapter};
    snprintf(w.name, sizeof w.name, "%s", f->f.name);
    snprintf(w.owner, sizeof w.owner, "%s", f->f.owner);
    return w;
}

/* A ledger that cannot be written keeps its rows. Requests are refused before it is full of them
 * (calls.c), so only years of idle memory could be lost, and that is said. */
static void check_added(struct daemon *d, int r)
{
    if (r < 0 && !d->ledger_full)
        log_error("bills",
                  "the ledger holds no more rows that are not on disk: what ends now is not "
                  "billed");
    d->ledger_full = r < 0;
}

void bills_receipt(struct daemon *d, const struct sched_action *a)
{
    struct function_entry *f = &d->functions[a->function];
    const struct sched_receipt *u = &a->receipt;
    struct price_usage usage = {.own_byte_s = u->own_byte_s,
                                .backbone_byte_s = u->backbone_byte_s,
                                .device_us = u->device_us,
                                .prompt_tokens = u->prompt_tokens,
                                .cached_tokens = u->cached_tokens,
                                .new_tokens = u->new_tokens,
                                .completed = u->completed != 0};
    struct ledger_receipt r = {.function = who(f),
                               .request = a->request,
                               .wall_us = clock_wall_us(),
                               .used = *u,
                               .price = price_receipt(&d->prices, &usage)};
    uint64_t nano_usd = price_total(&r.price);
    f->cost_nano_usd += nano_usd;
    f->byte_s += u->own_byte_s + u->backbone_byte_s;
    d->totals.receipts++;
    d->totals.cost_nano_usd += nano_usd;
    d->totals.receipts_byte_s += u->own_byte_s + u->backbone_byte_s;
    journal_put(d->journal, f->f.name, f->f.generation,
                "request=%llx %s ms=%.1f first_ms=%.1f load=%.1f start=%.1f bind=%.1f queue=%.1f "
                "prompt=%u new=%u device_ms=%.1f usd=%.9f",
                (unsigned long long)a->request,
                u->completed ? "done" : sched_reason_name(a->reason), (double)u->total_us / 1e3,
                (double)u->first_us / 1e3, (double)u->load_us / 1e3, (double)u->start_us / 1e3,
                (double)u->bind_us / 1e3, (double)u->queue_us / 1e3, u->prompt_tokens,
                u->new_tokens, (double)u->device_us / 1e3, (double)nano_usd / NANO_USD);
    check_added(d, ledger_add_receipt(d->ledger, &r));
}

void bills_idle(struct daemon *d, const struct sched_action *a)
{
    struct function_entry *f = &d->functions[a->function];
    struct ledger_idle i = {.function = who(f),
                            .from_us = f->idle_from_us,
                            .to_us = clock_wall_us(),
                            .byte_s = a->byte_s,
                            .price = price_idle(&d->prices, a->byte_s)};
    /* A wall clock that was set back ends no period before it began. */
    i.from_us = i.from_us < i.to_us ? i.from_us : i.to_us;
    f->idle_from_us = i.to_us;
    f->cost_nano_usd += price_total(&i.price);
    f->byte_s += a->byte_s;
    d->totals.cost_nano_usd += price_total(&i.price);
    d->totals.idle_byte_s += a->byte_s;
    check_added(d, ledger_add_idle(d->ledger, &i));
}

void bills_commit(struct daemon *d)
{
    struct sched_device_view v;
    struct error err = {0};
    sched_device_view(d->sched, clock_now_us(), 0, &v);
    struct ledger_totals t = {.wall_us = clock_wall_us(),
                              .device_us = v.device_us,
                              .byte_s = v.byte_s,
                              .platform_byte_s = v.platform_byte_s};
    ledger_set_totals(d->ledger, &t);
    int r = ledger_commit(d->ledger, &err);
    if (r < 0 && !d->ledger_failed)
        log_error("bills", "%s; receipts wait in memory until it can be written", err.text);
    if (r == 0 && d->ledger_failed)
        log_info("bills", "the ledger is written again");
    d->ledger_failed = r < 0;
    d->committed_us = clock_now_us();
}

void bills_close(struct daemon *d)
{
    if (d->ledger == NULL)
        return;
    if (ledger_waiting(d->ledger) > 0) /* once more */
        bills_commit(d);
    ledger_close(d->ledger);
    d->ledger = NULL;
}
