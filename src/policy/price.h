/*
 * What use costs. Usage times a table of unit prices, item by item, each rounded once to whole
 * nanodollars (1e-9 USD): a bill is a sum of integers, so it adds up whatever the order.
 *
 * The defaults are those of the paper's provider, Alibaba Cloud Function Compute, which turns all
 * usage into compute units (CU) by factors and sells these (its help pages "Pay-as-you-go" and
 * "Billing overview", as of January 2025; first tier, without the discount of that year):
 *
 *   USD = CU * 0.000020     CU = usage * factor
 *
 * Its disk (0.05 CU per GB s) has no counterpart here: images are the operator's. It bills no
 * tokens, so their defaults are 0. Its vCPUs cost nothing while idle, its memory the same as ever.
 *
 * A request whose worker was lost was not answered and costs nothing; what it used stays known.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PRICE_GB_BYTES 1073741824.0 /* the provider counts 1024 MB as a GB */
#define PRICE_CU_USD 0.000020
#define PRICE_VCPU_S_CU 1.0
#define PRICE_MEMORY_GB_S_CU 0.15
/* Its Ada series, as in the paper's evaluation (L40S); the Tesla series has 2.1 and 0.5. */
#define PRICE_GPU_ACTIVE_GB_S_CU 1.5
#define PRICE_GPU_IDLE_GB_S_CU 0.25
#define PRICE_REQUEST_CU (75.0 / 10000)

/* USD per unit, each from 0 to PRICE_UNIT_USD_MAX. */
#define PRICE_UNIT_USD_MAX 1000.0
struct price_table {
    double gb_s_active_usd; /* device memory held while a request runs, GB second */
    double gb_s_idle_usd;   /* device memory kept between requests, GB second */
    double device_s_usd;    /* second of computing */
    double request_usd;
    double prompt_1k_usd; /* 1000 prompt tokens that were computed, */
    double cached_1k_usd; /* that were found in a cache, */
    double new_1k_usd;    /* and generated ones */
};

enum price_device {
    PRICE_CPU, /* memory PRICE_MEMORY_GB_S_CU, active or idle */
    PRICE_GPU, /* memory PRICE_GPU_ACTIVE_GB_S_CU, PRICE_GPU_IDLE_GB_S_CU: its cores are in that */
};

/* vcpus: processors that compute during a second of device time; of a GPU, those that drive it. */
struct price_table price_table_default(enum price_device device, uint32_t vcpus);

/* What one request used. */
struct price_usage {
    double own_byte_s;
    double backbone_byte_s;
    uint64_t device_us;
    uint32_t prompt_tokens; /* with those found in a cache */
    uint32_t cached_tokens;
    uint32_t new_tokens;
    bool completed;
};

/* Nanodollars. One item is at most PRICE_ITEM_MAX, so that a sum of thousands of the largest is
 * still a number. */
#define PRICE_ITEM_MAX UINT64_C(1000000000000000)
struct price_items {
    uint64_t own;
    uint64_t backbone;
    uint64_t idle;
    uint64_t device;
    uint64_t request;
    uint64_t prompt;
    uint64_t cached;
    uint64_t generated;
};

struct price_items price_receipt(const struct price_table *t, const struct price_usage *u);
/* Of memory that was kept for a function while it did not run. */
struct price_items price_idle(const struct price_table *t, double byte_s);
uint64_t price_total(const struct price_items *p);
