/* See cost.h. */
#include "policy/cost.h"

#include "policy/maths.h"

#include <stdbool.h>

/* What one turn is off for reasons that are not in the model, as a part of its time. */
#define NOISE 0.1
/* What a cost may change from a turn to the next, as a part of it, or of what it would be if SHARE
 * of the turn were its: one that was told to be next to nothing is learned again. */
#define DRIFT 0.003
#define SHARE 0.1
/* How much a cost is in doubt at most, as a part of it: a seed may be wrong by its whole size, and
 * so may what no turn has shown for long. */
#define DOUBT 1.0
#define MEAN_WEIGHT 0.25
#define ERROR_WEIGHT 0.05
/* No turn takes a cost below this part of what it was: turns all alike may give it to another. */
#define LEAST 0.5

static void clear_covariance(struct cost_fit *f, const double c[3])
{
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            f->p[i][j] = i == j ? DOUBT * DOUBT * c[i] * c[i] : 0;
}

void cost_fit_seed(struct cost_fit *f, const struct cost_step *seed)
{
    *f = (struct cost_fit){.c = *seed};
    clear_covariance(f, (const double[3]){seed->step_us, seed->prompt_us, seed->decode_us});
}

double cost_turn_us(const struct cost_step *c, double steps, double prompt_rows, double decode_rows)
{
    return c->step_us * steps + c->prompt_us * prompt_rows + c->decode_us * decode_rows;
}

/* P += drift of each cost since the turn before */
static void drift(struct cost_fit *f, const double x[3], const double c[3])
{
    for (int i = 0; i < 3; i++) {
        double by = DRIFT * (x[i] > 0 ? maths_max(c[i], SHARE / x[i]) : c[i]);
        f->p[i][i] += by * by;
    }
}

/* gain = P x / (noise + x' P x); c += gain (1 - x c); P -= gain x' P */
static void update(struct cost_fit *f, const double x[3], double c[3])
{
    double px[3], denominator = NOISE * NOISE, predicted = 0;
    for (int i = 0; i < 3; i++) {
        px[i] = f->p[i][0] * x[0] + f->p[i][1] * x[1] + f->p[i][2] * x[2];
        denominator += x[i] * px[i];
        predicted += x[i] * c[i];
    }
    for (int i = 0; i < 3; i++) {
        double gain = px[i] / denominator;
        c[i] += gain * (1 - predicted);
        for (int j = 0; j < 3; j++)
            f->p[i][j] -= gain * px[j];
    }
}

/* D P D with a diagonal D keeps what is known of sums of costs: clipping P alone would not. */
static void limit_doubt(struct cost_fit *f, const double c[3])
{
    for (int i = 0; i < 3; i++) {
        double most = DOUBT * DOUBT * c[i] * c[i];
        if (!(f->p[i][i] > 0)) { /* rounding: begin anew */
            clear_covariance(f, c);
            return;
        }
        if (f->p[i][i] <= most)
            continue;
        double by = maths_sqrt(most / f->p[i][i]);
        for (int j = 0; j < 3; j++) {
            f->p[i][j] *= by;
            f->p[j][i] *= by;
        }
    }
}

void cost_fit_add(struct cost_fit *f, const struct cost_turn *t)
{
    if (t->us == 0 || t->steps == 0)
        return;
    double us = (double)t->us;
    const double before[3] = {f->c.step_us, f->c.prompt_us, f->c.decode_us};
    double c[3] = {before[0], before[1], before[2]};
    const double x[3] = {t->steps / us, t->prompt_rows / us, t->decode_rows / us};
    double error = cost_turn_us(&f->c, t->steps, t->prompt_rows, t->decode_rows) / us - 1;
    f->error += ERROR_WEIGHT * ((error < 0 ? -error : error) - f->error);
    drift(f, x, c);
    update(f, x, c);
    for (int i = 0; i < 3; i++)
        c[i] = maths_max(c[i], LEAST * before[i]);
    limit_doubt(f, c);
    f->c = (struct cost_step){c[0], c[1], c[2]};
    f->samples++;
}

struct cost_batch cost_batch_of(const struct cost_step *c, double prompt_tokens, uint32_t chunk)
{
    double steps = prompt_tokens / chunk;
    double rows_us = c->prompt_us * prompt_tokens;
    return (struct cost_batch){.t0_us = c->step_us * maths_max(steps, 1) + rows_us,
                               .alpha_us = c->step_us * steps + rows_us};
}

double cost_batch_us(const struct cost_batch *b, double count)
{
    return b->t0_us + b->alpha_us * (count - 1);
}

void cost_mean_seed(struct cost_mean *m, double value)
{
    *m = (struct cost_mean){.value = value};
}

void cost_mean_add(struct cost_mean *m, double sample)
{
    m->value = m->samples == 0 ? sample : m->value + MEAN_WEIGHT * (sample - m->value);
    m->samples++;
}

void cost_mean_add_time(struct cost_mean *m, double us)
{
    bool is_outlier = m->samples > 0 && us > COST_OUTLIER * m->value;
    cost_mean_add(m, is_outlier ? COST_OUTLIER * m->value : us);
}
