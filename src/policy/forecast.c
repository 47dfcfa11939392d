/* See forecast.h. */
#include "policy/forecast.h"

#include "policy/maths.h"

#define TOTAL_MAX 1024u
#define LN2 0.6931471805599453
#define ERROR_WEIGHT 0.1
/* What is known of a function of which nothing is known: a request every minute, worth one
 * observation. Who has just deployed one tries it soon. */
#define PRIOR_RATE (1.0 / (60.0 * 1e6)) /* a microsecond */
#define PRIOR_WEIGHT 1.0

static uint64_t bin_begin_us(uint32_t bin)
{
    return bin == 0 ? 0 : (uint64_t)FORECAST_UNIT_US << bin;
}

static uint64_t bin_end_us(uint32_t bin)
{
    return (uint64_t)FORECAST_UNIT_US << (bin + 1);
}

static uint32_t bin_of(uint64_t us)
{
    uint64_t units = us / FORECAST_UNIT_US;
    uint32_t bin = units == 0 ? 0 : maths_log2(units);
    return bin < FORECAST_BINS ? bin : FORECAST_BINS - 1;
}

/* What is not seen yet is the prior's: its request thins out with age, so that of who is never
 * called about one is expected in as long as he has been there; its time is forgotten like other
 * time. */
static double rate_us(const struct forecast *f, uint64_t now_us)
{
    uint64_t since = now_us > f->last_us ? now_us - f->last_us : 0;
    double age = now_us > f->first_us ? (double)(now_us - f->first_us) : 0;
    double decay = LN2 / (double)FORECAST_HALF_US;
    double weight = f->weight * maths_exp_minus(decay * (double)since);
    double unseen = maths_exp_minus(decay * age), seen_us = (1 - unseen) / decay;
    return (weight + PRIOR_WEIGHT / (1 + age / (double)FORECAST_HALF_US)) /
           (seen_us + unseen * PRIOR_WEIGHT / PRIOR_RATE);
}

double forecast_rate(const struct forecast *f, uint64_t now_us)
{
    return rate_us(f, now_us) * 1e6;
}

static uint32_t in_bin(const struct forecast *f, uint32_t bin)
{
    return f->longer[bin] - f->longer[bin + 1];
}

/* The weight of times longer than idle_us: of those seen, and of the prior. */
static double longer(const struct forecast *f, double rate, double idle_us)
{
    uint32_t bin = bin_of(maths_us(idle_us));
    double begin = (double)bin_begin_us(bin), end = (double)bin_end_us(bin);
    double rest = maths_max(end - idle_us, 0) / (end - begin);
    return PRIOR_WEIGHT * maths_exp_minus(rate * idle_us) + f->longer[bin + 1] +
           in_bin(f, bin) * rest;
}

static double idle_since(const struct forecast *f, uint64_t now_us)
{
    return now_us > f->last_us ? (double)(now_us - f->last_us) : 0;
}

struct forecast_outlook forecast_look(const struct forecast *f, uint64_t now_us)
{
    struct forecast_outlook o = {
        .f = f, .rate = rate_us(f, now_us), .idle_us = idle_since(f, now_us)};
    o.weight = longer(f, o.rate, o.idle_us);
    return o;
}

double forecast_none(const struct forecast_outlook *o, uint64_t within_us)
{
    if (!(o->weight > 0))
        return maths_exp_minus(o->rate * (double)within_us);
    return longer(o->f, o->rate, o->idle_us + (double)within_us) / o->weight;
}

double forecast_none_within(const struct forecast *f, uint64_t now_us, uint64_t within_us)
{
    struct forecast_outlook o = forecast_look(f, now_us);
    return forecast_none(&o, within_us);
}

/* The time that half of those seen are shorter than. */
static double median_us(const struct forecast *f)
{
    double left = f->longer[0] / 2.0;
    uint32_t b = 0;
    while (b + 1 < FORECAST_BINS && left > in_bin(f, b))
        left -= in_bin(f, b++);
    double begin = (double)bin_begin_us(b), end = (double)bin_end_us(b);
    return in_bin(f, b) > 0 ? begin + (end - begin) * left / in_bin(f, b) : begin;
}

/* log2 of how many times larger the larger is, in steps of a sixteenth. */
static double octaves_apart(double a, double b)
{
    double ratio = a > b ? a / b : b / a, octaves = 0;
    for (; ratio >= 2; ratio /= 2)
        octaves++;
    return octaves + (ratio - 1);
}

static void learn(struct forecast *f, uint64_t idle_us)
{
    if (f->longer[0] > 0) {
        double median = median_us(f);
        double off = octaves_apart(maths_max((double)idle_us, FORECAST_UNIT_US),
                                   maths_max(median, FORECAST_UNIT_US));
        f->error = f->longer[0] == 1 ? off : f->error + ERROR_WEIGHT * (off - f->error);
    }
    for (uint32_t b = 0, bin = bin_of(idle_us); b <= bin; b++)
        f->longer[b]++;
    if (f->longer[0] < TOTAL_MAX)
        return;
    for (uint32_t b = 0; b < FORECAST_BINS; b++)
        f->longer[b] /= 2;
}

void forecast_begin(struct forecast *f, uint64_t now_us)
{
    *f = (struct forecast){.first_us = now_us, .last_us = now_us};
}

void forecast_arrival(struct forecast *f, uint64_t now_us)
{
    uint64_t idle_us = now_us > f->last_us ? now_us - f->last_us : 0;
    if (f->arrivals > 0)
        learn(f, idle_us);
    f->weight = f->weight * maths_exp_minus(LN2 / (double)FORECAST_HALF_US * (double)idle_us) + 1;
    f->arrivals++;
    f->last_us = now_us > f->last_us ? now_us : f->last_us;
}

double forecast_error(const struct forecast *f)
{
    if (f->longer[0] < 2)
        return 0;
    double octaves = f->error, factor = 1;
    for (; octaves >= 1; octaves--)
        factor *= 2;
    return factor * (1 + octaves); /* the inverse of octaves_apart */
}
